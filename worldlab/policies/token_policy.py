"""Actions as tokens of 256 bins: one after the other, as in OpenVLA, or all in one pass, as in OpenVLA-OFT."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from worldlab.policies.action_tokens import ActionTokenizer
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.head import Facts, Head, Interface, Noise, masked_mean
from worldlab.policies.vla import VLAConfig
from worldlab.policies.writer import AutoregressiveDecoder, ParallelDecoder


@dataclass(frozen=True, kw_only=True)
class TokenConfig(VLAConfig):
    """An autoregressive head of action tokens."""

    kind: Literal["tokens"] = "tokens"
    """Tells the heads apart in a run."""
    chunk: int = 4
    """Actions predicted at once; each costs as many tokens as it has dimensions."""
    bins: int = 256
    """Bins of each action dimension on [-1, 1]."""
    softness: float = 2.0
    """Width in bins of the Gaussian around the right bin that serves as target; 0 is the plain cross entropy."""


@dataclass(frozen=True, kw_only=True)
class ParallelTokenConfig(VLAConfig):
    """A head that reads all action tokens in one bidirectional pass."""

    kind: Literal["tokens-parallel"] = "tokens-parallel"
    """Tells the heads apart in a run."""
    bins: int = 256
    """Bins of each action dimension on [-1, 1]."""
    softness: float = 2.0
    """Width in bins of the Gaussian around the right bin that serves as target; 0 is the plain cross entropy."""


def target(right: Int[Tensor, "*b"], bins: int, softness: float) -> Float[Tensor, "*b v"]:
    """The distribution to learn: a Gaussian of `softness` bins around the right one."""
    if softness == 0:
        return one_hot(right, bins).float()
    away = torch.arange(bins, device=right.device) - right[..., None]
    return (-0.5 * (away / softness) ** 2).softmax(-1)


class _BinHead(Head):
    """What both heads of bins share: the loss over logits, and the way from classes to actions."""

    def __init__(self, config: TokenConfig | ParallelTokenConfig, backbone: Backbone, interface: Interface) -> None:
        super().__init__()
        self.bins, self.softness, self.actions = config.bins, config.softness, interface.actions
        self.tokenizer = ActionTokenizer(backbone.language.config.vocab_size, config.bins)
        self.chunked = self.written = 0

    def classes(self, action: Float[Tensor, "b k a"]) -> Int[Tensor, "b n"]:
        """The classes of a chunk's numbers, step by step.

        OpenVLA's formula puts the largest number, and all beyond, alone into class 0, which is decoded as class 1 is:
        they are the same bin, and it is learnt as one.
        """
        return (self.tokenizer.encode(action.flatten(1)) - self.tokenizer.first).clamp(min=1)

    def chunk(self, classes: Int[Tensor, "b n"]) -> Float[Tensor, "b k a"]:
        """The inverse of `classes`, at the bins' centres."""
        self.chunked, self.written = self.chunked + len(classes), self.written + classes.numel()
        return self.tokenizer.decode(self.tokenizer.first + classes).unflatten(1, (-1, self.actions))

    def entropy(
        self, logits: Float[Tensor, "b n v"], right: Int[Tensor, "b n"], real: Bool[Tensor, "b k"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Cross entropy over the tokens of real steps; also how often the most probable bin is the right one."""
        error = -(target(right, self.bins, self.softness) * logits.log_softmax(-1)).sum(-1)
        counted = real.repeat_interleave(self.actions, 1)
        loss, hit = masked_mean(error, counted), masked_mean((likeliest(logits) == right).float(), counted)
        return loss, {"tokens": loss, "token_accuracy": hit}

    @property
    def counts(self) -> dict[str, int]:
        """Chunks and their tokens; an invalid one cannot be."""
        return {"chunks": self.chunked, "tokens": self.written, "invalid": 0}


def likeliest(logits: Float[Tensor, "*b v"]) -> Int[Tensor, "*b"]:
    """The most probable class but class 0, which no label has: n edges make n - 1 bins (see `_BinHead.classes`)."""
    return 1 + logits[..., 1:].argmax(-1)


class TokenHead(_BinHead):
    """The trunk writes bins one after the other."""

    def __init__(self, config: TokenConfig, backbone: Backbone, interface: Interface) -> None:
        """Let the trunk write bins.

        Raises:
            UsageError: the vocabulary of a pretrained language model has no room for the bins.
        """
        super().__init__(config, backbone, interface)
        self.writer = AutoregressiveDecoder(backbone, interface, config.bins)

    def decode(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, given: Int[Tensor, "b g"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n v"]]:
        """The most probable class, one after the other, and the logits it was taken from; the first are given."""

        def choose(i: int, logits: Tensor) -> Tensor:
            return given[:, i] if i < given.shape[1] else likeliest(logits)

        return self.writer.write(backbone, prefix, facts, choose, lambda: False)

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Cross entropy with teacher forcing."""
        right = self.classes(action)
        return self.entropy(self.writer.forced(backbone, prefix, facts, right), right, real)

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """Greedy decoding; nothing is random."""
        return self.chunk(self.decode(backbone, prefix, facts, self.classes(committed))[0])


class ParallelTokenHead(_BinHead):
    """One pass, one linear layer over every slot (Kim, Finn and Liang 2025, arXiv:2502.19645, with bins)."""

    supports_rtc = False

    def __init__(self, config: ParallelTokenConfig, backbone: Backbone, interface: Interface) -> None:
        """Set up what reads the slots."""
        super().__init__(config, backbone, interface)
        self.reader = ParallelDecoder(backbone, interface)
        self.logits = nn.Linear(backbone.language.config.hidden_size, config.bins)

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Cross entropy of every slot by itself."""
        logits = self.logits(self.reader(backbone, prefix, facts)).float()
        return self.entropy(logits, self.classes(action), real)

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """The most probable bin of every slot; nothing is random."""
        return self.chunk(likeliest(self.logits(self.reader(backbone, prefix, facts))))
