"""What networks predict numbers with: symlog, two-hot distributions and small multilayer perceptrons.

Hafner et al. 2023, "Mastering Diverse Domains through World Models" (DreamerV3), section "Robust predictions".
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

BINS = 255
"""Of a two-hot distribution."""
SYMLOG_LIMIT = 20.0
"""The bins lie evenly between the symlogs -20 and 20."""


def symlog(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """sign(x) ln(1 + |x|): the identity near zero, a logarithm far from it (DreamerV3, eq. 9)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Reads a number off logits over bins that are far apart where numbers are large (DreamerV3, eq. 10 and 11).

    The number is the mean of the bins, so that its scale does not touch the size of gradients.
    """

    bins: Tensor

    def __init__(self, bins: int = BINS) -> None:
        """`bins` is odd, so that one of them is zero."""
        super().__init__()
        # Exactly antisymmetric, so that equal logits mean exactly zero.
        upper = symexp(torch.linspace(0, SYMLOG_LIMIT, bins // 2 + 1))
        self.register_buffer("bins", torch.cat([-upper.flip(0)[:-1], upper]), persistent=False)

    def mean(self, logits: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
        """The number that is meant. Bins of either sign are paired before they are summed: they reach 5e8."""
        p, half = logits.float().softmax(-1), len(self.bins) // 2
        return ((p[..., half + 1 :] - p[..., :half].flip(-1)) * self.bins[half + 1 :]).sum(-1)

    def spread(self, x: Float[Tensor, "*b"]) -> tuple[Int[Tensor, "*b 2"], Float[Tensor, "*b 2"]]:
        """The two bins beside a number, and the weights whose mean it is."""
        x = x.float().clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, x.contiguous()).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        share = (x - low) / (high - low)
        return torch.stack([above - 1, above], -1), torch.stack([1 - share, share], -1)

    def loss(self, logits: Float[Tensor, "*b n"], x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Cross-entropy of the two-hot number, nats."""
        bins, weights = self.spread(x)
        return logits.float().logsumexp(-1) - (weights * logits.gather(-1, bins).float()).sum(-1)


def precision(like: Tensor) -> torch.dtype:
    """What layers compute in that are given this: autocast's type, or without it the tensor's own."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


class LayerNorm(nn.LayerNorm):
    """PyTorch's, whose mean and scale Inductor too keeps in the precision of the weights.

    Of bf16 inputs it would round them to bf16 (and write C++ that does not compile of several norms, PyTorch 2.11).
    """

    def forward(self, input: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:  # noqa: A002 - as PyTorch calls it
        """In the precision of the inputs."""
        if torch.compiler.is_compiling():
            return super().forward(input.to(self.weight.dtype)).to(input.dtype)
        return super().forward(input)


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, normalised, SiLU. LayerNorm, which is one kernel on a CPU where RMSNorm is five.

    Without the bias, the norm would hide how large a few inputs are together.
    """
    return nn.Sequential(nn.Linear(inputs, outputs), LayerNorm(outputs), nn.SiLU())


def mlp(inputs: int, width: int, depth: int, outputs: int, *, silent: bool = False) -> nn.Sequential:
    """`depth` hidden layers and a linear one, which starts from zero if `silent`."""
    hidden = [layer(a, b) for a, b in pairwise([inputs, *[width] * depth])]
    last = nn.Linear(width if depth else inputs, outputs)
    if silent:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*hidden, last)
