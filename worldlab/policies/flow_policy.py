"""Flow matching as in pi0 (Black et al. 2024): an action expert denoises a chunk while it attends to the trunk.

t = 1 is noise and t = 0 is data (openpi's convention): x_t = t * noise + (1 - t) * action, and the expert predicts the
velocity u = noise - action.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import silu

from worldlab import seeding
from worldlab.policies import languages
from worldlab.policies.attention import additive, block_causal, positions
from worldlab.policies.backbone import Backbone
from worldlab.policies.prefix import Prefix
from worldlab.policies.vla import Facts, Head, VLAConfig


@dataclass(frozen=True, kw_only=True)
class FlowConfig(VLAConfig):
    """A flow-matching action expert."""

    kind: Literal["flow"] = "flow"
    """Tells the heads apart in a run."""
    width: int = 64
    """Width of the action expert; its depth and heads are the language model's."""
    euler_steps: int = 10
    """Integration steps from noise to a chunk."""
    direct: bool = True
    """Whether every action token is told the facts at its entrance too. pi0 leaves it to attention, which takes a small
    expert longer to learn."""
    draws: int = 6
    """Noise draws for each observation of a training batch; they share one prefix."""


def time_embedding(t: Float[Tensor, "*b"], width: int) -> Float[Tensor, "*b d"]:
    """Sines and cosines of periods from 0.004 to 4 (openpi's `posemb_sincos`)."""
    fraction = torch.linspace(0, 1, width // 2, device=t.device)
    angle = t[..., None] * (2 * math.pi / (4e-3 * (4.0 / 4e-3) ** fraction))
    return torch.cat([angle.sin(), angle.cos()], -1)


class FlowHead(Head):
    """The action expert: [prefix, bidirectional][facts][actions, bidirectional], each block blind to the later ones."""

    def __init__(self, config: FlowConfig, backbone: Backbone, facts: Sequence[int], actions: int) -> None:
        """`facts` are the sizes of the facts, `actions` is the width of an action."""
        super().__init__()
        width = config.width
        self.config = config
        self.facts = Facts(facts, width)
        self.action_in = nn.Linear(actions, width)
        self.time_in, self.time_out = nn.Linear(2 * width, width), nn.Linear(width, width)
        self.expert = languages.build(languages.expert_config(backbone.language.config, width))
        self.expert.set_attn_implementation(backbone.attention)
        del self.expert.embed_tokens  # its tokens are no words
        self.action_out = nn.Linear(width, actions)

    def velocity(
        self,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        x: Float[Tensor, "b n k a"],
        t: Float[Tensor, "b n"],
    ) -> Float[Tensor, "b n k a"]:
        """The predicted noise - action of n draws per row, which share the prefix and do not see each other."""
        n, k = x.shape[1:3]
        time = time_embedding(t, self.config.width)[:, :, None].expand(-1, -1, k, -1)
        known = self.facts(facts)
        if self.config.direct:
            time = time + known.sum(1)[:, None, None]
        noisy = self.time_out(silu(self.time_in(torch.cat([self.action_in(x), time], -1))))
        tokens = torch.cat([known, noisy.flatten(1, 2)], 1)
        context = known.shape[1]
        mask, place = self._mask(prefix.valid, context, n, k)
        hidden = prefix.extend(self.expert, tokens, mask, place)
        prefix.cache.crop(-tokens.shape[1])
        return self.action_out(hidden[:, context:]).unflatten(1, (n, k))

    def _mask(self, valid: Bool[Tensor, "b p"], context: int, n: int, k: int) -> tuple[Tensor, Tensor]:
        """Additive mask of (facts, n draws of k actions) over (prefix, facts, draws), and the tokens' positions."""
        b, length = valid.shape
        draw = torch.cat([torch.zeros(context), 1 + torch.arange(n).repeat_interleave(k)]).to(valid.device)
        block = 1 + (draw > 0).long()
        everyone = torch.cat([valid, valid.new_ones(b, context + n * k)], 1)
        sees = block_causal(block, torch.cat([block.new_zeros(length), block]), everyone)
        drawn = torch.cat([draw.new_zeros(length), draw])
        sees = sees & ((drawn == 0) | (drawn == draw[:, None]))
        step = torch.cat([torch.arange(context), context + torch.arange(k).repeat(n)]).to(valid.device)
        return additive(sees), positions(valid)[:, -1:] + 1 + step

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Squared error of the velocity over real steps, t drawn from Beta(1.5, 1) on (0.001, 1]."""
        b, n = len(action), self.config.draws
        t = 0.001 + 0.999 * torch.rand(b, n, device=action.device) ** (1 / 1.5)
        noise = torch.randn(b, n, *action.shape[1:], device=action.device)
        clean = action[:, None]
        x = t[..., None, None] * noise + (1 - t[..., None, None]) * clean
        error = (self.velocity(prefix, facts, x, t).float() - (noise - clean)).square().mean((1, 3))
        loss = (error * real).sum() / real.sum().clamp(min=1)
        return loss, {"flow": loss}

    def sample(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        seeds: Sequence[int],
        step: int,
        committed: Float[Tensor, "b c a"],
    ) -> Float[Tensor, "b k a"]:
        """Euler steps from noise at t = 1 to a chunk at t = 0; what is committed is on its straight line at every t."""
        shape = (self.config.chunk, self.action_in.in_features)
        noise = seeding.normal(seeds, step, shape).to(facts[0])
        x, c = noise, committed.shape[1]
        for i in range(self.config.euler_steps):
            t = 1 - i / self.config.euler_steps
            x = torch.cat([t * noise[:, :c] + (1 - t) * committed, x[:, c:]], 1)[:, None]
            x = (x - self.velocity(prefix, facts, x, torch.full_like(x[..., 0, 0], t)) / self.config.euler_steps)[:, 0]
        return torch.cat([committed, x[:, c:]], 1)
