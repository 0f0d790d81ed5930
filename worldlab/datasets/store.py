"""The episode store: one plain Zarr v3 group that any Zarr reader opens.

    data.zarr/zarr.json         format version, Spec, provenance, instructions, and the number of committed episodes
    data.zarr/images/front …    one array per column; all episodes lie one after another along the first axis
    data.zarr/episodes          start, length, seed and instruction number of each episode

An append writes rows first, then the episode table, then zarr.json in one atomic rename: until then the new episodes
do not exist, and whatever a crash left beyond the committed counts is overwritten by the next append.
"""

import fcntl
import json
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from worldlab.datasets.columns import Column
from worldlab.errors import UsageError
from worldlab.runs import Json, to_json
from worldlab.trajectory import Observation, Spec, Trajectory

FORMAT = 1
"""Version of the layout; a reader refuses stores of a later version."""


@dataclass(frozen=True)
class _Header:
    """What zarr.json says; replacing it is what commits an append."""

    worldlab_store: int
    spec: Spec
    provenance: dict[str, object]
    episodes: int = 0
    rows: int = 0
    tasks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


class EpisodeStore:
    """Episodes on disk, written once and read back equal.

    Opening takes no lock. The first `append` takes the lock of the only writer and keeps it until `close`, the end of a
    `with` block, or the end of the process, however it ends.
    """

    _unlock: "weakref.finalize[[int], EpisodeStore] | None" = None

    def __init__(self, path: str | Path) -> None:
        """Open an existing store.

        Raises:
            UsageError: there is none, it is something else, it is damaged, or a later version wrote it.
        """
        self.path = Path(path)
        self._load()

    @classmethod
    def create(cls, path: str | Path, spec: Spec, provenance: Mapping[str, Json]) -> "EpisodeStore":
        """Start an empty store; `provenance` says where its episodes come from (see `worldlab.runs.provenance`).

        Raises:
            UsageError: something is at `path` already, or it cannot be written.
        """
        if Path(path).exists():
            raise UsageError(f"'{path}' exists already; choose another path, or open it to append to it.")
        header = _Header(FORMAT, spec, dict(provenance))
        try:
            zarr.create_group(str(path), attributes=_attributes(header))
        except OSError as error:
            raise UsageError(f"could not create a store at '{path}': {error.strerror}.") from error
        return cls(path)

    def _load(self, mode: Literal["r", "r+"] = "r") -> None:
        """See what is committed."""
        self._header = _read_header(self.path)
        self._group = zarr.open_group(str(self.path), mode=mode)
        self._columns = {name: Column(self.path, name, self._header.rows, mode) for name in self._header.columns}
        self._table = np.zeros((0, 4), np.int64)
        n = self._header.episodes
        if n:
            self._columns["episodes"] = Column(self.path, "episodes", n, mode)
            self._table = self._columns["episodes"].read(0, n).astype(np.int64)

    @property
    def spec(self) -> Spec:
        """The contract of the environment that the episodes come from."""
        return self._header.spec

    @property
    def provenance(self) -> dict[str, object]:
        """What `create` was told of where the episodes come from."""
        return self._header.provenance

    @property
    def tasks(self) -> tuple[str, ...]:
        """The different instructions, in order of first appearance."""
        return self._header.tasks

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is stored for every row; () before the first append."""
        return self._header.columns

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each episode on the common time axis. Rows between episodes may be unused."""
        return self._table[:, 0]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each episode: one more than its actions."""
        return self._table[:, 1]

    @property
    def seeds(self) -> NDArray[np.int64]:
        """The seed that each episode started from."""
        return self._table[:, 2]

    @property
    def task_index(self) -> NDArray[np.int64]:
        """Which of `tasks` each episode was given."""
        return self._table[:, 3]

    def __len__(self) -> int:
        return self._header.episodes

    def __getitem__(self, i: int) -> Trajectory:
        """Episode i, leading axes (t,), without padding."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)}")
        start, n = int(self.starts[i]), int(self.lengths[i])
        rows = {name: self.read(name, start, start + n) for name in self.columns}
        return trajectory(rows, (self.tasks[int(self.task_index[i])],), torch.ones(n, dtype=torch.bool))

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    def read(self, column: str, start: int, stop: int) -> Tensor:
        """Rows start..stop-1 of one column on the common time axis.

        Raises:
            UsageError: the rows are damaged.
        """
        return torch.from_numpy(self._columns[column].read(start, stop))

    def append(self, trajectory: Trajectory, seeds: Sequence[int]) -> None:
        """Store each episode of a batch, leading axes (b, t), without its padding: all of them, or none.

        Args:
            trajectory: from `rollout`, with the Spec of this store.
            seeds: what each episode started from.

        Raises:
            UsageError: its columns are not the store's, another writer is at work, or the disk is full.
        """
        columns = _flatten(trajectory)
        lengths = trajectory.length.numpy().astype(np.int64)
        if len(seeds) != len(lengths):
            raise UsageError(f"{len(lengths)} episodes need as many seeds; {len(seeds)} were given.")
        self._lock()
        _check(columns, self.spec)
        if len(self):
            self._check_layout(columns)
        tasks = tuple(dict.fromkeys((*self.tasks, *trajectory.obs.task)))
        start = self._header.rows + np.cumsum(lengths) - lengths
        task = [tasks.index(t) for t in trajectory.obs.task]
        table = np.stack([start, lengths, np.asarray(seeds, np.int64), np.asarray(task, np.int64)], axis=1)
        header = replace(
            self._header,
            episodes=len(self) + len(lengths),
            rows=self._header.rows + int(lengths.sum()),
            tasks=tasks,
            columns=tuple(columns),
        )
        try:
            for name, column in columns.items():
                self._extend(name, column[trajectory.valid].numpy(), self._header.rows)
            self._extend("episodes", table, len(self))
            self._group.update_attributes(_attributes(header))
        except OSError as error:
            raise UsageError(
                f"could not write to '{self.path}': {error.strerror}; its {len(self)} earlier episodes are intact."
            ) from error
        self._header, self._table = header, np.concatenate([self._table, table])

    def _extend(self, name: str, values: NDArray[np.generic], at: int) -> None:
        if len(self) == 0:
            self._columns[name] = Column.create(self.path, name, values)
        self._columns[name].extend(values, at)

    def _check_layout(self, columns: Mapping[str, Tensor]) -> None:
        """Refuse episodes with other columns than those stored, naming the first difference."""
        for name in dict.fromkeys((*self.columns, *columns)):
            if name not in columns:
                raise UsageError(f"the episodes have no column '{name}', which '{self.path}' has.")
            if name not in self.columns:
                raise UsageError(f"the episodes have a column '{name}', which '{self.path}' has not.")
            have, want = columns[name].shape[2:], self._columns[name].shape
            if tuple(have) != tuple(want):
                raise UsageError(f"column '{name}' has shape {tuple(have)} a row; '{self.path}' has {tuple(want)}.")

    def _lock(self) -> None:
        """Become the only writer, and see what the last one committed."""
        if self._unlock is not None:
            return
        # A lock on the folder itself: it needs no file, and the kernel drops it with the process.
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                f"'{self.path}' is being written by another writer; wait for it, or write to another store."
            ) from None
        self._unlock = weakref.finalize(self, os.close, handle)
        for left_by_a_crash in self.path.rglob("*.partial"):
            left_by_a_crash.unlink()
        self._load("r+")

    def close(self) -> None:
        """Let another writer write. The store can still be read."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def __enter__(self) -> "EpisodeStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _attributes(header: _Header) -> dict[str, Json]:
    attributes = to_json(asdict(header))
    assert isinstance(attributes, dict)
    return attributes


def _read_header(path: Path) -> _Header:
    """The committed state of the store at `path`."""
    if not path.exists():
        raise UsageError(f"no episode store at '{path}': the path does not exist.")
    file = path / "zarr.json"
    foreign = UsageError(f"'{path}' is not an episode store; `worldlab collect` or `worldlab import` makes one.")
    if not file.is_file():
        raise foreign
    try:
        attributes = json.loads(file.read_text(encoding="utf-8")).get("attributes", {})
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise UsageError(f"'{path}' is damaged: its zarr.json is not readable; restore it from a copy.") from None
    version = attributes.get("worldlab_store")
    if not isinstance(version, int):
        raise foreign
    if version > FORMAT:
        raise UsageError(f"'{path}' has store format {version}, and this worldlab reads up to {FORMAT}: upgrade it.")
    try:
        return TypeAdapter(_Header).validate_python(attributes)
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"'{path}' is damaged: '{what}' in its zarr.json is not valid; restore it.") from None


def _flatten(t: Trajectory) -> dict[str, Tensor]:
    """The columns of a trajectory by name."""
    columns = {f"images/{name}": image for name, image in t.obs.images.items()}
    columns |= {"state": t.obs.state, "action": t.action, "reward": t.reward}
    columns |= {"terminated": t.terminated, "success": t.success}
    if t.physics is not None:
        columns["physics"] = t.physics
    if t.privileged is not None:
        columns["privileged"] = t.privileged
    return columns


def trajectory(columns: Mapping[str, Tensor], task: tuple[str, ...], valid: Tensor) -> Trajectory:
    """The inverse of naming the columns of a trajectory; `valid` has its leading axes."""
    images = {name.removeprefix("images/"): x for name, x in columns.items() if name.startswith("images/")}
    return Trajectory(
        obs=Observation(images, columns["state"], task),
        action=columns["action"],
        reward=columns["reward"],
        terminated=columns["terminated"],
        success=columns["success"],
        valid=valid,
        physics=columns.get("physics"),
        privileged=columns.get("privileged"),
    )


def _check(columns: Mapping[str, Tensor], spec: Spec) -> None:
    """Refuse episodes that are not of this Spec, naming the first difference."""
    expected = {f"images/{name}": (*size, 3) for name, size in spec.cameras.items()}
    expected |= {"state": (len(spec.state),), "action": (len(spec.action),)}
    if spec.privileged:
        expected["privileged"] = (len(spec.privileged),)
    for name, shape in expected.items():
        if name not in columns:
            raise UsageError(f"the episodes have no '{name}', which the store's Spec names.")
        if tuple(columns[name].shape[2:]) != shape:
            raise UsageError(
                f"'{name}' has shape {tuple(columns[name].shape[2:])} a row; the store's Spec says {shape}."
            )
    for name in columns:
        if name.startswith("images/") and name not in expected:
            raise UsageError(f"the episodes have '{name}', which the store's Spec does not name.")
