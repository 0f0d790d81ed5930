"""The main job, end to end: demonstrations, two policies, a world model, counterfactuals, LeRobot, and one report."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from worldlab import datasets, dynamics, envs, lerobot_programs, workbench
from worldlab import eval as evaluation
from worldlab.demo_report import Findings, write
from worldlab.eval.counterfactual import CounterfactualResult
from worldlab.runs import Run, provenance, write_atomically
from worldlab.training import Device
from worldlab.trajectory import Trajectory
from worldlab.workbench import Outcome

REACH, PUSH = "worldlab/Reach-v0", "worldlab/Push-v0"
EPISODES = 100
"""Of every success rate."""


class _Stages:
    """Says what is going on, and how long it took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.console = Console(stderr=True)

    @contextmanager
    def stage(self, title: str) -> Generator[None]:
        self.console.rule(f"[bold]{len(self.seconds) + 1}. {title}")
        start = time.monotonic()
        yield
        self.seconds[title] = round(time.monotonic() - start, 1)
        self.console.print(f"{title}: {self.seconds[title]:.0f} s")


def demo(out: Path, minutes: float = 1.0, seed: int = 0, device: Device = "auto") -> Outcome:
    """Run the main job.

    Args:
        out: a new or empty folder for everything it makes.
        minutes: scales every training budget.
        seed: of data, training and evaluation.
        device: where networks run.
    """
    Run.create(out, {"kind": "demo", "minutes": minutes, "provenance": provenance(seed)})
    found = Findings(provenance(seed))
    stages = _Stages(found.seconds)
    with stages.stage("Collect demonstrations of the expert"):
        reach = workbench.collect(REACH, 2000, out / "reach.zarr", noise=1.0, seed=seed)
        found.demonstrations = dict(reach.values)
    for name in ("flow", "tokens"):
        with stages.stage(f"Train the {name} policy"):
            trained = workbench.train(
                f"{name}-reach", out / "reach.zarr", out / name, minutes=2.5 * minutes, seed=seed, device=device
            )
            found.training[name] = dict(trained.values)
    with stages.stage("Evaluate both policies and their controls on the same unseen seeds"):
        _evaluate(found, out, seed, device)
    with stages.stage("Train a world model"):
        _collect_pushes(out, seed)
        trained = workbench.train(
            "state-push", out / "push.zarr", out / "world-model", minutes=minutes, seed=seed, device=device
        )
        found.training["world model"] = dict(trained.values)
    with stages.stage("Imagine counterfactuals and score them against the simulator"):
        found.counterfactual = _imagine(out, seed)
    with stages.stage("Export to LeRobot and run its own programs"):
        found.lerobot = lerobot_programs.check(out / "flow", out / "reach.zarr", out / "lerobot", REACH, seed)
    with stages.stage("Write the report"):
        write(found, out / "report.html")
        write_atomically(out / "results.json", json.dumps(found.to_json(), indent=1))
    return _summary(found, out, stages.console)


def _evaluate(found: Findings, out: Path, seed: int, device: Device) -> None:
    """Both policies and the flow policy's controls, with footage of successes and failures."""
    world = envs.make(REACH, n=50)
    loaded = {name: workbench.meet(str(out / name), world, device) for name in ("flow", "tokens")}
    for name, policy in loaded.items():
        shots = found.footage.setdefault(name, [])

        def keep(
            episode: evaluation.Episode, t: Trajectory, shots: list[tuple[evaluation.Episode, Trajectory]] = shots
        ) -> None:
            if sum(e.success == episode.success for e, _ in shots) < 2:
                shots.append((episode, t))

        found.policies[name] = workbench.judge(policy, world, EPISODES, seed, name, keep)
        folder = out / name / "eval"
        write_atomically(folder / "episodes.jsonl", "".join(f"{line}\n" for line in found.policies[name].lines()))
    found.policies |= workbench.judge_controls(loaded["flow"], world, EPISODES, seed)
    found.comparison = evaluation.compare(found.policies["flow"], found.policies["tokens"], ("flow", "tokens"))


def _collect_pushes(out: Path, seed: int) -> None:
    """Episodes for the world model: an expert that is disturbed a little to a lot, its failures kept."""
    for noise in (0.5, 1.0, 1.5, 2.0):
        workbench.collect(PUSH, 96, out / "push.zarr", noise=noise, keep_failures=True, seed=seed)


def _imagine(out: Path, seed: int) -> CounterfactualResult:
    model = dynamics.load(out / "world-model")
    store = datasets.EpisodeStore(out / "push.zarr")
    unseen = workbench.unseen(store, Run.open(out / "world-model"))
    return evaluation.counterfactual(model, store, envs.make(PUSH, n=32), episodes=unseen, seed=seed)


def _summary(found: Findings, out: Path, console: Console) -> Outcome:
    return Outcome(str(out / "report.html"), found.to_json())
