"""Flow matching as in pi0 (Black et al. 2024): an action expert denoises a chunk while it attends to the trunk.

t = 1 is noise and t = 0 is data (openpi's convention): x_t = t * noise + (1 - t) * action, and the expert predicts the
velocity u = noise - action.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.policies.action_expert import ActionExpert, Conditioning, Context
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.head import Facts, Head, Interface, Noise, masked_mean
from worldlab.policies.vla import VLAConfig


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Of the action expert and its noise."""

    width: int = 64
    """Width of the action expert; its depth and heads are the language model's."""
    mlp: int | None = None
    """Width of its MLPs; None is 8/3 of its own (pi0 has 4 times its own)."""
    conditioning: Conditioning = "token"
    """How the expert learns of time and state: "token" is pi0's, "adarms" is pi0.5's."""
    euler_steps: int = 10
    """Integration steps from noise to a chunk."""
    draws: int = 6
    """Noise draws for each observation of a training batch; they share one prefix."""
    max_delay: int = 0
    """Training-time real-time chunking (Black et al. 2025, arXiv:2512.05964): up to so many first actions of a chunk
    are given without noise, as they are while the arm executes them. Longer commitments are kept by inpainting."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig(FlowSettings, VLAConfig):
    """A flow-matching action expert."""

    kind: Literal["flow"] = "flow"
    """Tells the heads apart in a run."""


class FlowHead(Head):
    """Integrates the expert's velocity from noise to a chunk."""

    def __init__(self, config: FlowSettings, backbone: Backbone, interface: Interface) -> None:
        """Set up the expert beside the trunk."""
        super().__init__()
        self.config, self.chunk = config, (interface.steps, interface.actions)
        self.expert = ActionExpert(backbone.language.config, config.width, interface, config.conditioning, config.mlp)

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Squared error of the velocity over real steps, t drawn from Beta(1.5, 1) on (0.001, 1]."""
        b, n, k = len(action), self.config.draws, action.shape[1]
        noise = torch.randn(b, n, *action.shape[1:], device=action.device)
        t = 0.001 + 0.999 * torch.rand(b, n, 1, device=action.device) ** (1 / 1.5)
        t, given = t.expand(-1, -1, k), torch.zeros(b, n, k, dtype=torch.bool, device=action.device)
        if self.config.max_delay > 0:
            delay = torch.randint(self.config.max_delay + 1, (b, n, 1), device=action.device)
            given = torch.arange(k, device=action.device) < delay
            t = torch.where(given, 0.0, t)
        loss = self.error(self.expert.read(prefix, facts, k), action, noise, t, real[:, None] & ~given)
        return loss, {"flow": loss}

    def error(
        self,
        context: Context,
        action: Float[Tensor, "b k a"],
        noise: Float[Tensor, "b n k a"],
        t: Float[Tensor, "b n k"],
        counted: Bool[Tensor, "b n k"],
    ) -> Float[Tensor, ""]:
        """The loss for given noise and times."""
        x = t[..., None] * noise + (1 - t[..., None]) * action[:, None]
        wrong = self.expert(context, x, t).float() - (noise - action[:, None])
        return masked_mean(wrong.square().mean(-1), counted)

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """Euler steps from noise at t = 1 to a chunk at t = 0.

        What is committed is clean at every step if training did the same (`max_delay`), and else on its own straight
        line between noise and action (inpainting).
        """
        context = self.expert.read(prefix, facts, self.chunk[0])
        return self.integrate(context, noise.normal(*self.chunk).to(facts[0]), committed)

    def integrate(
        self, context: Context, noise: Float[Tensor, "b k a"], committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """The chunk that a given noise becomes."""
        c, steps = committed.shape[1], self.config.euler_steps
        clean = c <= self.config.max_delay
        t = 1 - torch.arange(steps, device=noise.device) / steps
        levels = t[:, None].repeat(len(noise), 1, noise.shape[1])
        if clean:
            levels[..., :c] = 0
        level = self.expert.level(context, levels)
        x = noise
        for i in range(steps):
            start = committed if clean else t[i] * noise[:, :c] + (1 - t[i]) * committed
            x = torch.cat([start, x[:, c:]], 1)
            x = x - self.expert.predict(context, x[:, None], level[i])[:, 0] / steps
        return torch.cat([committed, x[:, c:]], 1)
