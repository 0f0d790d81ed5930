"""The main job, end to end: demonstrations, two policies, a world model, counterfactuals, LeRobot, and one report."""

import json
import math
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console

from worldlab import datasets, dynamics, envs, lerobot_programs, workbench
from worldlab import eval as evaluation
from worldlab.changes import BudgetOptions
from worldlab.collection import CollectConfig
from worldlab.demo_report import HOLD, HORIZON, Findings, Shot, write
from worldlab.errors import UsageError
from worldlab.eval.counterfactual import CounterfactualResult
from worldlab.eval.rates import share
from worldlab.runs import Json, Run, provenance, write_atomically
from worldlab.training import Device, pick_device
from worldlab.trajectory import Trajectory
from worldlab.workbench import Outcome

REACH, PUSH = "worldlab/Reach-v0", "worldlab/Push-v0"
HEADS = ("flow", "tokens")
EPISODES = 100
"""Of every success rate."""


class _Phases:
    """Says what is going on, and how long it took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.console = Console(stderr=True)

    @contextmanager
    def phase(self, title: str) -> Generator[None]:
        self.console.rule(f"[bold]{len(self.seconds) + 1}. {title}")
        start = time.monotonic()
        yield
        self.seconds[title] = round(time.monotonic() - start, 1)
        self.console.print(f"{title}: {self.seconds[title]:.0f} s")


def demo(out: Path, minutes: float = 1.0, seed: int = 0, device: Device = "auto") -> Outcome:
    """Run the main job, on two processes of one thread each: that is faster than two threads for models of this size.

    Args:
        out: a new or empty folder for everything it makes.
        minutes: scales every training budget.
        seed: of data, training and evaluation.
        device: where networks run.

    Raises:
        UsageError: something is in `out` already, there is no time to train in, or the device is not there.
    """
    pick_device(device)
    if not 0 < minutes < math.inf:  # nor NaN
        raise UsageError(f"--minutes must be a finite number above zero; got {minutes}.")
    try:
        Run.create(out, {"kind": "demo", "minutes": minutes, "provenance": provenance(seed)})
    except UsageError:  # which advises --resume
        raise UsageError(f"{out} already exists and is not empty; remove it, or give another --out.") from None
    found = Findings(provenance(seed))
    phases = _Phases(found.seconds)
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        with phases.phase("Collect demonstrations of the expert"):
            reach = workbench.collect(
                CollectConfig(env=REACH, noise=1.0, hold=HOLD), out / "reach.zarr", 2000, seed=seed
            )
            found.demonstrations = dict(reach.values)
        with phases.phase("Train two policies side by side: flow matching and action tokens"):
            jobs = {name: pool.submit(_train, name, out, 4 * minutes, seed, device) for name in HEADS}
            found.training = {name: job.result() for name, job in jobs.items()}
        with phases.phase("Evaluate them and their controls on the same unseen seeds"):
            _evaluate(found, pool, out, seed, device)
        with phases.phase("Train a world model, imagine counterfactuals, and run LeRobot's programs"):
            dream = pool.submit(_dream, out, 3 * minutes, seed, device)
            export = pool.submit(lerobot_programs.check, out / "flow", out / "reach.zarr", out / "lerobot", REACH, seed)
            found.lerobot = export.result()
            found.training["world model"], found.counterfactual = dream.result()
    with phases.phase("Write the report"):
        write(found, out / "report.html")
        write_atomically(out / "results.json", json.dumps(found.to_json(), indent=1))
    return _summary(found, out, phases.console)


def _train(name: str, out: Path, minutes: float, seed: int, device: Device) -> dict[str, Json]:
    """Train one policy; the second one's progress goes to a file, so that two bars do not overwrite each other."""
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        shown = nullcontext() if name == HEADS[0] else redirect_stderr(log)
        with shown:
            outcome = workbench.train(
                f"{name}-reach",
                out / "reach.zarr",
                out / name,
                changes=BudgetOptions(minutes=minutes),
                seed=seed,
                device=device,
            )
    return dict(outcome.values)


def _judge(
    name: str, control: str | None, out: Path, seed: int, device: Device
) -> tuple[evaluation.SuccessResult, list[Shot]]:
    """One row of the table of success rates, and episodes to show: at most two of either outcome."""
    env = envs.make(REACH, n=50, hold=HOLD)
    policy = workbench.load_policy(str(out / name) if name in HEADS else name, env, device)
    policy, judged = evaluation.controls(policy, env)[control] if control else (policy, env)
    shots: list[Shot] = []

    def keep(episode: evaluation.Episode, t: Trajectory) -> None:
        if sum(e.success == episode.success for e, _ in shots) < 2:
            shots.append((episode, t))

    with (out / "eval.log").open("a", encoding="utf-8") as log, redirect_stderr(log):
        result = workbench.judge(policy, judged, EPISODES, seed, control or name, keep)
    return result, shots


def _evaluate(found: Findings, pool: ProcessPoolExecutor, out: Path, seed: int, device: Device) -> None:
    """Both policies, the baselines and the flow policy's controls, with footage of successes and failures."""
    rows: dict[str, tuple[str, str | None]] = {name: (name, None) for name in (*HEADS, "expert", "random")}
    rows |= {control: (HEADS[0], control) for control in ("blank_image", "wrong_instruction")}
    jobs = {row: pool.submit(_judge, name, control, out, seed, device) for row, (name, control) in rows.items()}
    with workbench.progress_bar("evaluating", len(jobs)) as bar:
        for done, (row, job) in enumerate(jobs.items(), 1):
            found.policies[row], shots = job.result()
            bar.at(done, f"{row} {workbench.rate_text(found.policies[row])}")
            if row in HEADS:
                found.footage[row] = shots
                lines = "".join(f"{line}\n" for line in found.policies[row].lines())
                write_atomically(out / row / "eval" / "episodes.jsonl", lines)
    found.comparison = evaluation.compare(found.policies["flow"], found.policies["tokens"], ("flow", "tokens"))


def _dream(out: Path, minutes: float, seed: int, device: Device) -> tuple[dict[str, Json], CounterfactualResult]:
    """Collect pushes, train a world model on them, and hold its counterfactuals against the simulator."""
    for noise in (0.5, 1.0, 1.5, 2.0):
        workbench.collect(CollectConfig(env=PUSH, noise=noise, keep_failures=True), out / "push.zarr", 96, seed=seed)
    trained = workbench.train(
        "state-push",
        out / "push.zarr",
        out / "world-model",
        changes=BudgetOptions(minutes=minutes),
        seed=seed,
        device=device,
    )
    store = datasets.EpisodeStore(out / "push.zarr")
    unseen = workbench.held_out_episodes(store, Run.open(out / "world-model"))
    model = dynamics.load(out / "world-model", device=str(pick_device(device)))
    result = evaluation.counterfactual(model, store, envs.make(PUSH, n=32), episodes=unseen, seed=seed)
    return dict(trained.values), result


def _summary(found: Findings, out: Path, console: Console) -> Outcome:
    """A table on stderr, and the report's path as the last line."""
    from rich.table import Table

    table = Table("what", "result", "n", "95 % interval")
    for name, result in found.policies.items():
        rate, low, high = (share(x, result.n) for x in (result.rate, *result.interval))
        table.add_row(f"Reach: {name}", rate, str(result.n), f"{low} to {high}")
    if (dream := found.counterfactual) is not None:
        for title, name in (("arm and cubes", "effect_error"), ("moved cubes", "effect_error_object")):
            error = dream[name]
            low, high = error.interval[HORIZON]
            row = (f"{error.value[HORIZON]:.2f}", str(error.n[HORIZON]), f"{low:.2f} to {high:.2f}")
            table.add_row(f"effect error at {HORIZON} steps, {title}", *row)
    if (check := found.lerobot) is not None:
        n = len(check.lerobot_successes)
        table.add_row("lerobot-eval agrees", f"{check.agreeing}/{n}", str(n), "")
    console.print(table)
    seconds = sum(found.seconds.values())
    return Outcome(f"{seconds / 60:.1f} minutes; open {out / 'report.html'}", found.to_json())
