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

from worldlab.dynamics import unroll
from worldlab.dynamics.heads import layer, mlp
from worldlab.dynamics.latents import mixed

SHARP = 6.0
"""How much larger than usual the weights of the posterior begin."""

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
    """Of the encoder's stem."""
    blocks: int = 8
    """Diagonal blocks of the GRU."""


SIZES: dict[SizeName, Size] = {
    "tiny": Size(deter=128, hidden=64, stoch=8, classes=8, units=64, channels=8),
    "small": Size(deter=512, hidden=128, stoch=16, classes=16, units=128, channels=16),
    "medium": Size(deter=1024, hidden=192, stoch=24, classes=16, units=192, channels=24),
    "base": Size(deter=2048, hidden=256, stoch=32, classes=16, units=256, channels=32),
}
"""`base` is the paper's 12 M recurrence."""


class BlockLinear(nn.Module):
    """A linear layer whose matrix is block-diagonal."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        """Both sizes are multiples of `blocks`."""
        super().__init__()
        shape = (blocks, inputs // blocks, outputs // blocks)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-1, 1) * shape[1] ** -0.5)
        self.bias = nn.Parameter(torch.zeros(blocks, 1, shape[2]))

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "g b o"]:
        """One row of the result per block."""
        return torch.baddbmm(self.bias, x.unflatten(-1, (len(self.weight), -1)).transpose(0, 1), self.weight)


class Recurrence(nn.Module):
    """h' = GRU(h, z, u), z' ~ prior(h') or posterior(h', e): u is what was done, e what is seen.

    In DreamerV3 h knows of what was seen through samples of z alone. With `correct`, seeing e moves h' too, as a
    filter's update does: what z passes on only bit by bit, h has at once.

    Whatever can be computed for all steps at once is: `push` and `look` come before the loop over time, the prior of a
    posterior trajectory after it.
    """

    def __init__(self, inputs: int, embedding: int, size: Size, *, correct: bool = False) -> None:
        super().__init__()
        self.size, self.inputs = size, inputs
        deter, hidden, latent = size.deter, size.hidden, size.stoch * size.classes
        self.from_deter, self.from_stoch = layer(deter, hidden), layer(latent, hidden)
        # Where a gripper is takes two layers to tell from its joints.
        self.from_input = nn.Sequential(layer(inputs, hidden), layer(hidden, hidden))
        self.mix = nn.Linear(3 * hidden, deter)
        self.within = BlockLinear(deter, deter, size.blocks)
        self.norm = nn.LayerNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, size.blocks)
        with torch.no_grad():
            # Per block reset, candidate and update; the last starts nearly shut, so that memory is kept.
            self.gates.bias[..., -(deter // size.blocks) :] = -1.0
        self.prior_net = mlp(deter, hidden, 2, latent)
        self.see_deter = nn.Linear(deter, hidden, bias=False)
        self.see_look = nn.Linear(embedding, hidden, bias=False)
        self.see_norm = nn.LayerNorm(hidden)
        self.posterior_net = nn.Linear(hidden, latent)
        with torch.no_grad():
            # From the start, latents are decided enough to tell what is seen apart: random codes, but codes.
            self.posterior_net.weight.mul_(SHARP)
        self.correction = nn.Linear(hidden, 2 * deter) if correct else None
        # What `unroll` does at every row, there and back, which may be replaced by what a compiler makes of it.
        self.step, self.retreat = unroll.step, unroll.retreat

    def push(self, inputs: Float[Tensor, "*b u"]) -> Float[Tensor, "*b n"]:
        """What was done, as `advance` takes it."""
        return self.from_input(inputs)

    def look(self, embedding: Float[Tensor, "*b e"]) -> Float[Tensor, "*b n"]:
        """What is seen, as `see` takes it."""
        return self.see_look(embedding)

    def advance(
        self, deter: Float[Tensor, "b h"], stoch: Float[Tensor, "b z"], pushed: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b h"]:
        """One step of the deterministic half: DreamerV3's block GRU."""
        low = deter.to(pushed.dtype)  # under autocast: once, and not by each layer that reads it
        parts = torch.cat([self.from_deter(low), self.from_stoch(stoch), pushed], -1)
        within = self.within(low).transpose(0, 1).flatten(1)
        x = functional.silu(self.norm(self.mix(parts) + within))
        # Block by block (g, b, ·), as the block layer leaves them, and turned around once at the end.
        reset, candidate, update = self.gates(x).chunk(3, -1)
        candidate = torch.tanh(reset.sigmoid() * candidate).to(deter.dtype)
        blocks = deter.unflatten(-1, (self.size.blocks, -1)).transpose(0, 1)
        return torch.lerp(blocks, candidate, update.sigmoid().to(deter.dtype)).transpose(0, 1).flatten(1)

    def prior(self, deter: Float[Tensor, "*b h"]) -> Float[Tensor, "*b z c"]:
        """Probabilities of z' before anything is seen."""
        return mixed(self.prior_net(deter), self.size.stoch, self.size.classes)[1]

    def see(
        self, deter: Float[Tensor, "b h"], look: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b z c"]]:
        """h', corrected by what is seen if it may be, and the probabilities of z' once it is seen."""
        x = functional.silu(self.see_norm(self.see_deter(deter) + look))
        p = mixed(self.posterior_net(x), self.size.stoch, self.size.classes)[1]
        if self.correction is None:
            return deter, p
        candidate, update = self.correction(x).to(deter.dtype).chunk(2, -1)
        return torch.lerp(deter, torch.tanh(candidate), update.sigmoid()), p
