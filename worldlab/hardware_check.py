"""Before hardware: an exported policy drives the simulated SO-101 through LeRobot's own classes, and is judged."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from worldlab import envs, policies, so101
from worldlab.datasets.lerobot_format import RECORDED
from worldlab.errors import UsageError
from worldlab.eval.charts import Curve
from worldlab.eval.hardware import Drive, Finding, Limits, judge, so101_limits, speed_share
from worldlab.eval.report import Curves, Fact, Section, Table, Title, Video, VideoStrip, write_report
from worldlab.eval.success import Specified
from worldlab.eval.video import encode
from worldlab.policies import lerobot_policy
from worldlab.protocols import Policy
from worldlab.runs import Json, Run, provenance, to_json, write_atomically
from worldlab.trajectory import Observation

if TYPE_CHECKING:
    from lerobot.robots import Robot

type Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class HardwareCheck:
    """What came of driving the simulated arm."""

    env: str
    """Whose scenes."""
    seed: int
    """Of the first of them."""
    drives: tuple[Drive, ...]
    """One for each episode."""
    frames: tuple[Frames, ...]
    """What the first camera saw, (t, h, w, 3), for each episode."""
    limits: Limits
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the real arm."""
        return all(finding.passed for finding in self.findings)

    @property
    def verdict(self) -> str:
        """In two words or three."""
        return "fit for the arm" if self.passed else "NOT fit for the arm"

    @property
    def objection(self) -> str:
        """What speaks against the real arm, in one sentence."""
        return "; ".join(finding.sentence for finding in self.findings if not finding.passed)

    def to_json(self) -> dict[str, Json]:
        """Everything but the recordings, flat."""
        return {
            "passed": self.passed,
            "findings": [to_json(asdict(finding)) for finding in self.findings],
            "limits": to_json(asdict(self.limits)),
            "env": self.env,
            "seed": self.seed,
            "episodes": len(self.drives),
            "steps": sum(len(drive.target) for drive in self.drives),
        }


def check_directory(
    path: Path, env_id: str, *, episodes: int = 3, seconds: float = 6.0, seed: int = 0
) -> HardwareCheck:
    """Let a LeRobot policy drive the simulated arm on the CPU, and judge what it asks for.

    It is asked as often as its data were recorded, where it says so (worldlab's do), else at the environment's rate.
    The arm waits for the policy, so that what it does depends on the seed alone; how long each call takes is measured
    and judged apart.

    Args:
        path: any LeRobot policy for the SO-101, such as `worldlab export policy` writes.
        env_id: whose scenes and instructions, for example worldlab/Reach-v0.
        episodes: scene i is that of `seed + i`.
        seconds: of each episode.
        seed: of the first.

    Raises:
        UsageError: there is no such policy or environment, or the cameras do not fit.
    """
    from lerobot.robots import RobotConfig, make_robot_from_config

    env = envs.make(env_id, n=episodes)
    _, info = env.reset(seed=seed)
    tasks = info["task"]
    assert isinstance(tasks, Sequence)
    env.close()
    policy = lerobot_policy.load(path)
    fps = policy.spec.fps if isinstance(policy, Specified) else env.contract.fps
    twin = RobotConfig.get_choice_class("worldlab_so101")
    drives: list[Drive] = []
    frames: list[Frames] = []
    for i, task in enumerate(tasks):
        config = twin(task=env_id.removeprefix("worldlab/"), seed=seed + i, realtime=False, fps=fps)
        for name in policy.cameras.keys() & config.cameras.keys():
            height, width = policy.cameras[name]
            config.cameras[name] = replace(config.cameras[name], height=height, width=width)
        robot = make_robot_from_config(config)
        robot.connect()
        done, seen = drive(policy, robot, str(task), seed + i, round(seconds * fps), policy.n_action_steps)
        robot.disconnect()
        drives.append(done)
        frames.append(seen)
    limits = so101_limits(fps)
    return HardwareCheck(env_id, seed, tuple(drives), tuple(frames), limits, judge(drives, limits))


def drive(policy: Policy, robot: "Robot", task: str, seed: int, steps: int, calls: int = 1) -> tuple[Drive, Frames]:
    """Let a policy drive an arm for one episode; a target that is no number ends it before the arm is told.

    Args:
        policy: asked for a chunk whenever the last one is used up.
        robot: connected.
        task: the instruction.
        seed: of the policy's noise.
        steps: control steps.
        calls: the policy plans at every so many calls, and in between returns what it planned.
    """
    seen = robot.get_observation()
    start, camera = _positions(seen), next(name for name, value in seen.items() if isinstance(value, np.ndarray))
    policy.reset([seed])
    policy.act(_observation(seen, task))  # whatever happens at the first call alone is no part of the measurement
    policy.reset([seed])
    targets: list[torch.Tensor] = []
    begins: list[bool] = []
    seconds: list[float] = []
    frames: list[NDArray[np.uint8]] = []
    asked, sound = 0, True
    while sound and len(targets) < steps:
        began = time.perf_counter()
        chunk = so101.to_lerobot(policy.act(_observation(seen, task))[0].double())
        took = time.perf_counter() - began
        for k, target in enumerate(chunk[: steps - len(targets)]):
            targets.append(target)
            begins.append(k == 0 and asked % calls == 0)
            seconds.append(took if k == 0 else 0.0)
            frames.append(np.asarray(seen[camera]))
            sound = bool(target.isfinite().all())
            if not sound:
                break
            robot.send_action(dict(zip(so101.NAMES, target.tolist(), strict=True)))
            seen = robot.get_observation()
        asked += 1
    recorded = Drive(start, torch.stack(targets), torch.tensor(begins), torch.tensor(seconds, dtype=torch.float64))
    return recorded, np.stack(frames)


def _positions(seen: "dict[str, object]") -> torch.Tensor:
    return torch.tensor([float(str(seen[name])) for name in so101.NAMES], dtype=torch.float64)


def _observation(seen: "dict[str, object]", task: str) -> Observation:
    """What LeRobot's robot shows, as worldlab's observation of one episode."""
    images = {name: torch.tensor(image)[None] for name, image in seen.items() if isinstance(image, np.ndarray)}
    return Observation(images, so101.from_lerobot(_positions(seen)).float()[None], (task,))


def write_files(check: HardwareCheck, name: str, stem: Path) -> Path:
    """Write the report as `stem`.html, for people, and `stem`.json, for programs.

    Returns:
        The path of the page.
    """
    about = provenance(check.seed)
    values = {"policy": name, **check.to_json(), "provenance": about}
    write_atomically(stem.with_name(f"{stem.name}.json"), json.dumps(values, indent=1))
    return write_report(_sections(check, name, about), stem.with_name(f"{stem.name}.html"))


def _sections(check: HardwareCheck, name: str, about: dict[str, Json]) -> Sequence[Section]:
    command = str(about["command"])
    failed = [finding for finding in check.findings if not finding.passed]
    verdict = "Nothing speaks against the real arm." if check.passed else "Do not run this on the real arm."
    steps = sum(len(d.target) for d in check.drives)
    rows = tuple(
        ("passed" if f.passed else "FAILED", f.check, f.amount, f"{f.limit:.3g}", f.where) for f in check.findings
    )
    lead = (
        f"{name} drove the simulated SO-101 in {len(check.drives)} scenes of {check.env} through LeRobot's own robot "
        f"and policy classes. {verdict} The simulated arm shows what a policy asks for; it cannot show what the real "
        "cameras will show the policy."
    )
    facts = (
        Fact("pass" if check.passed else "fail", "verdict", f"{len(failed)} of {len(check.findings)} checks failed"),
        *(Fact(f.amount, f.check, f"allowed {f.limit:.3g}; {f.where}") for f in check.findings[2:5]),
    )
    return (
        Title("Hardware check", lead, facts, about),
        Table(
            "What was looked at",
            ("", "check", "worst seen", "allowed", "where"),
            rows,
            command,
            f"n = {steps} actions of {len(check.drives)} episodes, seeds {check.seed} to "
            f"{check.seed + len(check.drives) - 1}. Times are of this machine's CPU; measure again on the robot's.",
        ),
        *_recorded(check, command),
    )


def _recorded(check: HardwareCheck, command: str) -> Sequence[Section]:
    """How the targets moved, and what was to be seen."""
    first = check.drives[0].finite
    share = speed_share(first, check.limits)
    at = tuple(t / check.limits.fps for t in range(len(share)))
    curves = tuple(
        Curve(joint.removesuffix(".pos"), at, tuple(share[:, j].tolist()), 1)
        for j, joint in enumerate(check.limits.joints)
    )
    videos = tuple(
        Video(f"seed {check.seed + i}", encode(frames.repeat(4, 1).repeat(4, 2), check.limits.fps))
        for i, frames in enumerate(check.frames)
    )
    speeds = Curves(
        "How fast the targets move in the first episode",
        curves,
        "seconds",
        "share of the servo's top speed",
        command,
        note=f"The servo turns {check.limits.speed[0]:.0f} degrees a second without a load.",
    )
    watched = VideoStrip("What the arm did", videos, command)
    return (speeds, watched) if len(share) else (watched,)


def export_checked(
    run: Path, out: Path, *, env: str | None = None, force: bool = False, seed: int = 0
) -> tuple[HardwareCheck, Path]:
    """Export a run's policy if the simulated arm shows nothing against it; the report is written in any case.

    Args:
        run: of a policy for the SO-101.
        out: a new or empty directory. The report is beside it, `out`-hardware.html and .json.
        env: whose scenes it is checked in; None are those that it was trained in.
        force: export a policy that is refused all the same.
        seed: of the first scene.

    Returns:
        What was found, and the page that says it.

    Raises:
        UsageError: the policy is refused, or cannot be exported.
    """
    scene = Run.open(run).config.get("env") if env is None else env
    if not isinstance(scene, str) or scene.startswith(RECORDED):
        raise UsageError(
            f"'{run}' was not trained in simulation; name a scene to check it in, --env worldlab/Reach-v0."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        lerobot_policy.check_out(out)
        trial = lerobot_policy.export_policy(policies.load_vla(run), Path(folder) / "policy")
        check = check_directory(trial, scene, seed=seed)
        page = write_files(check, str(run), out.with_name(f"{out.name}-hardware"))
        if not check.passed and not force:
            raise UsageError(f"not exported, unfit for the arm: {check.objection}. See {page}; --force exports it.")
        trial.rename(out)
    return check, page
