"""A policy that knows nothing: smooth random targets."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab import seeding
from worldlab.trajectory import Observation, Spec


class RandomPolicy:
    """Moves from one uniform random target to the next in straight lines, `period` steps each."""

    def __init__(self, spec: Spec, period: int = 8) -> None:
        """`spec` gives the range of each action."""
        self.spec, self.period = spec, period
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self._seeds, self._step = tuple(seeds), 0

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next `period` actions, a pure function of (seed, step)."""
        low, high = torch.tensor(self.spec.low), torch.tensor(self.spec.high)
        here, there = (
            low + (high - low) * seeding.uniform(self._seeds, self._step + ahead, (1, len(low)))
            for ahead in (0, self.period)
        )
        self._step += self.period
        return torch.lerp(here, there, torch.arange(self.period)[:, None] / self.period)
