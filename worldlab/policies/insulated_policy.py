"""Knowledge insulation (Driess et al. 2025, arXiv:2505.23705): words teach the trunk, the flow teaches the expert.

The trunk learns to write FAST words; the action expert learns flow matching on what the trunk leaves, without a
gradient into it. The two read the same prefix and never each other. (openpi has no implementation of it.)
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.policies.action_expert import Conditioning
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.fast_policy import FastHead, FastSettings
from worldlab.policies.fast_tokens import FastTokenizer
from worldlab.policies.flow_policy import FlowHead, FlowSettings
from worldlab.policies.head import Facts, Head, Interface, Noise
from worldlab.policies.vla import VLAConfig


@dataclass(frozen=True, kw_only=True)
class InsulatedConfig(FlowSettings, FastSettings, VLAConfig):
    """A flow expert on a trunk that FAST words teach."""

    kind: Literal["flow-insulated"] = "flow-insulated"
    """Tells the heads apart in a run."""
    conditioning: Conditioning = "adarms"
    """As in pi0.5; see `FlowSettings`."""
    state_in_prompt: bool = True
    """As in pi0.5; see `VLAConfig`."""


class InsulatedHead(Head):
    """A `FastHead` that is trained and a `FlowHead` that acts."""

    def __init__(
        self, config: InsulatedConfig, backbone: Backbone, interface: Interface, tokenizer: FastTokenizer | None = None
    ) -> None:
        """See `FlowHead` and `FastHead`."""
        super().__init__()
        self.flow = FlowHead(config, backbone, interface)
        self.fast = FastHead(config, backbone, interface, tokenizer)

    def learn(self, action: Float[Tensor, "n k a"]) -> None:
        """Learn the words of the data."""
        self.fast.learn(action)

    def describe(self) -> str | None:
        """The words."""
        return self.fast.describe()

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The sum of both; the facts, one of which the trunk computes, are insulated too."""
        words, logged = self.fast.loss(backbone, prefix, facts, action, real)
        loss, of_flow = self.flow.loss(backbone, prefix.detach(), [f.detach() for f in facts], action, real)
        return words + loss, logged | of_flow

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """The flow's chunk."""
        return self.flow.sample(backbone, prefix, facts, noise, committed)
