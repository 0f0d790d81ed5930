"""Random windows of stored episodes, for training."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldlab.datasets.store import EpisodeStore, trajectory
from worldlab.errors import UsageError
from worldlab.seeding import key
from worldlab.trajectory import Trajectory

_ROUNDS = 12
"""Of the network that shuffles: with 4, orders of few windows are visibly not uniform."""


class Windows:
    """Shuffled batches of windows; batch i is a pure function of (seed, i), so a training run can resume anywhere.

    Every row that has an action starts one window (with `pad=False`, only where a whole window follows). Batches go
    through all windows in a random order, then through all of them in another. Nothing is held per window.
    """

    def __init__(
        self,
        store: EpisodeStore,
        length: int = 16,
        batch: int = 32,
        seed: int = 0,
        observed: int | None = None,
        pad: bool = True,
        episodes: Sequence[int] | None = None,
        cache_bytes: int = 6 << 30,
    ) -> None:
        """Index the windows; rows are read when the first batch is asked for.

        Args:
            store: where the episodes are; those appended later are not seen.
            length: rows of a window.
            batch: windows of a batch.
            seed: of the order.
            observed: load images and state for this many first rows only. The rest of the window is then about
                actions, so an episode's last row, which has none, counts as padding.
            pad: let windows run past the end of their episode; such rows are zero and not `valid`.
            episodes: which episodes to use; None uses all.
            cache_bytes: decode a column once and keep it in memory while all that is kept stays below this many bytes.

        Raises:
            UsageError: a size is not positive, an episode does not exist, or there is no window.
        """
        observed = length if observed is None else observed
        if not (length > 0 and batch > 0 and 0 < observed <= length):
            raise UsageError(f"windows need 0 < observed <= length and 0 < batch; got {observed}, {length}, {batch}.")
        chosen = np.arange(len(store)) if episodes is None else np.asarray(episodes, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(store)):
            raise UsageError(f"episodes {chosen.min()} to {chosen.max()} were asked for; there are {len(store)}.")
        self.store, self.length, self.batch, self.seed, self.observed = store, length, batch, seed, observed
        self._start, self._task = store.starts[chosen], store.task_index[chosen]
        rows = store.lengths[chosen]
        self._rows = rows if observed == length else rows - 1
        self._ends = np.cumsum(
            np.maximum(0, np.minimum(rows - 1, math.inf if pad else self._rows - length + 1)), dtype=int
        )
        if self.count == 0:
            kind = "any action" if pad else f"{length} rows"
            raise UsageError(f"'{store.path}' has no window: none of the {len(chosen)} episodes used holds {kind}.")
        self._cache_bytes = cache_bytes
        self._cache: dict[str, Tensor] = {}

    @property
    def count(self) -> int:
        """Number of different windows; an epoch takes `count / batch` batches."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Trajectory]:
        """All batches from the first on, without end."""
        step = 0
        while True:
            yield self[step]
            step += 1

    def __getitem__(self, step: int) -> Trajectory:
        """Batch `step`, leading axes (batch, length); observations have (batch, observed)."""
        drawn = np.arange(step * self.batch, (step + 1) * self.batch)
        epoch, position = drawn // self.count, drawn % self.count
        window = np.concatenate(
            [_permute(position[epoch == e], self.count, key(self.seed, int(e))) for e in np.unique(epoch)]
        )
        episode = np.searchsorted(self._ends, window, side="right")
        t = window - np.where(episode > 0, self._ends[episode - 1], 0)
        offset = np.arange(self.length)
        left = (self._rows[episode] - t)[:, None]
        valid = offset < left
        rows = (self._start[episode] + t)[:, None] + np.minimum(offset, left - 1)
        columns = {name: self._gather(name, rows, valid) for name in self.store.columns}
        tasks = tuple(self.store.tasks[i] for i in self._task[episode])
        return trajectory(columns, tasks, torch.from_numpy(valid))

    def _gather(self, column: str, rows: NDArray[np.int64], valid: NDArray[np.bool_]) -> Tensor:
        """The rows (b, length) of a column, zero where they are not valid."""
        if column == "state" or column.startswith("images/"):
            rows, valid = rows[:, : self.observed], valid[:, : self.observed]
        whole = self._whole(column)
        if whole is None:
            x = torch.stack([self._window(column, window) for window in rows])
        else:
            x = whole.index_select(0, torch.from_numpy(rows.ravel())).unflatten(0, rows.shape)
        if not valid.all():
            x[torch.from_numpy(~valid)] = 0
        return x

    def _window(self, column: str, rows: NDArray[np.int64]) -> Tensor:
        first = int(rows[0])
        return self.store.read(column, first, int(rows[-1]) + 1)[torch.from_numpy(rows - first)]

    def _whole(self, column: str) -> Tensor | None:
        """The column in memory, if it fits there."""
        if column not in self._cache:
            stop = int((self.store.starts + self.store.lengths).max())
            size = stop * self.store.read(column, 0, 1).nbytes
            if size + sum(x.nbytes for x in self._cache.values()) > self._cache_bytes:
                return None
            self._cache[column] = self.store.read(column, 0, stop)
        return self._cache[column]


def _permute(x: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Where a random permutation of range(n) puts x, without building it.

    A balanced Feistel network permutes the smallest range of 4^k numbers that holds n; numbers outside
    range(n) are sent through again until they fall inside (cycle walking; Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
    y = x.astype(np.uint64)
    outside = np.ones(len(y), bool)
    while outside.any():
        left, right = y[outside] >> half, y[outside] & mask
        for k in keys:
            left, right = right, left ^ (_mix(right ^ k) & mask)
        y[outside] = left << half | right
        outside = y >= n
    return y.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash (the finaliser of SplitMix64)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
