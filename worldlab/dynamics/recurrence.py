"""The recurrent state-space model of DreamerV3: a block-diagonal GRU and categorical latents.

Hafner et al. 2023, "Mastering Diverse Domains through World Models"; sizes and order of the layers as in its second
version (danijar/dreamerv3, `rssm.py`). h is the deterministic half of the state (`deter`), z the categorical one
(`stoch`, one-hot, flat).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from worldlab.dynamics.heads import layer, mlp

UNIMIX = 0.01
"""Share of the uniform distribution in every categorical, which keeps the KL divergence finite."""

SizeName = Literal["tiny", "small", "medium", "base"]


@dataclass(frozen=True)
class Size:
    """Widths of every part of the model."""

    deter: int
    """Units of the GRU."""
    hidden: int
    """Width of the layers inside the recurrence."""
    stoch: int
    """Categorical latents."""
    classes: int
    """Of each latent."""
    units: int
    """Width of the heads."""
    channels: int
    """Of the finest grid of the encoder and the decoder."""
    blocks: int = 8
    """Diagonal blocks of the GRU."""


SIZES: dict[SizeName, Size] = {
    "tiny": Size(deter=128, hidden=64, stoch=8, classes=8, units=64, channels=16),
    "small": Size(deter=512, hidden=128, stoch=16, classes=16, units=128, channels=32),
    "medium": Size(deter=1024, hidden=192, stoch=24, classes=16, units=192, channels=40),
    "base": Size(deter=2048, hidden=256, stoch=32, classes=16, units=256, channels=48),
}
"""`base` is the paper's 12 M recurrence."""


class BlockLinear(nn.Module):
    """A linear layer whose matrix is block-diagonal."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        """Both sizes are multiples of `blocks`."""
        super().__init__()
        shape = (blocks, inputs // blocks, outputs // blocks)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-1, 1) * shape[1] ** -0.5)

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "g b o"]:
        """One row of the result per block."""
        return x.unflatten(-1, (len(self.weight), -1)).transpose(0, 1) @ self.weight


class Recurrence(nn.Module):
    """h' = GRU(h, z, u), z' ~ prior(h') or posterior(h', e): u is what was done, e what is seen.

    Whatever can be computed for all steps at once is: `push` and `look` come before the loop over time, the prior of a
    posterior trajectory after it.
    """

    def __init__(self, inputs: int, embedding: int, size: Size) -> None:
        super().__init__()
        self.size, self.inputs = size, inputs
        deter, hidden, latent = size.deter, size.hidden, size.stoch * size.classes
        self.from_deter, self.from_stoch = layer(deter, hidden), layer(latent, hidden)
        self.from_input = layer(inputs, hidden)
        self.mix = nn.Linear(3 * hidden, deter)
        self.within = BlockLinear(deter, deter, size.blocks)
        self.norm = nn.LayerNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, size.blocks)
        self.bias = nn.Parameter(torch.zeros(3, deter))
        self.prior_net = mlp(deter, hidden, 2, latent)
        self.see_deter, self.see = nn.Linear(deter, hidden, bias=False), nn.Linear(embedding, hidden, bias=False)
        self.see_norm = nn.LayerNorm(hidden)
        self.posterior_net = nn.Linear(hidden, latent)

    def push(self, inputs: Float[Tensor, "*b u"]) -> Float[Tensor, "*b n"]:
        """What was done, as `advance` takes it."""
        return self.from_input(inputs)

    def look(self, embedding: Float[Tensor, "*b e"]) -> Float[Tensor, "*b n"]:
        """What is seen, as `posterior` takes it."""
        return self.see(embedding)

    def advance(
        self, deter: Float[Tensor, "b h"], stoch: Float[Tensor, "b z"], pushed: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b h"]:
        """One step of the deterministic half: DreamerV3's block GRU."""
        parts = torch.cat([self.from_deter(deter), self.from_stoch(stoch), pushed], -1)
        within = self.within(deter).transpose(0, 1).flatten(1)
        x = functional.silu(self.norm(self.mix(parts) + within))
        # The gates of one block stand side by side.
        reset, candidate, update = (
            gate.transpose(0, 1).flatten(1) + bias
            for gate, bias in zip(self.gates(x).chunk(3, -1), self.bias, strict=True)
        )
        candidate = torch.tanh(reset.sigmoid() * candidate)
        return torch.lerp(deter, candidate.to(deter.dtype), (update - 1).sigmoid().to(deter.dtype))

    def prior(self, deter: Float[Tensor, "*b h"]) -> Float[Tensor, "*b z c"]:
        """Log-probabilities of z' before anything is seen."""
        return self._mixed(self.prior_net(deter))

    def posterior(self, deter: Float[Tensor, "*b h"], look: Float[Tensor, "*b n"]) -> Float[Tensor, "*b z c"]:
        """Log-probabilities of z' once something is seen."""
        return self._mixed(self.posterior_net(functional.silu(self.see_norm(self.see_deter(deter) + look))))

    def _mixed(self, flat: Float[Tensor, "*b n"]) -> Float[Tensor, "*b z c"]:
        logits = flat.float().unflatten(-1, (self.size.stoch, self.size.classes))
        return ((1 - UNIMIX) * logits.softmax(-1) + UNIMIX / self.size.classes).log()


def sample(logits: Float[Tensor, "*b z c"], noise: Float[Tensor, "*b z c"] | None = None) -> Float[Tensor, "*b n"]:
    """One-hot latents, flat: the likeliest, or with Gumbel noise a sample; straight-through gradients."""
    best = (logits if noise is None else logits + noise).argmax(-1, keepdim=True)
    hard = torch.zeros_like(logits).scatter(-1, best, 1.0)
    probabilities = logits.exp()
    return (hard + probabilities - probabilities.detach()).flatten(-2)


def gumbel(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise on the generator's device; the default generator if there is none."""
    device = "cpu" if generator is None else generator.device
    return -torch.empty(shape, device=device).exponential_(generator=generator).log()


def divergence(p: Float[Tensor, "*b z c"], q: Float[Tensor, "*b z c"]) -> Float[Tensor, "*b"]:
    """KL(p ‖ q) of log-probabilities, summed over the latents, nats."""
    return (p.exp() * (p - q)).sum((-1, -2))
