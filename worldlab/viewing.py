"""Episodes and training curves in the Rerun viewer, or in a file for it where there is no display."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldlab.datasets import EpisodeStore
from worldlab.errors import UsageError
from worldlab.runs import Run
from worldlab.summaries import evaluations
from worldlab.trajectory import Spec, Trajectory

if TYPE_CHECKING:
    from rerun import RecordingStream
    from rerun.blueprint import Blueprint

JPEG_QUALITY = 92
"""Of the frames in a recording; those in the store are exact."""


def has_display() -> bool:
    """Whether a window can be opened."""
    return sys.platform in {"darwin", "win32"} or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_store(store: EpisodeStore, episodes: Sequence[int], out: Path | None) -> str:
    """Open episodes in the Rerun viewer, or write them to a file for it.

    The episodes follow one another on the timelines `step` (rows) and `seconds`. Under `cameras` there is a picture for
    each camera, under `state` and `action` a curve for each dimension; `reward`, `success` and `instruction` are by
    themselves.

    Args:
        store: what to look at.
        episodes: which of it; the first three if none are given.
        out: the .rrd file to write; None opens the viewer.

    Returns:
        What was done, in words.

    Raises:
        UsageError: an episode is not there, or the file cannot be written.
    """
    import rerun as rr

    episodes = episodes or range(min(3, len(store)))
    if wrong := [i for i in episodes if not 0 <= i < len(store)]:
        raise UsageError(f"'{store.path}' has no episode {wrong[0]}; it has {len(store)}, counted from 0.")
    recording = _open(str(store.path), store_blueprint(store.spec), out)
    for name, labels in {"state": store.spec.state, "action": store.spec.action}.items():
        recording.log(name, rr.SeriesLines(names=list(labels)), static=True)
    row = 0
    for i in episodes:
        episode = store[i]
        _log_episode(recording, i, episode, row, store.spec.fps)
        row += len(episode.valid)
    recording.disconnect()
    return _told(out, f"episodes {', '.join(map(str, episodes))}")


def show_run(run: Run, out: Path | None) -> str:
    """Open the training curves of a run in the Rerun viewer, or write them to a file; see `show_store`."""
    import rerun as rr

    recording = _open(str(run.path), None, out)
    lines = [line for line in run.read_log() if "step" in line]
    for name in dict.fromkeys(key for line in lines for key in line if key != "step"):
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if points:
            steps, numbers = zip(*points, strict=True)
            recording.send_columns(
                f"training/{name}",
                [rr.TimeColumn("step", sequence=steps)],
                rr.Scalars.columns(scalars=np.asarray(numbers, np.float64)),
            )
    for result in evaluations(run):
        text = f"{result['env']}: {result['successes']}/{result['n']}, 95 % interval {result['interval']}"
        recording.log("evaluations", rr.TextLog(text), static=True)
    recording.disconnect()
    return _told(out, "training curves")


def _open(name: str, blueprint: "Blueprint | None", out: Path | None) -> "RecordingStream":
    """A recording that goes to the viewer or to a file."""
    import rerun as rr

    recording = rr.RecordingStream("worldlab")
    if out is None:
        recording.spawn(default_blueprint=blueprint)
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.touch()
        except OSError as error:
            raise UsageError(f"could not write '{out}': {error.strerror}; choose another file with --out.") from None
        recording.save(out, default_blueprint=blueprint)
    recording.send_recording_name(name)
    return recording


def _told(out: Path | None, what: str) -> str:
    if out is None:
        return f"{what} opened in the Rerun viewer"
    return f"{what} written; look at them with: rerun {out} (in a browser: rerun --web-viewer {out})"


def store_blueprint(spec: Spec) -> "Blueprint":
    """Cameras and the instruction on the left; states, actions, reward and success on the right."""
    from rerun import blueprint as rrb

    cameras = [rrb.Spatial2DView(origin=f"cameras/{name}", name=name) for name in spec.cameras]
    told = rrb.TextDocumentView(origin="instruction", name="instruction")
    curves = [rrb.TimeSeriesView(origin=name, name=name) for name in ("state", "action")]
    outcome = rrb.TimeSeriesView(contents=["reward", "success"], name="reward and success")
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(*cameras, told, row_shares=[3] * len(cameras) + [1]),
            rrb.Vertical(*curves, outcome, row_shares=[3, 3, 2]),
            column_shares=[2, 3],
        ),
        rrb.TimePanel(timeline="seconds"),
        collapse_panels=True,
    )


def _log_episode(recording: "RecordingStream", i: int, episode: Trajectory, row: int, fps: int) -> None:
    """Put episode i on the timelines, its first row at `row`."""
    import rerun as rr

    n = len(episode.valid)
    _at(recording, row, fps)
    recording.log("instruction", rr.TextDocument(f"episode {i}: {episode.obs.task[0]}"))
    curves = {
        "state": episode.obs.state,
        "action": episode.action[:-1],  # at an episode's last row nothing is done
        "reward": episode.reward[:-1, None],
        "success": episode.success[:-1, None],
    }
    for name, values in curves.items():
        steps = row + np.arange(len(values))
        times = [rr.TimeColumn("step", sequence=steps), rr.TimeColumn("seconds", duration=steps / fps)]
        recording.send_columns(name, times, rr.Scalars.columns(scalars=values.double().numpy()))
    for t in range(n):
        _at(recording, row + t, fps)
        for camera, frames in episode.obs.images.items():
            recording.log(f"cameras/{camera}", rr.Image(frames[t].numpy()).compress(jpeg_quality=JPEG_QUALITY))


def _at(recording: "RecordingStream", row: int, fps: int) -> None:
    """What is logged next belongs to this row."""
    recording.set_time("step", sequence=row)
    recording.set_time("seconds", duration=row / fps)
