"""Episodes seen at a coarser step than they were recorded at."""

from dataclasses import replace

from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.trajectory import Spec, Trajectory


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
