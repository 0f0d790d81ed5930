"""What a store or a run holds, as a table for the terminal and as values for a program."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worldlab.datasets import EpisodeStore
from worldlab.eval.rates import share, wilson
from worldlab.runs import Json, Run, to_json

EPISODES = "episodes.jsonl"
"""What each episode earned while a model was learning, in its run."""


@dataclass(frozen=True)
class Summary:
    """What there is, in two forms."""

    values: Mapping[str, Json]
    """For a program."""
    text: str
    """For a terminal."""


def summarize_store(store: EpisodeStore) -> Summary:
    """Episodes, success, sizes, instructions and provenance of a store."""
    n = len(store)
    columns = _sizes(store)
    values: dict[str, Json] = {
        "env": str(store.provenance.get("env")),
        "episodes": n,
        "rows": int(store.lengths.sum()),
        "fps": store.spec.fps,
        "bytes": sum(stored for *_, stored in columns.values()),
        "columns": list(columns),
        "sizes": {name: _size_values(*size) for name, size in columns.items()},
        "cameras": to_json(store.spec.cameras),
        "tasks": list(store.tasks),
    }
    if n:
        low, high = wilson(successes := int(_succeeded(store).sum()), n)
        values |= {"successes": successes, "rate": successes / n, "interval": [low, high]}
        values["length"] = {f"q{q:02}": float(np.quantile(store.lengths - 1, q / 100)) for q in (0, 25, 50, 75, 100)}
    return Summary(values | {"provenance": to_json(store.provenance)}, _store_text(store, values, columns))


type Size = tuple[str, tuple[int, ...], int, int]
"""Type, shape of a row, bytes as they are, bytes as they are stored."""


def _sizes(store: EpisodeStore) -> dict[str, Size]:
    """Of each column; rows that belong to no episode are stored, but do not count as raw."""
    group = zarr.open_group(str(store.path), mode="r")
    rows, sizes = int(store.lengths.sum()), dict[str, Size]()
    for name in store.columns:
        array = group[name]
        assert isinstance(array, zarr.Array)
        raw = rows * array.dtype.itemsize * int(np.prod(array.shape[1:]))
        sizes[name] = (str(array.dtype), array.shape[1:], raw, array.nbytes_stored())
    return sizes


def _size_values(dtype: str, shape: tuple[int, ...], raw: int, stored: int) -> dict[str, Json]:
    return {"dtype": dtype, "shape": list(shape), "raw": raw, "stored": stored, "ratio": stored / max(raw, 1)}


def _succeeded(store: EpisodeStore) -> NDArray[np.bool_]:
    """Whether each episode achieved its task, without reading its images."""
    success = np.asarray(zarr.open_group(str(store.path), mode="r")["success"])
    spans = zip(store.starts, store.lengths, strict=True)
    return np.array([success[start : start + length].any() for start, length in spans])


def _store_text(store: EpisodeStore, values: Mapping[str, Json], sizes: Mapping[str, Size]) -> str:
    spec, about = store.spec, store.provenance
    facts = {
        "env": about.get("env"),
        "episodes": f"{len(store)}, {values['rows']} rows, {spec.fps} a second",
        "arm": f"{len(spec.action)} actions ({spec.control}), {len(spec.state)} states",
        "made by": f"{about.get('command')}, {about.get('time')}, commit {about.get('commit')}",
    }
    if len(store):
        low, high = (share(x, len(store)) for x in wilson(int(str(values["successes"])), len(store)))
        q = np.quantile(store.lengths - 1, (0, 0.25, 0.5, 0.75, 1)).astype(int)
        facts["success"] = f"{values['successes']}/{len(store)}, 95 % interval {low} to {high}"
        facts["length"] = f"{q[2]} actions in the median, half of them {q[1]} to {q[3]}, all {q[0]} to {q[4]}"
        facts["seeds"] = f"{store.seeds.min()} to {store.seeds.max()}"
    columns = Table("column", "type", "row", "raw", "stored", "ratio", box=None, header_style="bold")
    for name, (dtype, shape, raw, stored) in sizes.items():
        columns.add_row(name, dtype, _times(shape), _bytes(raw), _bytes(stored), f"{stored / max(raw, 1):.3f}")
    tasks = Table("episodes", "instruction", box=None, header_style="bold")
    for i, count in Counter(store.task_index.tolist()).most_common(12):
        tasks.add_row(str(count), escape(store.tasks[i]))
    if len(store.tasks) > 12:
        tasks.add_row("", f"and {len(store.tasks) - 12} other instructions")
    return _render(_facts(facts), columns, tasks)


def summarize_run(run: Run) -> Summary:
    """What was trained, how far, and every evaluation that is in the folder."""
    config, last = run.config, run.read_log()[-1:]
    about = config.get("provenance")
    about = about if isinstance(about, Mapping) else {}
    values: dict[str, Json] = {"kind": config["kind"], "preset": config.get("preset"), **(last or [{}])[0]}
    values["data"], values["env"] = config.get("data"), config.get("env")
    results = evaluations(run)
    if last := recent_returns(run):
        values["acted"] = f"the last {len(last)} episodes earned {sum(last) / len(last):.1f} on average"
    kept = ("env", "successes", "n", "interval", "mean_return", "seed", "run", "variation", "hold", "execution")
    values["evaluations"] = [{key: result.get(key) for key in kept} for result in results]
    head = ("environment", "how", "success", "95 % interval", "mean return", "seed")
    table = Table(*head, box=None, header_style="bold")
    for result in results:
        ends = list(result["interval"])  # pyright: ignore[reportArgumentType]
        low, high = (share(float(str(end)), int(str(result["n"]))) for end in ends)
        success = f"{result['successes']}/{result['n']}"
        earned = f"{float(str(result['mean_return'])):.1f}" if "mean_return" in result else "–"
        table.add_row(str(result["env"]), _how(result, run), success, f"{low} to {high}", earned, str(result["seed"]))
    facts = {name: value for name, value in values.items() if name != "evaluations"}
    facts["made by"] = f"{about.get('command')}, {about.get('time')}, commit {about.get('commit')}"
    return Summary(values, _render(_facts(facts), *([table] if results else [])))


def _how(result: Mapping[str, Json], run: Run) -> str:
    """Under which conditions a policy was judged, and how it acted, where that is not as it comes."""
    words = [str(word) for key in ("variation", "execution") for word in _list(result.get(key))]
    if result.get("hold"):
        words.append(f"hold {result['hold']}")
    use, _, of = str(result.get("run")).rpartition(":")
    return escape(", ".join([use, *words] if use and Path(of) == run.path else words))


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def recent_returns(run: Run) -> list[float]:
    """What the last ten episodes earned in which a model acted while it learned."""
    return [float(str(episode["return"])) for episode in run.read_log(EPISODES)[-10:]]


def evaluations(run: Run) -> list[dict[str, Json]]:
    """The results that `worldlab eval` left in a run's folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(run.path.glob("eval/*/result.json"))]


def _facts(facts: Mapping[str, object]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        if value is not None:
            table.add_row(f"[bold]{name}", escape(str(value)))
    return table


def _render(*tables: Table) -> str:
    """As text, in colour where the terminal has it, as wide as the terminal."""
    console = Console(file=StringIO(), width=None if sys.stdout.isatty() else 120, force_terminal=sys.stdout.isatty())
    with console.capture() as capture:
        for table in tables:
            console.print(table, "")
    return capture.get().rstrip()


def _bytes(n: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "1"
