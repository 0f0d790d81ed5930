"""Does a dream know which branch is best? Rank correlation of returns, and what its choice costs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.eval.pooling import Pooled

SAME = 1e-6
"""Returns that differ by less are equal."""


def ranks(x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    """Ranks from 0, ties sharing their mean."""
    apart = x[..., :, None] - x[..., None, :]
    lower, equal = (apart > SAME).sum(-1), (apart.abs() <= SAME).sum(-1)
    return lower + (equal - 1).double() / 2


def rank_correlation(
    said: Float[Tensor, "s k h"], true: Float[Tensor, "s k h"], known: Bool[Tensor, "s h"] | None = None
) -> Pooled:
    """Spearman's correlation of the branches' returns, mean over the start states where the true returns differ.

    0 where the dream's do not. Start states that are not `known` are left out.
    """
    a, b = (ranks(x.double().movedim(1, -1)) for x in (said, true))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    rho = torch.where(scale > 0, (a * b).sum(-1) / scale.clamp(min=1e-12), 0)
    differ = _differ(true, known)
    return Pooled(rho * differ, differ, differ, limits=(-1.0, 1.0))


def regret(
    said: Float[Tensor, "s k h"], true: Float[Tensor, "s k h"], known: Bool[Tensor, "s h"] | None = None
) -> Pooled:
    """By how much the return of the branch that the dream thinks best falls short of the best one's.

    The mean over the start states where the true returns differ, and over the choices of an undecided dream.
    """
    chosen = (said >= said.amax(1, keepdim=True) - SAME).double()
    short = true.amax(1) - (chosen * true).sum(1) / chosen.sum(1)
    differ = _differ(true, known)
    return Pooled(short * differ, differ, differ)


def _differ(true: Float[Tensor, "s k h"], known: Bool[Tensor, "s h"] | None) -> Float[Tensor, "s h"]:
    """1 where there is anything to choose."""
    differ = (true.amax(1) - true.amin(1)) > SAME
    return (differ if known is None else differ & known).double()
