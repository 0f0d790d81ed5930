"""pi0-FAST: the trunk writes the words of a chunk's cosine transform, one after the other.

Decoding is held to words that fit into what is left of the chunk, so the result is always a whole chunk. How often the
head wanted a word that does not fit is counted; where openpi meets such a sequence, it acts by zeros.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from worldlab.errors import UsageError
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.fast_tokens import FastTokenizer
from worldlab.policies.head import Facts, Head, Interface, Noise, masked_mean
from worldlab.policies.vla import VLAConfig
from worldlab.policies.writer import AutoregressiveDecoder


@dataclass(frozen=True, kw_only=True)
class FastSettings:
    """Of the words."""

    vocabulary: int = 256
    """Words of the action vocabulary (pi0-FAST has 1,024). Rare words are hardly learnt from few demonstrations."""
    scale: float = 10.0
    """Steps per unit of a coefficient, as in pi0-FAST. The rounding error of an action is about 0.3 / scale of what
    [-1, 1] stands for."""


@dataclass(frozen=True, kw_only=True)
class FastConfig(FastSettings, VLAConfig):
    """An autoregressive head of FAST words."""

    kind: Literal["fast"] = "fast"
    """Tells the heads apart in a run."""


class FastHead(Head):
    """The trunk writes words until they make a chunk."""

    supports_rtc = False

    def __init__(
        self, config: FastSettings, backbone: Backbone, interface: Interface, tokenizer: FastTokenizer | None = None
    ) -> None:
        """`tokenizer` is that of a trained run; without one, `learn` must be called before training.

        Raises:
            UsageError: the vocabulary of a pretrained language model has no room for the words.
        """
        super().__init__()
        self.config = config
        self.needed = (interface.execute + 1) // 2
        self.writer = AutoregressiveDecoder(backbone, interface, config.vocabulary)
        self.tokenizer: FastTokenizer | None = None
        if tokenizer is not None:
            self._use(tokenizer)
        self.chunked = self.written = self.misfits = 0

    def learn(self, action: Float[Tensor, "n k a"]) -> None:
        """Learn the words of the data."""
        self._use(FastTokenizer.learn(action, self.config.scale, self.config.vocabulary))

    def _use(self, tokenizer: FastTokenizer) -> None:
        self.tokenizer = tokenizer
        self.writer.sizes[: len(tokenizer.sizes)] = tokenizer.sizes

    def describe(self) -> str | None:
        """The words."""
        return None if self.tokenizer is None else self.tokenizer.describe()

    def _known(self) -> FastTokenizer:
        if self.tokenizer is None:
            raise UsageError("this head has no words yet: give policies.create a sample of the data as `examples`.")
        return self.tokenizer

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Cross entropy of the words, with teacher forcing.

        A word speaks of the whole chunk, so no step can be left out of the loss. A chunk counts if the first half of
        what would be executed of it is real; the rest is then what `Chunks` holds.
        """
        rows = self._known().encode(action)
        right = pad_sequence(rows, batch_first=True).to(action.device)
        there = torch.arange(right.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        counted = there.to(action.device) & real[:, : self.needed].all(-1, keepdim=True)
        logits = self.writer.forced(backbone, prefix, facts, right)
        error = cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none").unflatten(0, right.shape)
        hit = masked_mean((logits.argmax(-1) == right).float(), counted)
        loss = masked_mean(error, counted)
        return loss, {"fast": loss, "token_accuracy": hit}

    def decode(
        self, backbone: Backbone, prefix: Prefix, facts: Facts
    ) -> tuple[list[list[int]], Float[Tensor, "b n v"]]:
        """The most probable words that fit, one after the other, and their logits."""
        tokenizer = self._known()
        sizes = self.writer.sizes[: len(tokenizer.sizes)]
        left = torch.full((len(prefix.valid),), tokenizer.coefficients, device=prefix.valid.device)
        misfit = torch.zeros_like(left, dtype=torch.bool)

        def choose(i: int, logits: Float[Tensor, "b v"]) -> Int[Tensor, " b"]:
            known = logits[:, : len(sizes)]
            wanted = known.argmax(-1)
            misfit.logical_or_((sizes[wanted] > left) & (left > 0))
            fits = sizes <= left[:, None].clamp(min=1)
            chosen = known.masked_fill(~fits, -torch.inf).argmax(-1)
            left.sub_(sizes[chosen]).clamp_(min=0)
            return chosen

        words, logits = self.writer.write(backbone, prefix, facts, choose, lambda: not bool(left.any()))
        ends = (sizes[words].cumsum(-1) < tokenizer.coefficients).sum(-1) + 1
        rows = [row[:end] for row, end in zip(words.tolist(), ends.tolist(), strict=True)]
        self.chunked += len(rows)
        self.written += int(ends.sum())
        self.misfits += int(misfit.sum())
        return rows, logits

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """Greedy decoding; nothing is random. A cosine transform cannot be held to its first actions."""
        rows, _ = self.decode(backbone, prefix, facts)
        return self._known().decode(rows).to(facts[0])

    @property
    def counts(self) -> dict[str, int]:
        """Chunks, their words, and in how many of them a word had to be refused."""
        return {"chunks": self.chunked, "tokens": self.written, "invalid": self.misfits}
