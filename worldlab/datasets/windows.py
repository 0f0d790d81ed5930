"""Random windows of stored episodes, for training."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldlab.datasets import rows
from worldlab.datasets.buffers import Buffers
from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.seeding import generator
from worldlab.trajectory import Trajectory

_EVENTS = ("reward", "terminated", "success")
"""Columns about what happened after a row, up to the next row of the window."""


class Windows:
    """Shuffled batches of windows; batch i is a pure function of (seed, i), so a training run can resume anywhere.

    Every row that has an action starts one window (with `pad=False`, only where a whole window follows). Batches go
    through all windows in a random order, then through all of them in another. Images are decoded as they are needed;
    columns of numbers are decoded once.
    """

    def __init__(
        self,
        store: EpisodeStore,
        length: int = 16,
        batch: int = 32,
        seed: int = 0,
        observed: int | None = None,
        stride: int = 1,
        pad: bool = True,
        episodes: Sequence[int] | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """Index the windows; rows are read when the first batch is asked for.

        Args:
            store: where the episodes are; those appended later are not seen.
            length: rows of a window.
            batch: windows of a batch.
            seed: of the order.
            observed: load images and state for this many first rows only. The rest of the window is then about
                actions, so an episode's last row, which has none, counts as padding.
            stride: control steps from one row of a window to the next, and from one window to the next, for episodes
                in which actions were repeated for so long. Rewards are summed, and success or an end between counts. An
                episode's last row is the last of its windows too, where it ends before a stride is over.
            pad: let windows run past the end of their episode; such rows are zero and not `valid`.
            episodes: which episodes to use; None uses all.
            cache_bytes: keep columns in memory, those with the shortest rows first, while all of them stay below it.

        Raises:
            UsageError: a size is not positive, an episode does not exist, or there is no window.
        """
        observed = length if observed is None else observed
        if not (length > 0 and batch > 0 and stride > 0 and 0 < observed <= length):
            raise UsageError(
                f"windows need 0 < observed <= length, 0 < batch and 0 < stride; got {observed}, {length}, {batch} "
                f"and {stride}."
            )
        chosen = np.arange(len(store)) if episodes is None else np.asarray(episodes, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(store)):
            raise UsageError(f"episodes {chosen.min()} to {chosen.max()} were asked for; there are {len(store)}.")
        self.store, self.length, self.batch, self.seed = store, length, batch, seed
        self.observed, self.stride = observed, stride
        self._episodes = chosen
        lengths = store.lengths[chosen]
        self._packed = np.cumsum(lengths) - lengths  # where each episode begins in a cached column
        self._rows = lengths if observed == length else lengths - 1
        # The last step to an episode's last row may be cut short. Where that row is left out, so is none.
        self._short = stride - 1 if observed == length else 0
        whole = self._rows - (length - 1) * stride + self._short
        first = lengths - 1 if pad else np.minimum(lengths - 1, whole)
        self._ends = np.cumsum(-(-np.maximum(0, first) // stride))
        if self.count == 0:
            kind = "any action" if pad else f"{(length - 2) * stride + 2} rows"
            raise UsageError(f"'{store.path}' has no window: none of the {len(chosen)} episodes used holds {kind}.")
        self._cached = self._affordable(cache_bytes)
        self._cache: dict[str, Tensor] = {}
        self._buffers = Buffers()
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
        t = (window.astype(np.int64) - np.where(episode > 0, self._ends[episode - 1], 0)) * self.stride
        left = self._rows[episode] - t  # rows of the episode from the window's first on
        columns = {name: self._gather(name, episode, t, left) for name in self.store.columns}
        tasks = tuple(self.store.tasks[i] for i in self.store.task_index[self._episodes[episode]])
        valid = np.arange(self.length) * self.stride < left[:, None] + self._short
        return rows.unflatten(columns, tasks, torch.from_numpy(valid))

    def _order(self, epoch: int) -> NDArray[np.int32]:
        """The order in which an epoch goes through the windows."""
        if epoch != self._epoch[0]:
            order = torch.randperm(self.count, generator=generator(self.seed, epoch), dtype=torch.int32)
            self._epoch = (epoch, order.numpy())
        return self._epoch[1]

    def _gather(self, column: str, episode: NDArray[np.int64], t: NDArray[np.int64], left: NDArray[np.int64]) -> Tensor:
        """The windows (b, length) of a column, zero where they run past their episode."""
        if column in _EVENTS and self.stride > 1:
            offset = np.arange(self.length * self.stride)
            steps = self._read(column, episode, t, left, offset, offset < left[:, None])
            steps = steps.unflatten(1, (self.length, self.stride))
            return steps.any(2) if steps.dtype == torch.bool else steps.sum(2)
        seen = self.observed if column == "state" or column.startswith("images/") else self.length
        offset = np.arange(seen) * self.stride
        return self._read(column, episode, t, left, offset, offset < left[:, None] + self._short)

    def _read(
        self,
        column: str,
        episode: NDArray[np.int64],
        t: NDArray[np.int64],
        left: NDArray[np.int64],
        offset: NDArray[np.int64],
        valid: NDArray[np.bool_],
    ) -> Tensor:
        """Rows t + offset of each episode, but none behind its last: (b, len(offset)), zero where not valid."""
        place = t[:, None] + np.minimum(offset, left[:, None] - 1)
        layout = next(layout for layout in self.store.layouts if layout.name == column)
        out = self._buffers.empty((*valid.shape, *layout.shape), layout.dtype)
        if column in self._cached:
            place = self._packed[episode][:, None] + place
            torch.index_select(self._whole(column), 0, torch.from_numpy(place.ravel()), out=out.flatten(0, 1))
        else:
            self._decode(column, self.store.starts[self._episodes[episode]][:, None] + place, valid.sum(1), out)
        if not valid.all():
            out[torch.from_numpy(~valid)] = 0
        return out

    def _decode(self, column: str, place: NDArray[np.int64], count: NDArray[np.int64], out: Tensor) -> None:
        """Read the first `count` of the rows at `place` (b, n) of the common time axis into out (b, n)."""
        columns = place.shape[1]
        run = 1 if self.stride > 1 and columns > 1 else columns  # rows that follow one another
        array = out.numpy()
        self.store.fill(
            column,
            (
                (int(place[i, j]), array[i, j : min(j + run, rows)])
                for i, rows in enumerate(count.tolist())
                for j in range(0, rows, run)
            ),
        )

    def _affordable(self, budget: int) -> set[str]:
        """The columns that are kept in memory."""
        cached = set[str]()
        for layout in sorted(self.store.layouts, key=lambda layout: layout.row_bytes):
            budget -= layout.row_bytes * int(self.store.lengths[self._episodes].sum())
            if budget >= 0:
                cached.add(layout.name)
        return cached

    def _whole(self, column: str) -> Tensor:
        """A cached column: the rows of the chosen episodes one after another."""
        if column not in self._cache:
            self._cache[column] = self.store.read(column, self._episodes)
        return self._cache[column]
