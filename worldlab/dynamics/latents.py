"""Categorical latents (DreamerV2, Hafner et al. 2021), mixed with a little of the uniform distribution (DreamerV3)."""

import torch
from jaxtyping import Float
from torch import Tensor

UNIMIX = 0.01
"""Share of the uniform distribution in every categorical, which keeps the KL divergence finite."""


def mixed(logits: Float[Tensor, "*b n"], stoch: int, classes: int) -> tuple[Tensor, Float[Tensor, "*b z c"]]:
    """The softmax of flat logits, and with the share of the uniform distribution in it: (*b, z, c) both."""
    sharp = logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(-1, (stoch, classes)).softmax(-1)
    # One pass for the mixture: both terms at once.
    return sharp, torch.add(sharp.new_tensor(UNIMIX / classes), sharp, alpha=1 - UNIMIX)


def sample(p: Float[Tensor, "*b z c"], noise: Float[Tensor, "*b z"] | None = None) -> Float[Tensor, "*b n"]:
    """One-hot latents, flat, with straight-through gradients: the likeliest, or drawn with uniform noise."""
    known = p.detach()
    if noise is None:
        best = known.argmax(-1, keepdim=True)
    else:
        # The cumulative distribution is inverted; its last value may be rounded to less than the noise.
        below = (known.cumsum(-1) < noise[..., None]).sum(-1, keepdim=True)
        best = below.clamp(max=p.shape[-1] - 1)
    hard = torch.zeros_like(known).scatter_(-1, best, 1.0)
    return (hard + (p - known) if p.requires_grad else hard).flatten(-2)


def divergence(p: Float[Tensor, "*b z c"], q: Float[Tensor, "*b z c"]) -> Float[Tensor, "*b"]:
    """KL(p ‖ q), summed over the latents, nats."""
    return (p * (p.log() - q.log())).sum((-1, -2))
