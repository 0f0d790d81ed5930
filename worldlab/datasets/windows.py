"""Random windows of stored episodes, for training."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldlab.datasets.store import EpisodeStore, trajectory
from worldlab.errors import UsageError
from worldlab.seeding import generator
from worldlab.trajectory import Trajectory


class Windows:
    """Shuffled batches of windows; batch i is a pure function of (seed, i), so a training run can resume anywhere.

    Every row that has an action starts one window (with `pad=False`, only where a whole window follows). Batches go
    through all windows in a random order, then through all of them in another.
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
        self._epoch = (-1, np.zeros(0, np.int32))

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
        window = np.concatenate([self._order(int(e))[position[epoch == e]] for e in np.unique(epoch)])
        episode = np.searchsorted(self._ends, window, side="right")
        t = window - np.where(episode > 0, self._ends[episode - 1], 0)
        offset = np.arange(self.length)
        left = (self._rows[episode] - t)[:, None]
        valid = offset < left
        rows = (self._start[episode] + t)[:, None] + np.minimum(offset, left - 1)
        columns = {name: self._gather(name, rows, valid) for name in self.store.columns}
        tasks = tuple(self.store.tasks[i] for i in self._task[episode])
        return trajectory(columns, tasks, torch.from_numpy(valid))

    def _order(self, epoch: int) -> NDArray[np.int32]:
        """The order in which an epoch goes through the windows."""
        if epoch != self._epoch[0]:
            order = torch.randperm(self.count, generator=generator(self.seed, epoch), dtype=torch.int32)
            self._epoch = (epoch, order.numpy())
        return self._epoch[1]

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
