"""Errors by horizon, pooled over branches and start states, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

HORIZONS = (1, 2, 5, 10, 20, 50, 100)
"""Steps at which dreams are compared."""

_NOTHING = 1e-6
"""What is less than this is rounding."""

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
    """95 %, by the jackknife over the episodes of the start states: moments of one episode are much alike. nan where a
    single episode counts, and where all are at the end of what is possible. docs/imagining.md has how often it holds
    the truth."""
    n: dict[int, int]
    """Cases that count: branches, or start states where the quantity is one of a start state."""
    episodes: dict[int, int]
    """Episodes that they are of, which is what the interval is about."""


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
    limits: tuple[float, float] = (0.0, inf)
    """Between which the quantity lies; its interval too."""

    def measure(self, episodes: Sequence[int] | None = None) -> Measure:
        """The ratio of the sums, and how much it depends on which episodes were drawn.

        The interval is the jackknife's (Miller 1974, Biometrika 61:1): the standard error from what the finished value
        becomes without each episode, times Student's t. Of values that are means of equally many moments it is exactly
        Student's interval of the episodes' means.

        Args:
            episodes: which one each start state is of; None takes each for one of its own.
        """
        from scipy import stats  # a second to import

        n = len(self.numerator)
        known, of = torch.unique(torch.tensor(range(n) if episodes is None else episodes), return_inverse=True)
        among = one_hot(of, len(known)).T.double()
        counts = among @ self.denominator.double().abs() > 0
        m = counts.sum(0).double()
        value, without = self._ratio(torch.ones(1, n, dtype=torch.float64))[0], self._ratio(1 - among)
        off = torch.where(counts, without - torch.where(counts, without, 0).sum(0) / m, 0)
        error = ((m - 1) / m * off.square().sum(0)).sqrt()
        # A single episode says nothing of others, and nor do several at the end of what is possible.
        at_an_end = torch.isclose(value[:, None], value.new_tensor(self.limits), rtol=0, atol=_NOTHING).any(1)
        error = torch.where((m > 1) & ((error > _NOTHING) | ~at_an_end), error, torch.nan)
        reach = error * torch.from_numpy(stats.t.ppf(0.975, (m - 1).clamp(min=1).numpy()))
        low, high = (end.clamp(*self.limits).tolist() for end in (value - reach, value + reach))
        steps = HORIZONS[: len(value)]
        return Measure(
            {h: round(x, 4) for h, x in zip(steps, value.tolist(), strict=True)},
            {h: (round(a, 4), round(b, 4)) for h, a, b in zip(steps, low, high, strict=True)},
            dict(zip(steps, self.cases.sum(0).int().tolist(), strict=True)),
            dict(zip(steps, m.int().tolist(), strict=True)),
        )

    def _ratio(self, times: Float[Tensor, "r s"]) -> Float[Tensor, "r h"]:
        """The pooled ratio with every start state counted so many times; nan where nothing counts."""
        ratio = (times @ self.numerator.double()) / (times @ self.denominator.double())
        if self.finish == "root":
            return ratio.sqrt()
        return -10 * ratio.log10() if self.finish == "psnr" else ratio
