"""What every action head has in common."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldlab import seeding
from worldlab.policies.backbone import Backbone, Prefix

type Facts = Sequence[Float[Tensor, "b _"]]
"""What a head is told beside the prefix: the joint positions and, with grounding, the point."""


@dataclass(frozen=True)
class Interface:
    """What a head is given, and what is wanted of it."""

    facts: tuple[int, ...]
    """Sizes of the facts."""
    direct: bool
    """See `VLAConfig`."""
    steps: int
    """Actions of a chunk."""
    actions: int
    """Width of an action."""
    execute: int
    """Actions of a chunk that are executed."""


@dataclass(frozen=True)
class Noise:
    """Whose chunk is sampled, and when: everything random is keyed by it."""

    seeds: Sequence[int]
    """Of the episodes."""
    step: int
    """Control steps since they began."""

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, on the CPU whatever the device, so that every device draws the same."""
        return seeding.normal(self.seeds, self.step, shape)


class Head(nn.Module):
    """Turns the trunk's prefix and a few facts into a chunk of actions (scaled to about [-1, 1])."""

    supports_rtc: ClassVar[bool] = True
    """Whether a sample goes on from committed actions, as real-time chunking needs."""

    @abstractmethod
    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The scalar to minimise over the steps that are real, and what to log."""

    @abstractmethod
    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """A chunk for each row that goes on from the committed actions."""

    def learn(self, action: Float[Tensor, "n k a"]) -> None:
        """Look at whole chunks of the data before training begins, as a head with a vocabulary of its own must."""

    def describe(self) -> str | None:
        """What `learn` found, for the run's config.json; None where it finds nothing."""
        return None

    @property
    def counts(self) -> dict[str, int]:
        """What was counted while sampling: "chunks", "tokens" and "invalid" for heads that write tokens."""
        return {}


class FactTokens(nn.ModuleList):
    """Each fact (the joint positions, the point) as one token, and all of them for the entrance of other tokens."""

    def __init__(self, interface: Interface, width: int) -> None:
        super().__init__([nn.Linear(size, width) for size in interface.facts])
        self.direct = interface.direct

    def forward(self, facts: Facts) -> Float[Tensor, "b f d"]:
        """One token per fact."""
        return torch.stack([embed(fact) for embed, fact in zip(self, facts, strict=True)], 1)

    def told(self, tokens: Float[Tensor, "b f d"]) -> Float[Tensor, "b 1 d"] | float:
        """What is added to tokens that are told the facts directly; 0 where they are not."""
        return tokens.sum(1, keepdim=True) if self.direct else 0.0


def masked_mean(error: Float[Tensor, "*b"], real: Bool[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The mean over the steps that are real; 0 where there is none. openpi averages over padding too."""
    return (error * real).sum() / real.sum().clamp(min=1)
