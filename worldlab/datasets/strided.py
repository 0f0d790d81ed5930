"""Episodes seen at a coarser step than they were recorded at."""

from dataclasses import replace

import torch

from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.trajectory import Spec, Trajectory

_LOOKED_AT = 4
"""Episodes that tell whether a store's actions were repeated."""


def check_action_repeat(store: EpisodeStore, stride: int) -> None:
    """Raise `UsageError` where actions of the first episodes changed within a stride."""
    for i in range(min(_LOOKED_AT, len(store)) if stride > 1 else 0):
        action = store[i].action[:-1]
        first = torch.arange(len(action)) // stride * stride
        if not torch.equal(action, action[first]):
            raise UsageError(
                f"this model's actions last {stride} control steps, and those of '{store.path}' do not; take a store "
                f"in which they were repeated, such as the replay.zarr of a run of this preset with --env."
            )


class Strided:
    """The episodes of a store, of which every `stride`-th row is shown (`Trajectory.strided`)."""

    def __init__(self, store: EpisodeStore, stride: int) -> None:
        """`stride` is in control steps.

        Raises:
            UsageError: it is not positive.
        """
        if stride < 1:
            raise UsageError(f"a stride is at least 1 control step; got {stride}.")
        self.store, self.stride = store, stride

    @property
    def spec(self) -> Spec:
        """The store's, with fewer steps a second."""
        return replace(self.store.spec, fps=self.store.spec.fps // self.stride)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, episode: int) -> Trajectory:
        """One episode, leading axes (t,)."""
        return self.store[episode].strided(self.stride)
