"""`worldlab bakeoff`: every head on one trunk and every fusion under one head, on one data set with one budget.

Published comparisons of action heads confound the head with chunking, proprioception, cameras and backbone. Here chunk,
steps executed, cameras, scaling, grounding, data, batch order and budget are the same for all that stand on the trunk,
so that what differs is the head, or the fusion. LeRobot's policies and the one that sees nothing share all but the
trunk and the grounding. Three training seeds or more: a difference within their spread is none.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import torch

from worldlab import datasets, envs, policies, workbench
from worldlab.errors import UsageError, unknown
from worldlab.eval.open_loop import action_error, median_latency_ms
from worldlab.eval.rates import over_training_seeds, share
from worldlab.policies.backbone_config import FUSIONS
from worldlab.policies.chunks import check_execute, expert_columns, labels
from worldlab.presets import HEADS, TASK_VIEWS, TaskView, TrainConfig, policy_recipe
from worldlab.runs import Json, Run, provenance, write_atomically
from worldlab.training import CLOCKS, Clock, Device, pick_device
from worldlab.trunk import BackboneOptions
from worldlab.workbench import Outcome

_HELD_OUT = 20
_WINDOWS = 512


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What is held against what, and how."""

    task: str
    """reach, push, lift or stack."""
    data: str
    """The store that all are trained on; one episode in 20 is kept for the open-loop error."""
    heads: tuple[str, ...]
    """Heads on the first fusion."""
    fusions: tuple[str, ...]
    """Fusions under the flow head."""
    seeds: int
    """Training seeds 0, 1, …"""
    steps: int | None
    """Budget in optimizer steps, so equal samples."""
    minutes: float | None
    """Budget in minutes of one thread, so equal time: CPU time on a CPU."""
    chunk: int
    """Actions predicted at once, by all."""
    episodes: int
    """Closed-loop episodes of each trained policy."""

    def recipes(self) -> Iterator[tuple[str, TrainConfig]]:
        """Every contender by its name, HEAD or flow@FUSION."""
        view = self.view
        for head in self.heads:
            if head not in HEADS:
                raise unknown("head", head, HEADS)
            yield head, self._recipe(head, view, "llava")
        for fusion in self.fusions:
            if fusion not in FUSIONS:
                raise unknown("fusion", fusion, FUSIONS)
            if fusion != "llava" or "flow" not in self.heads:
                yield f"flow@{fusion}", self._recipe("flow", view, fusion)

    @property
    def view(self) -> TaskView:
        """How the task is looked at.

        Raises:
            UsageError: there is no such task.
        """
        if self.task not in TASK_VIEWS:
            raise unknown("task", self.task, TASK_VIEWS)
        return TASK_VIEWS[self.task]

    def _recipe(self, head: str, view: TaskView, fusion: str) -> TrainConfig:
        config = policy_recipe(replace(view.on(HEADS[head]), chunk=self.chunk), 1.0)
        if fusion != "llava":
            config = BackboneOptions(fusion=fusion).applied_to(config)
        return replace(config, hold_out=_HELD_OUT, fit=replace(config.fit, steps=self.steps, minutes=self.minutes))


@dataclass(frozen=True)
class Entry:
    """One trained policy."""

    name: str
    seed: int
    samples: int
    """Windows it was trained on."""
    minutes: float
    """Of training: CPU time of its process where it ran on the CPU, which other work beside it does not touch."""
    parameters: int
    action_error: float
    """Open loop, free running: mean absolute error of what would be executed, radians."""
    action_error_half_width: float
    """Of its 95 % interval over windows."""
    windows: int
    """Held-out windows that `action_error` and its interval are over."""
    successes: int
    n: int
    roughness: float | None
    """See `worldlab.eval.Episode`."""
    latency_ms: float
    """Of one plan for one observation, median; CPU time on a CPU."""
    tokens: float | None
    """Tokens a chunk; None where none are written."""
    invalid: float | None
    """Share of chunks in which a token had to be refused."""


def bakeoff(contest: Contest, out: Path, *, workers: int = 2, device: Device = "auto") -> Outcome:
    """Train and judge every contender; what is already in `out` is kept, so that an interrupted contest goes on.

    Args:
        contest: what is held against what.
        out: a folder for the runs, results.json and table.md.
        workers: processes of one thread each; the results do not depend on it where the budget is in steps.
        device: where networks run.

    Raises:
        UsageError: there is no such head, fusion, task or store, no budget, a size is below 1, `out` holds another
            contest, or no contender could be judged; of some, the table and "failed" in results.json say it.
    """
    if (contest.steps is None) == (contest.minutes is None):
        raise UsageError("a contest needs one budget: --steps for equal samples, or --minutes for equal time.")
    for size, value in (("--seeds", contest.seeds), ("--episodes", contest.episodes), ("--workers", workers)):
        if value < 1:
            raise UsageError(f"{size} must be at least 1; got {value}.")
    if not 0 < (contest.steps or contest.minutes or 0) < math.inf:  # nor NaN
        raise UsageError("the budget of a contest must be a finite number above zero.")
    recipes = dict(contest.recipes())
    if not recipes:
        raise UsageError("a contest needs contenders: name at least one after --heads or --fusions.")
    store = datasets.EpisodeStore(contest.data)
    # Before a folder is begun: a contest whose contenders could not be judged would end after its first training.
    envs.full_id(str(store.provenance.get("env")))
    for recipe in recipes.values():
        check_execute(getattr(recipe.model, "execute", 1), contest.chunk)
    _open(contest, store, out)
    failed: dict[str, Json] = {}
    try:
        _hold(contest, recipes, out, workers, device, failed)
    finally:  # those that have finished stand in the table, whatever became of the others
        entries = _finished(out)
        text = _written(contest, out, entries, failed)
    if not entries:
        raise UsageError(f"no contender could be judged; {next(iter(failed))}: {next(iter(failed.values()))}")
    return Outcome(f"{text}\n{len(entries)} policies: {out / 'table.md'}", _values(contest, out, entries, failed))


def _hold(
    contest: Contest,
    recipes: Mapping[str, TrainConfig],
    out: Path,
    workers: int,
    device: Device,
    failed: dict[str, Json],
) -> None:
    """Have every contender trained and judged; `failed` is told of those that could not be."""
    jobs = [(name, seed) for seed in range(contest.seeds) for name in recipes]
    context = get_context("spawn")
    with (
        workbench.progress_bar("bake-off", len(jobs)) as bar,
        ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        running = [pool.submit(_enter, contest, recipes[name], name, seed, out, device) for name, seed in jobs]
        try:
            for done, (job, (name, seed)) in enumerate(zip(running, jobs, strict=True), 1):
                try:
                    entry = job.result()
                    bar.at(done, f"{name}, seed {seed}: {entry.successes}/{entry.n}")
                except UsageError as error:  # it diverged, which says nothing about the others
                    failed[f"{name}, seed {seed}"] = str(error)
                    bar.at(done, f"{name}, seed {seed}: failed")
        except BrokenProcessPool:
            raise UsageError(
                "a process of the contest died; what is finished is kept, so run the same command again."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # or all others would train before anyone hears of a failure


def _finished(out: Path) -> list[Entry]:
    """All contenders that were ever judged in a folder."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*/entry.json")]
    return sorted((Entry(**values) for values in read), key=lambda entry: (entry.seed, entry.name))


def _written(contest: Contest, out: Path, entries: Sequence[Entry], failed: Mapping[str, Json]) -> str:
    """The table, and what is missing from it, which are also left in the folder."""
    text = table(entries) + "".join(f"\nNot in the table: {who}: {why}\n" for who, why in failed.items())
    write_atomically(out / "table.md", text)
    write_atomically(out / "results.json", json.dumps(_values(contest, out, entries, failed), indent=1))
    return text


def _values(contest: Contest, out: Path, entries: Sequence[Entry], failed: Mapping[str, Json]) -> dict[str, Json]:
    return {
        "out": str(out),
        "contest": asdict(contest),
        "entries": [asdict(entry) for entry in entries],
        "failed": dict(failed),
    }


def _open(contest: Contest, store: datasets.EpisodeStore, out: Path) -> None:
    """Begin a contest, or go on with the same one (with more seeds, heads or fusions)."""
    data = {"data_id": store.id, "data_episodes": len(store)}
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file; a contest needs a folder.")
    if not out.exists() or not any(out.iterdir()):
        Run.create(out, {"kind": "bakeoff", **asdict(contest), **data, "provenance": provenance(0)})
        return
    before = Run.open(out).config
    if before.get("kind") != "bakeoff":
        raise UsageError(f"'{out}' holds a run of kind '{before.get('kind')}', not a contest; use another --out.")
    fixed = {name: before.get(name) for name in ("task", "data", "steps", "minutes", "chunk", "episodes")}
    now = {name: value for name, value in asdict(contest).items() if name in fixed}
    if fixed != now:
        differs = next(name for name in fixed if fixed[name] != now[name])
        raise UsageError(
            f"'{out}' holds a contest with {differs} {fixed[differs]}, not {now[differs]}; use another --out."
        )
    if any(before.get(name, value) != value for name, value in data.items()):
        raise UsageError(f"'{contest.data}' is another store by now, or has grown, since '{out}' was begun.")


def _enter(contest: Contest, config: TrainConfig, name: str, seed: int, out: Path, device: Device) -> Entry:
    """Train and judge one contender, unless that has been done."""
    path = out / f"{name.replace('@', '-')}-{seed}"
    result = path / "entry.json"
    if result.is_file():
        return Entry(**json.loads(result.read_text(encoding="utf-8")))
    shutil.rmtree(path, ignore_errors=True)  # begun and interrupted: its time would not be whole
    with (out / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        config = replace(config, fit=replace(config.fit, seed=seed, clock=_clock(device)))
        seconds = CLOCKS[config.fit.clock]
        start = seconds()
        workbench.train_recipe(config, name, contest.data, path, device=device, show=False)
        minutes = (seconds() - start) / 60
        entry = _judge(contest, config, name, path, minutes, device)
    write_atomically(result, json.dumps(asdict(entry)))
    return entry


def _clock(device: Device) -> Clock:
    """What time is measured by."""
    return "process" if pick_device(device).type == "cpu" else "wall"


def _judge(contest: Contest, config: TrainConfig, name: str, path: Path, minutes: float, device: Device) -> Entry:
    """What a policy does, open and closed loop, that was trained for so long."""
    seed = config.fit.seed
    store = datasets.EpisodeStore(contest.data)
    size = next(iter(store.spec.cameras.values()), None)
    env = envs.make(str(store.provenance["env"]), n=min(50, contest.episodes), size=size)
    policy = workbench.load_policy(str(path), env, device)
    assert isinstance(policy, policies.VLA | policies.StateOnlyPolicy | policies.LeRobotBaseline)
    held = config.split(len(store))[1]
    windows = datasets.Windows(store, length=contest.chunk, batch=_WINDOWS, observed=1, episodes=held)[0]
    error = action_error(policy, windows, *labels(windows, contest.chunk, expert_columns(store.spec)))
    latency = median_latency_ms(policy, windows, clock=CLOCKS[config.fit.clock])
    before = _counts(policy)
    result = workbench.judge(policy, env, contest.episodes, 0, f"{name}, seed {seed}")
    written = {key: value - before[key] for key, value in _counts(policy).items()}
    steps = int(str(Run.open(path).read_log()[-1]["step"]))
    chunks = written.get("chunks", 0)
    return Entry(
        name=name,
        seed=seed,
        samples=steps * config.windows.batch,
        minutes=minutes,
        parameters=sum(p.numel() for p in policy.parameters()),
        action_error=error.mean,
        action_error_half_width=error.half_width,
        windows=error.n,
        successes=result.successes,
        n=result.n,
        roughness=result.roughness,
        latency_ms=latency,
        tokens=written["tokens"] / chunks if chunks else None,
        invalid=written["invalid"] / chunks if chunks else None,
    )


def _counts(policy: "policies.Trained") -> Mapping[str, int]:
    return policy.head.counts if isinstance(policy, policies.VLA) else {}


def table(entries: Sequence[Entry]) -> str:
    """The contenders in Markdown, the most successful first: means over training seeds, and their range in brackets."""
    names = sorted({e.name for e in entries}, key=lambda name: -mean(e.successes / e.n for e in _of(entries, name)))
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [_row(name, _of(entries, name)) for name in names]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "",
    "success",
    "by seed",
    "action error, mrad",
    "ms a chunk",
    "tokens a chunk",
    "invalid",
    "roughness, mrad",
    "parameters",
    "samples",
    "minutes",
)


def _of(entries: Sequence[Entry], name: str) -> list[Entry]:
    return [e for e in entries if e.name == name]


def _row(name: str, entries: Sequence[Entry]) -> str:
    successes, n = [e.successes for e in entries], [e.n for e in entries]
    rate, low, high = (share(x, sum(n)) for x in (sum(successes) / sum(n), *over_training_seeds(successes, n)))

    def over_seeds(values: Sequence[float | None], form: str) -> str:
        known = [v for v in values if v is not None]
        return form.format(mean(known)) if known else "–"

    errors = [1000 * e.action_error for e in entries]
    cells = [
        name,
        f"{rate} [{low}, {high}]",
        " ".join(map(str, successes)) + f" of {n[0]}",
        f"{mean(errors):.1f} [{min(errors):.1f}, {max(errors):.1f}]",
        over_seeds([e.latency_ms for e in entries], "{:.1f}"),
        over_seeds([e.tokens for e in entries], "{:.1f}"),
        over_seeds([e.invalid for e in entries], "{:.1%}"),
        over_seeds([None if e.roughness is None else 1000 * e.roughness for e in entries], "{:.1f}"),
        f"{entries[0].parameters:,}",
        over_seeds([float(e.samples) for e in entries], "{:,.0f}"),
        over_seeds([e.minutes for e in entries], "{:.1f}"),
    ]
    return "| " + " | ".join(cells) + " |"
