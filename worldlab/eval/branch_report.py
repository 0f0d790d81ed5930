"""Counterfactuals on a page: curves beside what they must beat, videos of truth, dream and difference, all numbers."""

import math
from collections.abc import Mapping
from pathlib import Path

from worldlab.eval.charts import Curve
from worldlab.eval.counterfactual import CounterfactualResult, Example
from worldlab.eval.pooling import Measure
from worldlab.eval.report import Curves, Fact, Section, Table, Title, Video, VideoStrip, write_report
from worldlab.eval.video import Frames, encode, enlarge, side_by_side, write_mp4
from worldlab.runs import Json

HEADLINE = 10
"""Steps at which the page's first numbers are taken."""

_STEPS = "control steps after the branch ({} a second)"

_LEAD = """\
{starts} moments of episodes were saved and branched {branches} ways, up to {horizon} steps, in the simulator and in the
dream, by the same actions ({kinds}). What the dream says is held against what would really have happened."""

_EFFECT = """\
Effect error ‖(x̂ₖ − x̂₀) − (xₖ − x₀)‖ / ‖xₖ − x₀‖ over {n} branches of {starts} recorded moments; x is {what}
in the simulator, x̂ in the dream, 0 the recorded actions and k other ones. Bands are 95 % intervals, by
the jackknife over the episodes of the moments."""

_POSITIONS = "the position of the gripper and the objects"
_STATE = "the observed state, each column in its standard deviations in the data,"

_OBJECTS = """\
 The second curve is of the objects alone, over pairs of branches in which one has moved a centimetre: as far as it is
near 1, the dream knows where the arm goes and not where a pushed object goes."""

_MOVED = "Mean distance from where they are, of the objects that have moved a centimetre."

_SIGHT = """\
 The simulator itself, told where objects are to within {:g} mm, is as far off as the last curve: what it
does not foresee, no model that sees no better can be expected to foresee."""

_COLUMNS = "Mean over the columns of the observed state, each in its standard deviations in the data."

_REWARD = "Mean absolute error of the reward of each step."

_PICTURES = """\
First camera, on the pixels that change in some branch of a moment; decibels of the squared error pooled over branches
and moments. Higher is better."""

_BRANCHES = """\
Branches of one saved moment, by the same actions: the simulator's frames above, the world model's in the middle, and
how far they are apart beneath (black where it is right). {note}"""

_NUMBERS = """\
With 95 % intervals, by the jackknife over the episodes of the moments; n counts branches, or moments for rank
correlation and regret. Recorded: the same model, fed the recorded actions in every branch. Rank correlation is
Spearman's, of the returns of a moment's branches; regret is how much the return of the branch that the dream prefers
falls short of the best one's. Spread over skill is how far {samples} dreams of one branch are apart, by how far their
mean is off: 1 where the model knows its doubt, 0 where it has none."""

_BESIDE = {
    "": "world model",
    "_recorded": "the same, fed the recorded actions",
    "_copy_last": "copy-last",
    "_dataset_mean": "dataset mean",
    "_perfect_model": "the simulator, with imperfect sight",
}
_ROWS = {
    "effect_error": "effect error",
    "effect_error_object": "effect error, moved objects",
    "state_error_cm": "distance, cm",
    "object_error_cm": "distance of objects where one moved, cm",
    "displaced_error_cm": "distance of the objects that moved, cm",
    "object_error_rad": "heading of moved objects, rad",
    "state_error_rad": "joints, rad",
    "state_error_sd": "state, standard deviations",
    "psnr": "PSNR where it moves, dB",
    "ssim": "SSIM where it moves",
    "reward_error": "reward",
    "rank_correlation": "rank correlation of returns",
    "regret": "regret of the dream's choice",
    "regret_random": "regret of a blind choice",
    "spread_skill": "spread over skill",
}


def effect_fact(result: CounterfactualResult, horizon: int) -> Fact:
    """The effect error as a headline number."""
    error = result["effect_error"]
    if not error.n[horizon]:
        return Fact("–", f"effect error of the dream after {horizon} steps", "no branch went on for so long")
    n = f"{error.n[horizon]} branches of {error.episodes[horizon]} episodes"
    detail = f"n = {n}, {_ends(error, horizon)}; 1 = ignores actions"
    return Fact(f"{error.value[horizon]:.2f}", f"effect error of the dream after {horizon} steps", detail)


def branch_sections(result: CounterfactualResult, command: str, note: str = "") -> list[Section]:
    """Curves, videos and numbers.

    Args:
        result: from `worldlab.eval.counterfactual`.
        command: that made it.
        note: what is to be known of the model.
    """
    steps = _STEPS.format(result.fps)
    of_positions = result.compared == "positions"
    curves = [_curve("arm and objects" if of_positions else "observed state", result["effect_error"])]
    text = _EFFECT.format(n=result.n, starts=result.starts, what=_POSITIONS if of_positions else _STATE)
    if "effect_error_object" in result.measures:
        curves.append(_curve("objects that moved", result["effect_error_object"]))
        text += _OBJECTS
    if "effect_error_object_perfect_model" in result.measures:
        label = "objects that moved: the simulator, with imperfect sight"
        curves.append(_curve(label, result["effect_error_object_perfect_model"], dashed=True))
        text += _SIGHT.format(1000 * result.sight)
    effect = Curves(
        "Does the dream listen to actions?",
        tuple(curves),
        steps,
        "effect error",
        command,
        (1.0, "ignores actions: copy-last, or fed the recorded actions"),
        text,
    )
    sections: list[Section] = [effect]
    for title, name, label, text in (
        ("How far is the dream from the truth?", "state_error_cm", "error, cm", "Gripper and objects, mean distance."),
        ("How far is the dream from the truth?", "state_error_sd", "error, standard deviations", _COLUMNS),
        ("How well does it foresee rewards?", "reward_error", "error of the reward", _REWARD),
        ("And the objects that were pushed?", "displaced_error_cm", "error, cm", _MOVED),
        ("How good are its pictures, where something moves?", "psnr", "PSNR, dB", _PICTURES),
    ):
        if name in result.measures:
            sections.append(Curves(title, _compared(result, name), steps, label, command, note=text))
    for i, example in enumerate(result.examples[:2]):
        videos = tuple(
            Video(kind, encode(enlarge(frames, 3 * 192), result.fps, last_frame_seconds=0.5))
            for kind, frames in columns(example).items()
        )
        text = _BRANCHES.format(note=note)
        sections.append(VideoStrip(f"Truth, dream, difference: moment {i + 1}", videos, command, 110, text))
    return [*sections, _numbers(result, command)]


def columns(example: Example) -> dict[str, Frames]:
    """A video of each branch by its kind: truth above, dream below, difference beneath."""
    wide, whole = example.truth.shape[3], example.frames()
    names = [f"{kind} {k}" if kind in example.kinds[:k] else kind for k, kind in enumerate(example.kinds)]
    return {name: whole[:, :, k * wide : (k + 1) * wide] for k, name in enumerate(names)}


def write_imagined(
    result: CounterfactualResult,
    folder: str | Path,
    *,
    command: str = "worldlab.eval.counterfactual",
    provenance: Mapping[str, Json] | None = None,
    note: str = "",
) -> Path:
    """Write imagine.html and, if the model draws, imagine.mp4 (all branches of the first moment) into a folder.

    Args:
        result: from `worldlab.eval.counterfactual`.
        folder: is made if needed.
        command: that made the result.
        provenance: see `worldlab.runs.provenance`.
        note: what is to be known of the model.

    Returns:
        The page's path.
    """
    folder = Path(folder)
    horizon = max((h for h in result["effect_error"].value if h <= HEADLINE), default=1)
    kinds = ", ".join(dict.fromkeys(result.kinds))
    lead = _LEAD.format(starts=result.starts, branches=result.branches, horizon=result.horizon, kinds=kinds)
    facts = (effect_fact(result, horizon), *_facts(result, horizon))
    for example in result.examples[:1]:
        write_mp4(side_by_side(columns(example), 3 * 192), folder / "imagine.mp4", result.fps, last_frame_seconds=1.0)
    title = Title("What would have happened?", lead, facts, provenance or {})
    return write_report([title, *branch_sections(result, command, note)], folder / "imagine.html")


def _facts(result: CounterfactualResult, horizon: int) -> list[Fact]:
    """Further headline numbers."""
    wanted = (
        ("effect_error_object", "effect error of moved objects", "{:.2f}"),
        ("state_error_cm", "cm from the truth", "{:.1f}"),
        ("state_error_sd", "standard deviations from the truth", "{:.2f}"),
        ("rank_correlation", "rank correlation of the branches' returns", "{:.2f}"),
    )
    found: list[Fact] = []
    for name, label, text in wanted:
        measure = result.measures.get(name)
        if measure is not None and measure.n[horizon]:
            n = f"{measure.n[horizon]} of {measure.episodes[horizon]} episodes"
            detail = f"n = {n}, {_ends(measure, horizon)}, {horizon} steps"
            found.append(Fact(text.format(measure.value[horizon]), label, detail))
    return found


def _curve(label: str, measure: Measure, *, dashed: bool = False) -> Curve:
    steps = tuple(h for h, n in measure.n.items() if n)
    low, high = zip(*(measure.interval[h] for h in steps), strict=True) if steps else ((), ())
    n = min((measure.n[h] for h in steps), default=0)
    return Curve(label, steps, tuple(measure.value[h] for h in steps), n, low, high, dashed)


def _compared(result: CounterfactualResult, name: str) -> tuple[Curve, ...]:
    """The model and what it must beat."""
    return tuple(
        _curve(label, result[name + end], dashed=bool(end))
        for end, label in _BESIDE.items()
        if name + end in result.measures
    )


def _numbers(result: CounterfactualResult, command: str) -> Table:
    """Every measure at every horizon."""
    steps = tuple(result["effect_error"].value)
    rows: list[tuple[str, ...]] = []
    for name, label in _ROWS.items():
        for end, beside in _BESIDE.items():
            if name + end in result.measures and not (name == "effect_error" and end):
                measure = result[name + end]
                cells = [_cell(measure, h) for h in steps]
                rows.append((label if not end else f"– {beside}", *cells, str(min(measure.n.values()))))
    head = ("", *(f"{h} steps" if h > 1 else "1 step" for h in steps), "n at least")
    return Table("All numbers", head, tuple(rows), command, _NUMBERS.format(samples=result.samples))


def _cell(measure: Measure, h: int) -> str:
    if not measure.n[h]:
        return "–"
    low, high = measure.interval[h]
    return f"{measure.value[h]:.2f}" + (f" [{low:.2f}, {high:.2f}]" if _has_ends(measure, h) else ", no interval")


def _has_ends(measure: Measure, h: int) -> bool:
    """Whether its episodes say how much it varies."""
    return not math.isnan(measure.interval[h][0])


def _ends(measure: Measure, h: int) -> str:
    """Its interval, in words."""
    low, high = measure.interval[h]
    return f"{low:.2f} to {high:.2f}" if _has_ends(measure, h) else "no interval"
