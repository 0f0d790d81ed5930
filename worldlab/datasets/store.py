"""The episode store: one plain Zarr v3 group that any Zarr reader opens.

    data.zarr/zarr.json         format version, Spec, provenance, instructions, and the number of committed episodes
    data.zarr/images/front …    one array per column; all episodes lie one after another along the first axis
    data.zarr/episodes          start, length, seed and instruction number of each episode

An append writes rows first, then the episode table, then zarr.json in one atomic replacement: until then the new
episodes do not exist, and whatever a crash left beyond the committed counts is overwritten by the next append.
"""

import secrets
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldlab.datasets import header as headers
from worldlab.datasets import rows
from worldlab.datasets.columns import Column, DamageError, Wanted
from worldlab.datasets.files import Content, Lock, files_at
from worldlab.datasets.header import FORMAT, Header
from worldlab.datasets.shards import ArrayLayout
from worldlab.errors import UsageError
from worldlab.runs import Json
from worldlab.trajectory import Spec, Trajectory

_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'
_GAP = 10_000
"""Seeds this far apart are of different collections."""
_TABLE = ArrayLayout.of("episodes", np.zeros((0, 4), np.int64))


class EpisodeStore:
    """Episodes on disk or on an object store, written once and read back equal.

    Opening takes no lock. The first `append` takes the lock of the only writer and keeps it until `close`, the end of a
    `with` block, or the end of the process, however it ends.
    """

    _lock: Lock | None = None
    _unlock: "weakref.finalize[[], EpisodeStore] | None" = None

    def __init__(self, path: str | Path) -> None:
        """Open an existing store.

        Args:
            path: of its folder, or a URL that fsspec knows ("s3://bucket/data.zarr").

        Raises:
            UsageError: there is none, it is something else, it is damaged, or another version wrote it.
        """
        self.files = files_at(path)
        self._load()

    @classmethod
    def create(cls, path: str | Path, spec: Spec, provenance: Mapping[str, Json] | None = None) -> "EpisodeStore":
        """Start an empty store; `provenance` says where its episodes come from (see `worldlab.runs.provenance`).

        Raises:
            UsageError: something is at `path` already, or it cannot be written.
        """
        files = files_at(path)
        if files.exists():
            raise UsageError(f"'{path}' exists already; choose another path, or open it to append to it.")
        try:
            files.write({f"images/{headers.FILE}": [_GROUP]})
            headers.write(files, Header(FORMAT, secrets.token_hex(8), spec, dict(provenance or {})))
        except OSError as error:
            raise UsageError(f"could not create a store at '{path}': {error.strerror or error}.") from error
        return cls(path)

    def _load(self) -> None:
        """See what is committed."""
        self.header = headers.read(self.files)
        self._columns = {layout.name: Column(self.files, layout) for layout in self.header.columns}
        self._episodes = Column(self.files, _TABLE)
        self._table = np.zeros((0, 4), np.int64)
        if len(self):
            try:
                for column in self._columns.values():
                    column.check(self.header.rows)
                self._episodes.check(len(self))
                self._table = self._episodes.read(0, len(self)).astype(np.int64)
            except DamageError as damage:
                raise self._damaged(damage) from None

    @property
    def path(self) -> str:
        """Of its folder, or its URL."""
        return self.files.root

    @property
    def id(self) -> str:
        """What it was called when it was created, wherever it lies now."""
        return self.header.id

    @property
    def spec(self) -> Spec:
        """The contract of the environment that the episodes come from."""
        return self.header.spec

    @property
    def hold(self) -> int:
        """Control steps for which success had to hold in its episodes (`worldlab.envs.make`)."""
        held = self.provenance.get("hold", 0)
        assert isinstance(held, int)
        return held

    @property
    def provenance(self) -> dict[str, object]:
        """What `create` was told of where the episodes come from."""
        return self.header.provenance

    @property
    def tasks(self) -> tuple[str, ...]:
        """The different instructions, in order of first appearance."""
        return self.header.tasks

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is stored for every row; () before the first append."""
        return tuple(layout.name for layout in self.header.columns)

    @property
    def layouts(self) -> tuple[ArrayLayout, ...]:
        """How each column is stored."""
        return self.header.columns

    @property
    def table(self) -> NDArray[np.int64]:
        """Start, length, seed and instruction number of each episode, (n, 4)."""
        return self._table

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

    def seed_spans(self) -> list[tuple[int, int]]:
        """The seeds as (first, last) of spans, between which lie gaps: small where only successes were kept."""
        seeds = np.unique(self.seeds)
        ends = np.flatnonzero(np.diff(seeds) > _GAP)
        first, last = np.concatenate([[-1], ends]) + 1, np.concatenate([ends, [len(seeds) - 1]])
        return [(int(seeds[a]), int(seeds[b])) for a, b in zip(first, last, strict=True) if len(seeds)]

    @property
    def task_index(self) -> NDArray[np.int64]:
        """Which of `tasks` each episode was given."""
        return self._table[:, 3]

    def __len__(self) -> int:
        return self.header.episodes

    def __getitem__(self, i: int) -> Trajectory:
        """Episode i, leading axes (t,), without padding."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)}")
        columns = {name: self.read(name, [i]) for name in self.columns}
        valid = torch.ones(int(self.lengths[i]), dtype=torch.bool)
        return rows.unflatten(columns, (self.tasks[int(self.task_index[i])],), valid)

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    def read(self, column: str, episodes: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The rows of one column in the given episodes, one after another.

        Raises:
            UsageError: the rows are damaged.
        """
        starts, lengths = self.starts[episodes], self.lengths[episodes]
        layout = self._columns[column].layout
        out = np.empty((int(lengths.sum()), *layout.shape), layout.dtype)
        ends = np.cumsum(lengths)
        self.fill(column, ((int(s), out[e - n : e]) for s, n, e in zip(starts, lengths, ends, strict=True)))
        return torch.from_numpy(out)

    def fill(self, column: str, wanted: Iterable[Wanted]) -> None:
        """Read rows of the common time axis to where they are wanted.

        Raises:
            UsageError: the rows are damaged.
        """
        try:
            self._columns[column].fill(wanted)
        except DamageError as damage:
            raise self._damaged(damage) from None

    def append(self, trajectory: Trajectory, seeds: Sequence[int]) -> None:
        """Store each episode of a batch, leading axes (b, t), without its padding: all of them, or none.

        Args:
            trajectory: from `rollout`, with the Spec of this store.
            seeds: what each episode started from; after `rollout(policy, env, seed)` it is
                `range(seed, seed + env.num_envs)`.

        Raises:
            UsageError: its columns are not the store's, another writer is at work, or the disk is full.
        """
        columns = rows.flatten(trajectory)
        lengths = trajectory.length.numpy().astype(np.int64)
        if len(seeds) != len(lengths):
            raise UsageError(f"{len(lengths)} episodes need as many seeds; {len(seeds)} were given.")
        self.become_writer()
        rows.check(columns, self.spec)
        if len(self):
            self._check_layout(columns)
        tasks = tuple(dict.fromkeys((*self.tasks, *trajectory.obs.task)))
        start = self.header.rows + np.cumsum(lengths) - lengths
        task = [tasks.index(t) for t in trajectory.obs.task]
        table = np.stack([start, lengths, np.asarray(seeds, np.int64), np.asarray(task, np.int64)], axis=1)
        values = {name: x.numpy() for name, x in rows.real_rows(columns, trajectory.valid).items()}
        with self.writing():
            if not len(self):
                self.define([ArrayLayout.of(name, x) for name, x in values.items()])
            content: Content = {}
            for name, x in values.items():
                content |= self._columns[name].extended(x, self.header.rows)
            self.commit(content, table, tasks, self.header.rows + int(lengths.sum()))

    def define(self, layouts: Sequence[ArrayLayout]) -> Mapping[str, Column]:
        """Say what columns there are, before the first commit."""
        self._columns = {layout.name: Column(self.files, layout) for layout in layouts}
        return self._columns

    def commit(
        self, content: Content, table: NDArray[np.int64], tasks: tuple[str, ...], end: int, merged: tuple[str, ...] = ()
    ) -> None:
        """Write files and then the header, from when on the episodes exist.

        Args:
            content: of the files of columns that the episodes need.
            table: start, length, seed and instruction number of each episode.
            tasks: all instructions.
            end: where on the time axis the next append begins.
            merged: ids of the stores that the episodes come from.
        """
        self.files.write(content | self._episodes.extended(table, len(self)))
        header = replace(
            self.header,
            columns=tuple(column.layout for column in self._columns.values()),
            episodes=len(self) + len(table),
            rows=end,
            tasks=tasks,
            merged=(*self.header.merged, *merged),
        )
        headers.write(self.files, header)
        self.header, self._table = header, np.concatenate([self._table, table])

    def _check_layout(self, columns: Mapping[str, Tensor]) -> None:
        """Refuse episodes with other columns than those stored, naming the first difference."""
        for name in dict.fromkeys((*self.columns, *columns)):
            if name not in columns:
                raise UsageError(f"the episodes have no column '{name}', which '{self.path}' has.")
            if name not in self.columns:
                raise UsageError(f"the episodes have a column '{name}', which '{self.path}' has not.")
            have, want = columns[name].shape[2:], self._columns[name].layout.shape
            if tuple(have) != tuple(want):
                raise UsageError(f"column '{name}' has shape {tuple(have)} a row; '{self.path}' has {tuple(want)}.")

    def become_writer(self) -> None:
        """Become the only writer, and see what the last one committed; or say that we are still alive."""
        if self._lock is not None:
            self._lock.renew()
            return
        self._lock = self.files.lock()
        self._unlock = weakref.finalize(self, self._lock.release)
        self._load()

    def close(self) -> None:
        """Let another writer write. The store can still be read."""
        if self._unlock is not None:
            self._unlock()
            self._lock = self._unlock = None

    def __enter__(self) -> "EpisodeStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, damage: DamageError) -> UsageError:
        """What is lost, with the episodes it belongs to."""
        whose = ""
        if damage.rows is not None:
            first, last = damage.rows
            hit = np.flatnonzero((self.starts <= last) & (self.starts + self.lengths > first))
            if len(hit):
                whose = f"; hit: episode {hit[0]}" if len(hit) == 1 else f"; hit: episodes {hit[0]} to {hit[-1]}"
        return UsageError(
            f"'{self.path}' is damaged: {damage}{whose}. Restore it from a copy, or collect those episodes again."
        )

    @contextmanager
    def writing(self) -> Generator[None]:
        """Turn what can go wrong with files into one sentence."""
        try:
            yield
        except DamageError as damage:
            raise self._damaged(damage) from None
        except OSError as error:
            raise UsageError(
                f"could not write to '{self.path}': {error.strerror or error}; its {len(self)} earlier episodes are "
                "intact."
            ) from error
