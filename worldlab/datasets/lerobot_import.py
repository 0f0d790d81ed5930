"""LeRobot datasets read into an episode store, one episode at a time."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from worldlab import so101
from worldlab.datasets.files import files_at
from worldlab.datasets.lerobot_format import EXTRAS, IMAGE, RECORDED, Units, is_so101, quiet
from worldlab.datasets.lerobot_match import match, spec
from worldlab.datasets.lerobot_source import locate
from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.runs import Json, to_json
from worldlab.trajectory import Observation, Trajectory, join, stack

if TYPE_CHECKING:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

_PORTION_BYTES = 1 << 26
"""Of pictures that are appended together: every append replaces the last file of every column."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    added: int
    """Episodes that were not in the store before."""
    total: int
    """Episodes in the store now."""
    skipped: Mapping[str, str]
    """Feature that was left out -> why."""


def import_dataset(
    source: str | Path,
    out: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    size: tuple[int, int] | None = None,
    units: Units | None = None,
    show: bool = True,
) -> Imported:
    """Read a LeRobot dataset into a store; the same call on the same store goes on after its last episode.

    An SO-101's joints become radians; another robot's numbers stay as they are, with control "raw" and the smallest and
    largest recorded action as limits. Reward, termination and success are zero where the dataset has none.

    LeRobot keeps no observation after the last action. A dataset that worldlab exported carries it beside LeRobot's
    files; for any other, the final row repeats the last observation, so that no recorded action is lost, and an export
    of the store gives the same frames again.

    Args:
        source: a folder in format v3.0 or v2.1, or "owner/name" on the hub.
        out: the store's path or URL, new or from an interrupted import.
        rename: name here -> LeRobot's feature, for cameras (front: observation.images.top) and columns (state, action,
            reward, terminated, success).
        size: height and width that every camera is resized to; None keeps each as it is.
        units: of an SO-101's joints: "degrees", which become radians, or "recorded", which leaves the numbers as they
            are, for recordings made with `use_degrees=false`. None is degrees where the robot's type leaves no doubt.
        show: whether to draw a progress bar on stderr.

    Raises:
        UsageError: `source` is no LeRobot dataset, is of another version, or is damaged; a rename names a feature that
            it does not have; `out` is another store.
    """
    if size is not None and min(size) < 1:
        raise UsageError(f"pictures are at least 1 pixel high and wide; --size was {size[0]} {size[1]}.")
    work = _beside(str(out))
    root = locate(str(source), work)
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    with quiet():
        reader = _Reader(LeRobotDatasetMetadata("worldlab/import", root=root), rename or {}, size, units)
        about: dict[str, Json] = {
            "source": str(Path(source).absolute() if Path(source).exists() else source),
            "rename": dict(rename or {}),
            "size": list(size) if size else None,
            "units": units,
            "final_rows": "recorded" if reader.extras is not None else "repeated",
        }
        with _open_store(out, reader, about) as store, Progress(console=Console(stderr=True), disable=not show) as bar:
            before = len(store)
            task = bar.add_task("importing", total=len(reader), completed=before)
            for episodes in _portions(reader, before):
                first = len(store)
                store.append(stack(episodes), [reader.seed(i) for i in range(first, first + len(episodes))])
                bar.advance(task, len(episodes))
            total = len(store)
    shutil.rmtree(work, ignore_errors=True)
    return Imported(total - before, total, reader.match.skipped)


def _beside(out: str) -> Path:
    """Where to convert an older format: beside a local store."""
    if "://" in out:
        return Path(tempfile.gettempdir()) / f"worldlab-{hashlib.sha256(out.encode()).hexdigest()[:16]}.v30"
    return Path(out).with_name(f"{Path(out).name}.v30")


def _portions(reader: "_Reader", first: int) -> Iterator[list[Trajectory]]:
    """The episodes from one on, as many together as are worth an append."""
    portion: list[Trajectory] = []
    waiting = 0
    for i in range(first, len(reader)):
        portion.append(reader[i])
        waiting += sum(image.nbytes for image in portion[-1].obs.images.values())
        if waiting >= _PORTION_BYTES:
            yield portion
            portion, waiting = [], 0
    if portion:
        yield portion


def _open_store(out: str | Path, reader: "_Reader", about: Mapping[str, Json]) -> EpisodeStore:
    if not files_at(out).exists():
        return EpisodeStore.create(out, reader.spec, {**reader.provenance, "lerobot": about})
    store = EpisodeStore(out)
    if store.provenance.get("lerobot") != about:
        raise UsageError(f"'{out}' exists already and is not of this import; choose another --out.")
    return store


class _Reader:
    """The episodes of a LeRobot dataset as trajectories."""

    def __init__(
        self,
        meta: "LeRobotDatasetMetadata",
        rename: Mapping[str, str],
        size: tuple[int, int] | None,
        units: Units | None,
    ) -> None:
        if meta.tasks is None or meta.episodes is None:
            raise UsageError(f"'{meta.root}' holds no episodes.")
        self._tasks = {int(index): str(name) for name, index in meta.tasks["task_index"].items()}
        self._meta, self._episodes, self._size = meta, meta.episodes, size
        self.match = match(meta.features, rename)
        self.spec = spec(meta, self.match, size, units)
        extras = meta.root / EXTRAS
        self.extras = EpisodeStore(extras) if extras.exists() and units != "recorded" else None
        if self.extras is not None:
            known = self.extras.spec
            self.spec = replace(self.spec, control=known.control, low=known.low, high=known.high)

    @property
    def provenance(self) -> Mapping[str, Json]:
        """Where the episodes come from: what the export was told, or the robot."""
        if self.extras is None:
            return {"env": f"{RECORDED}{self._meta.robot_type or 'unknown'}"}
        about = to_json(self.extras.provenance)
        assert isinstance(about, dict)
        return about

    def __len__(self) -> int:
        return self._meta.total_episodes

    def seed(self, i: int) -> int:
        """What episode i started from, or its number if that is not known."""
        return int(self.extras.seeds[i]) if self._recorded(i) and self.extras is not None else i

    def _recorded(self, i: int) -> bool:
        """Whether the final row of episode i is known; episodes recorded onto an export have none."""
        return self.extras is not None and i < len(self.extras)

    def __getitem__(self, i: int) -> Trajectory:
        """Episode i, leading axes (t,).

        Raises:
            UsageError: its files are missing or damaged.
        """
        try:
            frames = self._frames(i)
        except (OSError, ValueError) as error:
            what = str(error).strip().splitlines()[0]
            raise UsageError(f"episode {i} of '{self._meta.root}' cannot be read: {what}") from error
        if self.extras is None or not self._recorded(i):
            return join([frames, _without_action(frames.rows(len(frames.valid) - 1, len(frames.valid)))])
        final = self.extras[i]
        images = {
            name: _resize(final.obs.images[feature.removeprefix(IMAGE)], self._size)
            for name, feature in self.match.cameras.items()
        }
        return join([frames, replace(final, obs=replace(final.obs, images=images))])

    def _frames(self, i: int) -> Trajectory:
        """The rows of episode i that have an action."""
        from pyarrow import parquet

        wanted = [*dict.fromkeys(self.match.columns.values()), "task_index"]
        wanted += [feature for feature in self.match.cameras.values() if feature in self._meta.image_keys]
        file = self._meta.root / self._meta.get_data_file_path(i)
        table = parquet.read_table(file, columns=wanted, filters=[("episode_index", "==", i)])
        n = int(self._episodes[i]["length"])
        if len(table) != n:
            raise ValueError(f"it has {len(table)} of {n} frames.")

        def numbers(column: str, dtype: torch.dtype, width: int) -> Tensor:
            if column not in self.match.columns:
                return torch.zeros(n, width, dtype=dtype)
            values = table[self.match.columns[column]].to_numpy()
            return torch.from_numpy(np.stack(values).reshape(n, -1)).to(dtype)

        def units(x: Tensor) -> Tensor:
            return so101.from_lerobot(x) if is_so101(self.spec) else x

        def pictures(feature: str) -> Tensor:
            if feature in self._meta.video_keys:
                return self._film(feature, i, n)
            return _decode([picture["bytes"] for picture in table[feature].to_pylist()])

        images = {name: _resize(pictures(feature), self._size) for name, feature in self.match.cameras.items()}
        return Trajectory(
            obs=Observation(
                images,
                units(numbers("state", torch.float32, 0)),
                (self._tasks[int(table["task_index"][0].as_py())],),
            ),
            action=units(numbers("action", torch.float32, 0)),
            reward=numbers("reward", torch.float32, 1)[:, 0],
            terminated=numbers("terminated", torch.bool, 1)[:, 0],
            success=numbers("success", torch.bool, 1)[:, 0],
            valid=torch.ones(n, dtype=torch.bool),
            physics=numbers("physics", torch.float64, 0) if "physics" in self.match.columns else None,
            privileged=numbers("privileged", torch.float32, 0) if "privileged" in self.match.columns else None,
        )

    def _film(self, feature: str, i: int, n: int) -> Tensor:
        """The n frames of a video that belong to episode i, channels last."""
        from lerobot.datasets.video_utils import decode_video_frames

        start = float(self._episodes[i][f"videos/{feature}/from_timestamp"])
        file = self._meta.root / self._meta.get_video_file_path(i, feature)
        # Computed here: in the column "timestamp" they are rounded to float32.
        times = [start + t / self._meta.fps for t in range(n)]
        frames = decode_video_frames(file, times, 1e-4, "pyav", return_uint8=True)
        return frames.movedim(1, -1).contiguous()


def _decode(pictures: Sequence[bytes]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in pictures]))


def _resize(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    from torchvision.transforms.v2.functional import resize

    if size is None or tuple(images.shape[-3:-1]) == size:
        return images
    return resize(images.movedim(-1, -3), list(size), antialias=True).movedim(-3, -1).contiguous()


def _without_action(row: Trajectory) -> Trajectory:
    """The row as a final one."""
    return replace(
        row,
        action=torch.zeros_like(row.action),
        reward=torch.zeros_like(row.reward),
        terminated=torch.zeros_like(row.terminated),
        success=torch.zeros_like(row.success),
    )
