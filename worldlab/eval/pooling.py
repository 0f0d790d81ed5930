"""Errors by horizon, pooled over branches and start states, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.seeding import generator

HORIZONS = (1, 2, 5, 10, 20, 50, 100)
"""Steps at which dreams are compared."""
RESAMPLES = 1000

type ByHorizon = dict[int, float]
type Intervals = dict[int, tuple[float, float]]

type Finish = Literal["mean", "root", "psnr"]
"""What is made of a ratio of sums: itself, its square root, or decibels below one."""


@dataclass(frozen=True)
class Measure:
    """One quantity at every horizon."""

    value: ByHorizon
    """nan where nothing counts."""
    interval: Intervals
    """95 % percentile bootstrap over the episodes of the start states: moments of one episode are much alike. nan where
    a single episode counts. Of few episodes it is too narrow (docs/imagining.md)."""
    n: dict[int, int]
    """Cases that count: branches, or start states where the quantity is one of a start state."""


def horizons(steps: int) -> tuple[int, ...]:
    """Those within so many steps."""
    return tuple(h for h in HORIZONS if h <= steps)


def at_horizons(x: Tensor) -> Tensor:
    """The columns of a tensor (..., t) whose index t is after action t."""
    return x[..., [h - 1 for h in horizons(x.shape[-1])]]


@dataclass(frozen=True)
class Pooled:
    """A ratio of sums over start states, at the horizons."""

    numerator: Float[Tensor, "s h"]
    denominator: Float[Tensor, "s h"]
    cases: Float[Tensor, "s h"]
    """How many branches stand behind each."""
    finish: Finish = "mean"

    def measure(self, seed: int, episodes: Sequence[int] | None = None) -> Measure:
        """The ratio of the sums, and how much it depends on which episodes were drawn.

        Args:
            seed: of the resampling.
            episodes: which one each start state is of; None takes each for one of its own.
        """
        n = len(self.numerator)
        known, of = torch.unique(torch.tensor(range(n) if episodes is None else episodes), return_inverse=True)
        drawn = torch.randint(len(known), (RESAMPLES, len(known)), generator=generator(seed))
        times = torch.zeros(RESAMPLES, len(known), dtype=torch.float64)
        times = times.scatter_add_(1, drawn, torch.ones_like(drawn).double())[:, of]
        value = self._ratio(torch.ones(1, n, dtype=torch.float64))[0].tolist()
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        spread = self._ratio(times).nanquantile(ends, 0)
        # Resampled, one episode is always itself: no width would claim certainty.
        counted = torch.zeros(len(known), self.denominator.shape[1]).index_add_(0, of, self.denominator.abs().float())
        low, high = torch.where((counted > 0).sum(0) > 1, spread, torch.nan).tolist()
        cases = self.cases.sum(0).int().tolist()
        steps = HORIZONS[: len(value)]
        return Measure(
            {h: round(x, 4) for h, x in zip(steps, value, strict=True)},
            {h: (round(a, 4), round(b, 4)) for h, a, b in zip(steps, low, high, strict=True)},
            dict(zip(steps, cases, strict=True)),
        )

    def _ratio(self, times: Float[Tensor, "r s"]) -> Float[Tensor, "r h"]:
        """The pooled ratio with every start state counted so many times; nan where nothing counts."""
        ratio = (times @ self.numerator.double()) / (times @ self.denominator.double())
        if self.finish == "root":
            return ratio.sqrt()
        return -10 * ratio.log10() if self.finish == "psnr" else ratio
