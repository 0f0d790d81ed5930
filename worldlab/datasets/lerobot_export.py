"""LeRobot's dataset format (v3.0), written through LeRobot's own API.

An export is made of parts of a few episodes, each a whole LeRobot dataset that appears by one rename; LeRobot merges
them at the end. So an export that was killed goes on after its last part, the memory in use does not grow with the
store, and the result does not depend on how often it was interrupted.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from worldlab import so101
from worldlab.datasets.lerobot_format import COLUMNS, EXTRAS, IMAGE, ROBOT, is_so101, quiet
from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.runs import Json, to_json, write_atomically
from worldlab.trajectory import Spec, Trajectory, stack

type Feature = dict[str, str | tuple[int, ...] | list[str] | None]
type Frame = dict[str, NDArray[np.generic] | str]

_REPO = "worldlab/export"
"""LeRobot wants a name for what it writes, and does not write it down."""


@dataclass(frozen=True)
class _Plan:
    """What an export consists of; one that is continued must be the same."""

    store: str
    store_id: str
    seeds: tuple[int, ...]
    episodes: tuple[int, ...]
    spec: Spec
    video: bool
    physics: bool
    part: int

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """The episodes of each part."""
        return [self.episodes[i : i + self.part] for i in range(0, len(self.episodes), self.part)]


def export_dataset(
    store: EpisodeStore,
    out: str | Path,
    *,
    video: bool = True,
    physics: bool = False,
    episodes: Sequence[int] | None = None,
    part: int = 50,
    show: bool = True,
) -> Path:
    """Write a store as a dataset that `LeRobotDataset(any_name, root=out)` opens; it appears whole or not at all.

    Joint positions of the SO-101 are written in its follower's units (degrees, gripper 0 to 100), anything else as it
    is. If the process is killed, the same call continues from `<out>.partial`. Episodes without an action, which
    LeRobot has no frame for, are left out.

    Args:
        store: the episodes.
        out: a new folder.
        video: encode the cameras as H.264, exact to 2 of 255 levels or so; otherwise as PNG, exact and larger.
        physics: also write physics and privileged state, as features that LeRobot's policies ignore.
        episodes: which to write; None writes all.
        part: episodes that are written before they are safe.
        show: whether to draw a progress bar on stderr.

    Returns:
        The folder.

    Raises:
        UsageError: the store is empty or has no physics to write, `out` exists, what is in `<out>.partial` is another
            export, or the disk is full.
    """
    out = Path(out)
    plan = _plan(store, video, physics, episodes, part)
    _check(store, out, plan)
    work = out.with_name(f"{out.name}.partial")
    try:
        _begin(work, plan)
        parts = [work / f"part-{k:06d}" for k in range(len(plan.parts))]
        missing = [(folder, chosen) for folder, chosen in zip(parts, plan.parts, strict=True) if not folder.exists()]
        done = len(plan.episodes) - sum(len(chosen) for _, chosen in missing)
        with quiet(), Progress(console=Console(stderr=True), disable=not show) as progress:
            bar = progress.add_task("exporting", total=len(plan.episodes), completed=done)
            for folder, chosen in missing:
                for _ in _write_part(store, plan, chosen, folder):
                    progress.advance(bar)
        _merge(parts, work / "merged")
        (work / "merged").rename(out)
        shutil.rmtree(work)
    except OSError as error:
        raise UsageError(f"could not write the dataset '{out}': {error.strerror or error}.") from error
    return out


def _plan(store: EpisodeStore, video: bool, physics: bool, episodes: Sequence[int] | None, part: int) -> _Plan:
    wanted = range(len(store)) if episodes is None else episodes
    chosen = tuple(int(i) for i in wanted if store.lengths[i] > 1)
    if not chosen:
        raise UsageError(f"'{store.path}' holds no actions to export; collect episodes first.")
    spec = store.spec if physics else replace(store.spec, privileged=())
    seeds = tuple(int(store.seeds[i]) for i in chosen)
    return _Plan(str(store.path), store.id, seeds, chosen, spec, video, physics, part)


def _check(store: EpisodeStore, out: Path, plan: _Plan) -> None:
    if out.exists():
        raise UsageError(f"'{out}' exists already; choose another --out.")
    if plan.physics and store[plan.episodes[0]].physics is None:
        raise UsageError(f"'{store.path}' has no physics to export: its episodes do not come from a simulator.")


def _begin(work: Path, plan: _Plan) -> None:
    """Make the folder of the parts, or see that those in it are of the same export."""
    file, content = work / "plan.json", json.dumps(to_json(asdict(plan)))
    if file.exists() and file.read_text(encoding="utf-8") != content:
        raise UsageError(f"'{work}' is an unfinished export of something else; remove it, or choose another --out.")
    write_atomically(file, content)


def _write_part(store: EpisodeStore, plan: _Plan, chosen: Sequence[int], part: Path) -> Iterator[None]:
    """Write some episodes as a dataset of their own, yielding after each."""
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    writing = part.with_name("writing")
    shutil.rmtree(writing, ignore_errors=True)
    dataset = LeRobotDataset.create(
        _REPO,
        plan.spec.fps,
        features(plan, store[chosen[0]]),
        root=writing,
        robot_type=ROBOT if is_so101(plan.spec) else None,
        use_videos=plan.video,
        # Lossless in YUV, which costs rendered frames little. LeRobot's own choice halves the resolution of colours:
        # 27 dB at 64 x 64, whatever the crf, where this has 52.
        rgb_encoder=RGBEncoderConfig(vcodec="h264", pix_fmt="yuv444p", crf=0) if plan.video else None,
        video_backend="pyav",  # it would try torchcodec first, and print pages where that cannot load
        streaming_encoding=plan.video,
        # A frame that finds the queue full for 0.1 s is dropped.
        encoder_queue_maxsize=max(int(store.lengths[i]) for i in chosen),
        encoder_threads=1 if plan.video else None,
    )
    finals: list[Trajectory] = []
    for i in chosen:
        episode = _selected(store[i], plan)
        for frame in _frames(episode, plan.spec):
            dataset.add_frame(frame)
        dataset.save_episode(parallel_encoding=False)
        last = len(episode.valid) - 1
        finals.append(episode.rows(last, last + 1))
        yield
    dataset.finalize()
    with EpisodeStore.create(writing / EXTRAS, plan.spec, _provenance(store)) as extras:
        extras.append(stack(finals), [int(store.seeds[i]) for i in chosen])
    writing.rename(part)


def _merge(parts: Sequence[Path], merged: Path) -> None:
    """Make one dataset of the parts, with LeRobot's own function; the files are copied as they are."""
    from lerobot.datasets.aggregate import aggregate_datasets

    shutil.rmtree(merged, ignore_errors=True)
    with redirect_stderr(StringIO()):  # it draws bars of its own
        aggregate_datasets(
            [_REPO] * len(parts),
            _REPO,
            roots=list(parts),
            aggr_root=merged,
            # Otherwise it would write the whole file anew for every part.
            concatenate_videos=False,
            concatenate_data=False,
        )
    sources = [EpisodeStore(part / EXTRAS) for part in parts]
    with EpisodeStore.create(merged / EXTRAS, sources[0].spec, _provenance(sources[0])) as extras:
        for source in sources:
            extras.append(stack(list(source)), source.seeds.tolist())


def _provenance(store: EpisodeStore) -> dict[str, Json]:
    about = to_json(store.provenance)
    assert isinstance(about, dict)
    return about


def _selected(episode: Trajectory, plan: _Plan) -> Trajectory:
    """Without what only a simulator knows, unless that is asked for."""
    return episode if plan.physics else replace(episode, physics=None, privileged=None)


def features(plan: _Plan, episode: Trajectory) -> dict[str, Feature]:
    """LeRobot's description of what a frame holds."""
    spec, kind = plan.spec, "video" if plan.video else "image"
    described: dict[str, Feature] = {
        IMAGE + name: {"dtype": kind, "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for name, size in spec.cameras.items()
    }
    names = {"state": list(spec.state), "action": list(spec.action), "privileged": list(spec.privileged)}
    for name, column in _columns(_selected(episode, plan), spec).items():
        described[COLUMNS[name]] = {
            "dtype": str(column.dtype),
            "shape": column.shape[1:],
            "names": names.get(name) or None,
        }
    return described


def _columns(episode: Trajectory, spec: Spec) -> Mapping[str, NDArray[np.generic]]:
    """The numbers of an episode, in LeRobot's units."""

    def units(x: Tensor) -> Tensor:
        return so101.to_lerobot(x) if is_so101(spec) else x

    columns = {
        "state": units(episode.obs.state),
        "action": units(episode.action),
        "reward": episode.reward[:, None],
        "terminated": episode.terminated[:, None],
        "success": episode.success[:, None],
        "physics": episode.physics,
        "privileged": episode.privileged,
    }
    return {name: column.numpy() for name, column in columns.items() if column is not None}


def _frames(episode: Trajectory, spec: Spec) -> Iterator[Frame]:
    """The rows of an episode that have an action, as LeRobot's frames."""
    columns = {COLUMNS[name]: column for name, column in _columns(episode, spec).items()}
    columns |= {IMAGE + name: image.numpy() for name, image in episode.obs.images.items()}
    for t in range(len(episode.valid) - 1):
        yield {"task": episode.obs.task[0]} | {name: column[t] for name, column in columns.items()}
