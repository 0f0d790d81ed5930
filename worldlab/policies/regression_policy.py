"""L1 regression of a whole chunk in one pass, as in OpenVLA-OFT (Kim, Finn and Liang 2025, arXiv:2502.19645)."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import relu

from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.head import Facts, Head, Interface, Noise, masked_mean
from worldlab.policies.vla import VLAConfig
from worldlab.policies.writer import ParallelDecoder


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(VLAConfig):
    """A regression head."""

    kind: Literal["l1"] = "l1"
    """Tells the heads apart in a run."""
    width: int = 128
    """Width of the residual network that reads a step's slots."""
    blocks: int = 2
    """Its residual blocks."""


class RegressionHead(Head):
    """The slots of a step, side by side -> its action, through a residual MLP."""

    supports_rtc = False

    def __init__(self, config: RegressionConfig, backbone: Backbone, interface: Interface) -> None:
        """Set up what reads the slots."""
        super().__init__()
        width, entrance = config.width, interface.actions * backbone.language.config.hidden_size
        self.actions = interface.actions
        self.reader = ParallelDecoder(backbone, interface)
        self.entrance = nn.Sequential(nn.LayerNorm(entrance), nn.Linear(entrance, width), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(config.blocks)
        )
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.actions))

    def forward(self, backbone: Backbone, prefix: Prefix, facts: Facts) -> Float[Tensor, "b k a"]:
        """The chunk."""
        slots = self.reader(backbone, prefix, facts)
        x = self.entrance(slots.unflatten(1, (-1, self.actions)).flatten(2))
        for block in self.blocks:
            x = x + relu(block(x))
        return self.exit(x).float()

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean absolute error over real steps."""
        loss = masked_mean((self(backbone, prefix, facts) - action).abs().mean(-1), real)
        return loss, {"l1": loss}

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """The median chunk, so to speak; nothing is random."""
        return self(backbone, prefix, facts)
