"""Does a dream know which branch is best? Rank correlation of returns, and what its choice costs."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.eval.pooling import Pooled

SAME = 1e-6
"""Returns that differ by less are equal."""


def ranks(x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    """Ranks from 0, ties sharing their mean."""
    apart = x[..., :, None] - x[..., None, :]
    lower, equal = (apart > SAME).sum(-1), (apart.abs() <= SAME).sum(-1)
    return lower + (equal - 1) / 2


def rank_correlation(said: Float[Tensor, "s k h"], true: Float[Tensor, "s k h"]) -> Pooled:
    """Spearman's correlation of the branches' returns, mean over the start states where the true returns differ.

    0 where the dream's do not.
    """
    a, b = (ranks(x.double().movedim(1, -1)) for x in (said, true))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    rho = torch.where(scale > 0, (a * b).sum(-1) / scale.clamp(min=1e-12), 0)
    differ = _differ(true)
    return Pooled(rho * differ, differ, differ)


def regret(said: Float[Tensor, "s k h"], true: Float[Tensor, "s k h"]) -> Pooled:
    """By how much the return of the branch that the dream thinks best falls short of the best one's.

    The mean over the start states where the true returns differ, and over the choices of an undecided dream.
    """
    chosen = (said >= said.amax(1, keepdim=True) - SAME).double()
    short = true.amax(1) - (chosen * true).sum(1) / chosen.sum(1)
    differ = _differ(true)
    return Pooled(short * differ, differ, differ)


def _differ(true: Float[Tensor, "s k h"]) -> Float[Tensor, "s h"]:
    """1 where there is anything to choose."""
    return ((true.amax(1) - true.amin(1)) > SAME).double()
