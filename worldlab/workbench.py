"""What the verbs of the command line do: the siblings put together; all but `compare` and `list` leave it on disk.

Policies and presets are imported where they are used: `collect` and `view` need not wait for transformers.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worldlab import collection, datasets, envs, players
from worldlab import eval as evaluation
from worldlab.changes import BudgetOptions
from worldlab.conditions import EvalConditions
from worldlab.creation import create_model
from worldlab.datasets.lerobot_format import RECORDED
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.errors import UsageError
from worldlab.eval.rates import readable, share
from worldlab.eval.success import check_fit
from worldlab.protocols import Environment, Policy
from worldlab.resuming import open_for_resume
from worldlab.runs import Json, Run, provenance, restored, to_json, write_atomically
from worldlab.training import Device, create_run, fit, pick_device
from worldlab.trajectory import Trajectory
from worldlab.trunk import BackboneOptions, families

if TYPE_CHECKING:
    from worldlab.policies import ExecutionConfig
    from worldlab.policies.inherit import InitRun
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


def collect(
    recipe: collection.CollectConfig, out: str | Path, episodes: int, *, workers: int = 0, seed: int = 0
) -> Outcome:
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
    changes: BudgetOptions | None = None,
    resume: bool = False,
    trunk: BackboneOptions | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Train a model by a preset; see `worldlab train --help`."""
    from worldlab.presets import preset

    pick_device(device)
    trunk = trunk or BackboneOptions()
    config = (changes or BudgetOptions()).applied_to(trunk.applied_to(preset(name)), seed)
    return train_recipe(config, name, data, out, resume=resume, device=device, init_run=trunk.init_run())


def train_recipe(
    config: "TrainConfig",
    name: str,
    data: str | Path,
    out: Path,
    *,
    resume: bool = False,
    device: Device = "auto",
    show: bool = True,
    init_run: "InitRun | None" = None,
) -> Outcome:
    """Train a model by a whole recipe that is called `name`; everything random is keyed by the recipe's seed."""
    from worldlab.stages import measure

    seed, store = config.fit.seed, datasets.EpisodeStore(data)
    model = create_model(config, store, seed, init_run)
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
        "seeds": store.seed_spans(),
        "held_out": held,
        "init": None if init_run is None else init_run.load_into(model),
        "provenance": provenance(seed),
    }
    # Whatever would be refused is, before there is a folder that the mended command would find occupied.
    windows = datasets.Windows(store, seed=seed, episodes=seen, **asdict(config.windows))
    config.fit.check()
    datasets.check_action_repeat(store, config.windows.stride)
    run = open_for_resume(out, about) if resume else create_run(out, about, device)
    fit(model, windows, config.fit, run, device=device, resume=resume, show=show)
    last = run.read_log()[-2:]
    loss = last[0].get("loss")
    bought = measure(model, store, held, run)
    told = "".join(f", {name} {x:.3g}" for name, x in bought.items() if isinstance(x, float))
    line = f"{name} trained for {last[-1]['step']} steps in {last[-1]['seconds']} s, loss {loss}{told}: {out}"
    return Outcome(line, {"run": str(out), "preset": name, "loss": loss, **last[-1], **bought})


def load_policy(name: str, env: Environment, device: Device) -> Policy:
    """Load a policy for an environment."""
    return players.load(name, env, str(pick_device(device)))


def judge(
    policy: Policy,
    env: Environment,
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

        return evaluation.success(policy, env, episodes, seed, on_episode=count)


def judge_controls(policy: Policy, env: Environment, episodes: int, seed: int) -> dict[str, evaluation.SuccessResult]:
    """What every success rate must be read beside: the expert, chance, closed eyes, and another instruction."""
    baselines = ("expert", "random") if isinstance(env, MujocoVectorEnv) else ("random",)
    results = {name: judge(load_policy(name, env, "cpu"), env, episodes, seed, name) for name in baselines}
    for control, (controlled, judged) in evaluation.controls(policy, env).items():
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


def _defines_success(env_id: str) -> bool:
    """Not the control suite: what counts there is one step at full reward, which balancing tasks may begin with."""
    return not env_id.startswith("dm_control/")


def _positive(episodes: int, n: int) -> None:
    """Refuse to judge by no episodes.

    Raises:
        UsageError: a number is below 1.
    """
    if min(episodes, n) < 1:
        raise UsageError(f"an evaluation takes at least 1 episode and 1 environment; got {episodes} and {n}.")


def _results_folder(name: str, parts: Sequence[str]) -> Path:
    """Where a result about a policy is kept: in its run, or under runs/ for a policy that has none."""
    run, use = players.run_folder(name)
    folder = run / "eval" if run.is_dir() else Path("runs") / name / "eval"
    return folder / "_".join([use, *parts] if use else parts)


def evaluate(
    name: str,
    env_id: str,
    episodes: int = 100,
    *,
    n: int = 50,
    controls: bool = True,
    conditions: EvalConditions | None = None,
    execution: "ExecutionConfig | None" = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Evaluate a policy closed loop; see `worldlab eval --help`."""
    _positive(episodes, n)
    env_id, size = envs.full_id(env_id), players.image_size(name)
    conditions = conditions or EvalConditions()
    env = conditions.world(env_id, players.num_envs_for(name, n, episodes), size)
    policy = load_policy(name, env, device)
    way: list[str] = []
    if execution is not None and not execution.own_way:
        from worldlab.policies import execute

        policy = execute(policy, execution, name)
        way = policy.describe()
    folder = _results_folder(
        name, [env_id.replace("/", "-"), *conditions.describe(), *way, f"n{episodes}", f"seed{seed}"]
    )
    check_fit(policy, env)
    folder.mkdir(parents=True, exist_ok=True)  # whoever may not write there is told before the episodes
    result = judge(policy, env, episodes, seed, name)
    values: dict[str, Json] = {
        **result.to_json(),
        "run": name,
        "env": env_id,
        **conditions.to_json(),
        "execution": to_json(way),
    }
    write_atomically(folder / "episodes.jsonl", "".join(f"{line}\n" for line in result.lines()))
    write_atomically(folder / "result.json", json.dumps(values, indent=1))  # before controls, which take as long again
    others = judge_controls(policy, env, episodes, seed) if controls else {}
    if controls:
        values["controls"] = {label: other.to_json() for label, other in others.items()}
        write_atomically(folder / "result.json", json.dumps(values, indent=1))
    succeeded = any(judged.successes for judged in (result, *others.values()))
    text = rate_text(result, returns=not (succeeded and _defines_success(env_id)))
    return Outcome(f"{text} on {env_id}: {folder}", values)


def compare(
    a: str,
    b: str,
    env_id: str,
    episodes: int = 100,
    *,
    n: int = 50,
    conditions: EvalConditions | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Two policies on the same seeds; see `worldlab compare --help`."""
    _positive(episodes, n)
    env_id = envs.full_id(env_id)
    conditions = conditions or EvalConditions()
    worlds = [
        conditions.world(env_id, players.num_envs_for(name, n, episodes), players.image_size(name)) for name in (a, b)
    ]
    pairs = [(load_policy(name, env, device), env) for name, env in zip((a, b), worlds, strict=True)]
    for pair in pairs:  # or what is wrong with B would be told after all episodes of A
        check_fit(*pair)
    results = [judge(*pair, episodes, seed, name) for name, pair in zip((a, b), pairs, strict=True)]
    by = "success" if _defines_success(env_id) else "return"
    comparison = evaluation.compare(results[0], results[1], (a, b), by)
    return Outcome(comparison.verdict, {**comparison.to_json(), "env": env_id, **conditions.to_json()})


def held_out_episodes(store: datasets.EpisodeStore, run: Run) -> list[int]:
    """The episodes of a store that a run was not trained on, be it in another store that begins from the same seeds.

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
    elif (env_id := store.provenance.get("env")) == config.get("env") and not str(env_id).startswith(RECORDED):
        spans = restored(TypeAdapter(list[tuple[int, int]]).validate_python, config.get("seeds", []))
        episodes = [i for i in episodes if not any(a <= store.seeds[i] <= b for a, b in spans)]
    if not episodes:
        raise UsageError(
            f"'{run.path}' was trained on every episode of '{store.path}', or on such as begin from the same seeds; "
            "collect others, with another --seed."
        )
    return episodes


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
