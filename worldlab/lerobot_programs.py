"""LeRobot's own programs, run on what worldlab exports, and held against worldlab's own result."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from worldlab import datasets, envs, policies
from worldlab import eval as evaluation
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.errors import UsageError
from worldlab.policies.lerobot_policy import export_policy
from worldlab.runs import Json, to_json


@dataclass(frozen=True)
class LeRobotCheck:
    """What LeRobot's programs made of an exported policy."""

    commands: tuple[str, ...]
    """As run; all of them ended with status 0."""
    lerobot_successes: tuple[bool, ...]
    """Of `lerobot-eval`, by seed."""
    worldlab_successes: tuple[bool, ...]
    """Of the same policy on the same seeds, in worldlab."""
    seed: int
    """Of the first episode."""
    rollout_seconds: float
    """Duration of `lerobot-rollout` on the simulated arm, in LeRobot's own control loop."""
    episodes: int
    """Of the dataset that was exported beside."""
    frames: int
    """Likewise."""

    @property
    def agreeing(self) -> int:
        """Seeds on which both programs say the same."""
        return sum(a == b for a, b in zip(self.lerobot_successes, self.worldlab_successes, strict=True))

    def to_json(self) -> dict[str, Json]:
        """Everything, flat."""
        values = to_json(asdict(self))
        assert isinstance(values, dict)
        return values | {"agreeing": self.agreeing, "n": len(self.lerobot_successes)}


def program(name: str, *arguments: str) -> str:
    """Run one of LeRobot's programs offline; returns its command line.

    Raises:
        UsageError: it failed; the message holds the end of what it printed.
    """
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    quiet = {"HF_HUB_OFFLINE": "1", "SVT_LOG": "0", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet)  # noqa: S603
    if done.returncode != 0:
        raise UsageError(f"{name} failed with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return " ".join([name, *arguments])


def check(
    run: Path, data: Path, out: Path, env_id: str, seed: int, episodes: int = 10, seconds: float = 5.0
) -> LeRobotCheck:
    """Export a run and part of a store, and let LeRobot's programs use them.

    Args:
        run: of a policy for the SO-101.
        data: a store; its first `episodes` episodes are exported.
        out: a new folder for the exported policy, the dataset and LeRobot's results.
        env_id: whose task is evaluated.
        seed: of the first episode.
        episodes: how many are evaluated and exported.
        seconds: of `lerobot-rollout` on the simulated arm.
    """
    policy = policies.load_vla(run)
    export_policy(policy, out / "policy")
    store = datasets.EpisodeStore(data)
    export_dataset(store, out / "dataset", episodes=range(episodes))
    task, env = env_id.removeprefix("worldlab/"), envs.make(env_id, n=episodes)
    ours = evaluation.success(policy, env, episodes, seed)
    commands = (
        program(
            "lerobot-eval",
            f"--policy.path={out / 'policy'}",
            "--env.type=worldlab",
            f"--env.task={task}",
            f"--eval.n_episodes={episodes}",
            f"--eval.batch_size={episodes}",
            "--eval.use_async_envs=false",
            f"--seed={seed}",
            f"--output_dir={out / 'eval'}",
        ),
        program(
            "lerobot-rollout",
            f"--policy.path={out / 'policy'}",
            f"--policy.seed={seed}",
            "--robot.type=worldlab_so101",
            "--robot.ideal=true",
            "--robot.realtime=false",
            f"--robot.fps={env.contract.fps}",
            f"--robot.task={task}",
            f"--robot.seed={seed}",
            f"--task={ours.episodes[0].task}",
            f"--fps={env.contract.fps}",
            f"--duration={seconds:g}",
            "--play_sounds=false",
            "--return_to_initial_position=false",
        ),
    )
    info = json.loads((out / "eval" / "eval_info.json").read_text(encoding="utf-8"))
    theirs = [bool(s) for task in info["per_task"] for s in task["metrics"]["successes"]]
    return LeRobotCheck(
        commands=commands,
        lerobot_successes=tuple(theirs[:episodes]),
        worldlab_successes=tuple(e.success for e in ours.episodes),
        seed=seed,
        rollout_seconds=seconds,
        episodes=episodes,
        frames=int(sum(store.lengths[:episodes] - 1)),
    )
