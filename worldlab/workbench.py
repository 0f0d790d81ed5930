"""What the verbs of the command line do: the siblings put together; all but `compare` and `list` leave it on disk.

Policies and presets are imported where they are used: `collect` and `view` need not wait for transformers.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worldlab import collection, datasets, envs, players
from worldlab import eval as evaluation
from worldlab.changes import Changes
from worldlab.conditions import Conditions
from worldlab.creation import create_model
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.errors import UsageError
from worldlab.eval.rates import readable, share
from worldlab.eval.success import check_fit
from worldlab.protocols import Environment, Policy
from worldlab.resuming import begun
from worldlab.runs import Json, Run, provenance, to_json, write_atomically
from worldlab.training import Device, create_run, fit, pick_device
from worldlab.trajectory import Trajectory
from worldlab.trunk import Trunk, families

if TYPE_CHECKING:
    from worldlab.policies import ExecutionConfig
    from worldlab.policies.inherit import Ancestor
    from worldlab.presets import TrainConfig


@dataclass(frozen=True)
class Outcome:
    """What a verb has to say at its end."""

    line: str
    """For a person: the number and the path."""
    values: Mapping[str, Json]
    """For a program (`--json`)."""


class Bar:
    """Progress of one job on stderr."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def at(self, completed: int, note: str = "") -> None:
        """Show that so much is done."""
        self._progress.update(self._task, completed=completed, note=note)


@contextmanager
def progress_bar(description: str, total: int) -> Generator[Bar]:
    """A bar that counts to `total`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), refresh_per_second=4) as progress:
        yield Bar(progress, description, total)


def collect(recipe: collection.Recipe, episodes: int, out: str | Path, *, workers: int = 0, seed: int = 0) -> Outcome:
    """Record episodes; see `worldlab collect --help`."""
    with progress_bar(f"collecting {recipe.env}", episodes) as bar:
        store, good, tried = collection.collect(
            recipe,
            str(out),
            episodes,
            seed,
            workers,
            on_wave=lambda good, tried: bar.at(min(good, episodes), f"{good / tried:.0%} worth keeping"),
        )
    line = f"{episodes} episodes of {recipe.env} collected ({good} of {tried} tried were worth it), "
    line += f"{len(store)} in all: {out}"
    counts = {"episodes": episodes, "good": good, "tried": tried, "total": len(store)}
    return Outcome(line, {**counts, "store": str(out), "env": recipe.env})


def train(
    name: str,
    data: str | Path,
    out: Path,
    *,
    changes: Changes | None = None,
    resume: bool = False,
    trunk: Trunk | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Train a model by a preset; see `worldlab train --help`."""
    from worldlab.presets import preset

    pick_device(device)
    trunk = trunk or Trunk()
    config = (changes or Changes()).under(trunk.under(preset(name)), seed)
    return train_recipe(config, name, data, out, resume=resume, device=device, ancestor=trunk.ancestor())


def train_recipe(
    config: "TrainConfig",
    name: str,
    data: str | Path,
    out: Path,
    *,
    resume: bool = False,
    device: Device = "auto",
    show: bool = True,
    ancestor: "Ancestor | None" = None,
) -> Outcome:
    """Train a model by a whole recipe that is called `name`; everything random is keyed by the recipe's seed."""
    from worldlab.stages import measure

    seed, store = config.fit.seed, datasets.EpisodeStore(data)
    model = create_model(config, store, seed, ancestor)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("nothing is left to train: every part is frozen; leave one out of --frozen.")
    seen, held = config.split(len(store))
    about = {
        **model.describe(),
        "preset": name,
        "recipe": to_json(config),
        "data": str(data),
        "data_id": store.id,
        "env": str(store.provenance.get("env")),
        "episodes": len(store),
        "held_out": held,
        "init": None if ancestor is None else ancestor.into(model),
        "provenance": provenance(seed),
    }
    # Whatever would be refused is, before there is a folder that the mended command would find occupied.
    windows = datasets.Windows(store, seed=seed, episodes=seen, **asdict(config.windows))
    config.fit.check()
    datasets.check_held(store, config.windows.stride)
    run = begun(out, about) if resume else create_run(out, about, device)
    fit(model, windows, config.fit, run, device=device, resume=resume, show=show)
    last = run.read_log()[-2:]
    loss = last[0].get("loss")
    bought = measure(model, store, held, run)
    told = "".join(f", {name} {x:.3g}" for name, x in bought.items() if isinstance(x, float))
    line = f"{name} trained for {last[-1]['step']} steps in {last[-1]['seconds']} s, loss {loss}{told}: {out}"
    return Outcome(line, {"run": str(out), "preset": name, "loss": loss, **last[-1], **bought})


def meet(name: str, world: Environment, device: Device) -> Policy:
    """Load a policy for an environment."""
    return players.load(name, world, str(pick_device(device)))


def judge(
    policy: Policy,
    world: Environment,
    episodes: int,
    seed: int,
    label: str,
    on_episode: Callable[[evaluation.Episode, Trajectory], None] | None = None,
) -> evaluation.SuccessResult:
    """Success rate, with a progress bar."""
    done = 0
    with progress_bar(label, episodes) as bar:

        def count(episode: evaluation.Episode, t: Trajectory) -> None:
            nonlocal done
            done += 1
            bar.at(done)
            if on_episode is not None:
                on_episode(episode, t)

        return evaluation.success(policy, world, episodes, seed, on_episode=count)


def judge_controls(policy: Policy, world: Environment, episodes: int, seed: int) -> dict[str, evaluation.SuccessResult]:
    """What every success rate must be read beside: the expert, chance, closed eyes, and another instruction."""
    baselines = ("expert", "random") if isinstance(world, MujocoVectorEnv) else ("random",)
    results = {name: judge(meet(name, world, "cpu"), world, episodes, seed, name) for name in baselines}
    for control, (controlled, judged) in evaluation.controls(policy, world).items():
        results[control] = judge(controlled, judged, episodes, seed, control)
    return results


def rate_text(result: evaluation.SuccessResult, *, returns: bool = False) -> str:
    """k/n and the interval; before them, where asked for, the mean return and its interval."""
    rate, low, high = (share(x, result.n) for x in (result.rate, *result.interval))
    text = f"{result.successes}/{result.n} = {rate} [{low}, {high}]"
    if not returns:
        return text
    limits = "no interval" if result.return_interval is None else ", ".join(map(readable, result.return_interval))
    return f"mean return {readable(result.mean_return)} [{limits}], {text}"


def _defines_success(env: str) -> bool:
    """Not the control suite: what counts there is one step at full reward, which balancing tasks may begin with."""
    return not env.startswith("dm_control/")


def _positive(episodes: int, n: int) -> None:
    """Refuse to judge by no episodes.

    Raises:
        UsageError: a number is below 1.
    """
    if min(episodes, n) < 1:
        raise UsageError(f"an evaluation takes at least 1 episode and 1 environment; got {episodes} and {n}.")


def _results_folder(name: str, parts: Sequence[str]) -> Path:
    """Where a result about a policy is kept: in its run, or under runs/ for a policy that has none."""
    run, use = players.run_of(name)
    folder = run / "eval" if run.is_dir() else Path("runs") / name / "eval"
    return folder / "_".join([use, *parts] if use else parts)


def evaluate(
    name: str,
    env: str,
    episodes: int = 100,
    *,
    n: int = 50,
    controls: bool = True,
    conditions: Conditions | None = None,
    execution: "ExecutionConfig | None" = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Evaluate a policy closed loop; see `worldlab eval --help`."""
    _positive(episodes, n)
    env, size = envs.full_id(env), players.picture(name)
    conditions = conditions or Conditions()
    world = conditions.world(env, players.together(name, n, episodes), size)
    policy = meet(name, world, device)
    way: list[str] = []
    if execution is not None and not execution.own_way:
        from worldlab.policies import execute

        policy = execute(policy, execution, name)
        way = policy.describe()
    folder = _results_folder(name, [env.replace("/", "-"), *conditions.describe(), *way, f"seed{seed}"])
    folder.mkdir(parents=True, exist_ok=True)  # whoever may not write there is told before the episodes
    result = judge(policy, world, episodes, seed, name)
    values: dict[str, Json] = {
        **result.to_json(),
        "run": name,
        "env": env,
        **conditions.to_json(),
        "execution": to_json(way),
    }
    others = judge_controls(policy, world, episodes, seed) if controls else {}
    if controls:
        values["controls"] = {label: other.to_json() for label, other in others.items()}
    write_atomically(folder / "episodes.jsonl", "".join(f"{line}\n" for line in result.lines()))
    write_atomically(folder / "result.json", json.dumps(values, indent=1))
    succeeded = any(judged.successes for judged in (result, *others.values()))
    text = rate_text(result, returns=not (succeeded and _defines_success(env)))
    return Outcome(f"{text} on {env}: {folder}", values)


def compare(
    a: str,
    b: str,
    env: str,
    episodes: int = 100,
    *,
    n: int = 50,
    conditions: Conditions | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Two policies on the same seeds; see `worldlab compare --help`."""
    _positive(episodes, n)
    env = envs.full_id(env)
    conditions = conditions or Conditions()
    worlds = [conditions.world(env, players.together(name, n, episodes), players.picture(name)) for name in (a, b)]
    pairs = [(meet(name, world, device), world) for name, world in zip((a, b), worlds, strict=True)]
    for pair in pairs:  # or what is wrong with B would be told after all episodes of A
        check_fit(*pair)
    results = [judge(*pair, episodes, seed, name) for name, pair in zip((a, b), pairs, strict=True)]
    by = "success" if _defines_success(env) else "return"
    comparison = evaluation.compare(results[0], results[1], (a, b), by)
    return Outcome(comparison.verdict, {**comparison.to_json(), "env": env, **conditions.to_json()})


def unseen(store: datasets.EpisodeStore, run: Run) -> list[int]:
    """The episodes of a store that a run was not trained on.

    Raises:
        UsageError: the run saw them all.
    """
    config = run.config
    episodes = list(range(len(store)))
    # By what the store is, for it may have been moved or be named otherwise; older runs know its path only.
    if store.id == config.get("data_id") or store.path == config.get("data"):
        held, known = config["held_out"], config["episodes"]
        assert isinstance(held, list)
        # Who acts while learning has learnt from all that it experienced, however many episodes there were at first.
        known = len(store) if config.get("online") else known
        assert isinstance(known, int)
        episodes = [i for i in episodes if i in held or i >= known]
    if not episodes:
        raise UsageError(
            f"'{run.path}' was trained on every episode of '{store.path}'; collect others to imagine from."
        )
    return episodes


def export_dataset(
    source: str | Path, out: Path, *, images: bool = False, physics: bool = False, episodes: int | None = None
) -> Outcome:
    """A store to LeRobot; see `worldlab export --help`."""
    from worldlab.datasets import lerobot_export

    if episodes is not None and episodes < 1:
        raise UsageError(f"an export holds at least 1 episode; --episodes was {episodes}.")
    store = datasets.EpisodeStore(source)
    n = len(store) if episodes is None else min(episodes, len(store))
    lerobot_export.export_dataset(store, out, video=not images, physics=physics, episodes=range(n))
    return Outcome(f"{n} episodes exported: {out}", {"out": str(out), "episodes": n})


def export_policy(source: Path, out: Path, *, check: bool = False, force: bool = False, seed: int = 0) -> Outcome:
    """A run to LeRobot; see `worldlab export --help`."""
    if force and not check:
        raise UsageError("--force goes with --check.")
    if check:
        from worldlab.hardware_check import export_checked

        result, page = export_checked(source, out, force=force, seed=seed)
        line = f"policy exported, {result.verdict}: {out}, {page}"
        return Outcome(line, {"out": str(out), "report": str(page), **result.to_json()})
    from worldlab import policies
    from worldlab.policies import lerobot_policy

    lerobot_policy.export_policy(policies.load_vla(source), out)
    return Outcome(f"policy exported: {out}", {"out": str(out)})


def import_lerobot(
    source: str,
    out: str | Path,
    *,
    rename: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    keep_units: bool = False,
) -> Outcome:
    """From LeRobot; see `worldlab import --help`."""
    from worldlab.datasets.lerobot_import import import_dataset

    names: dict[str, str] = {}
    for pair in rename:
        name, _, feature = pair.partition("=")
        if not name or not feature:
            raise UsageError(f"--rename takes NAME=FEATURE, for example front=observation.images.top; got '{pair}'.")
        names[name] = feature
    done = import_dataset(source, out, rename=names, size=size, keep_units=keep_units)
    left_out = "".join(f"; without '{feature}' ({why})" for feature, why in done.skipped.items())
    line = f"{done.added} episodes imported, {done.total} in all{left_out}: {out}"
    return Outcome(
        line, {"episodes": done.added, "total": done.total, "skipped": to_json(done.skipped), "store": str(out)}
    )


def view(path: str | Path, episodes: Sequence[int] = (), out: Path | None = None) -> Outcome:
    """What a store or a run holds; see `worldlab view --help`."""
    from worldlab import summaries, viewing

    if out is None and not viewing.has_display():
        place = Path(Path(path).name) if "://" in str(path) else Path(path).resolve()
        out = place.with_name(f"{place.name.removesuffix('.zarr')}.rrd")
    if (Path(path) / "config.json").is_file():
        if episodes:
            raise UsageError(f"'{path}' is a run, which has no --episodes.")
        run = Run.open(Path(path))
        summary, told = summaries.summarize_run(run), viewing.show_run(run, out)
    else:
        store = datasets.EpisodeStore(path)
        summary = summaries.summarize_store(store)
        told = viewing.show_store(store, episodes, out)
    return Outcome(f"{summary.text}\n\n{told}", {**summary.values, "recording": None if out is None else str(out)})


def names(what: Literal["envs", "presets", "backbones", "variations"]) -> Outcome:
    """The names that other verbs take."""
    if what == "presets":
        from worldlab.presets import PRESETS

        choices: Sequence[str] = list(PRESETS)
    elif what == "backbones":
        choices = [f"{part} {name}" for part, names in families().items() for name in names]
    else:
        choices = envs.names() if what == "envs" else envs.variations.names()
    return Outcome("\n".join(choices), {what: list(choices)})
