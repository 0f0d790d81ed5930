"""Actions as tokens, one after the other, as in OpenVLA: the trunk itself goes on from its prefix.

The head asks for ids at the end of the vocabulary alone, in training and in decoding, so an invalid token cannot occur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from worldlab.errors import UsageError
from worldlab.policies.action_tokens import ActionTokenizer
from worldlab.policies.attention import additive, block_causal, positions
from worldlab.policies.backbone import Backbone
from worldlab.policies.prefix import Prefix
from worldlab.policies.vla import Facts, Head, VLAConfig


@dataclass(frozen=True, kw_only=True)
class TokenConfig(VLAConfig):
    """An autoregressive head of action tokens."""

    kind: Literal["tokens"] = "tokens"
    """Tells the heads apart in a run."""
    chunk: int = 4
    """Actions predicted at once; each costs as many tokens as it has dimensions."""
    bins: int = 256
    """Bins of each action dimension, between its 1 % and 99 % quantiles."""
    softness: float = 2.0
    """Width in bins of the Gaussian around the right bin that serves as target; 0 is the plain cross entropy."""


class TokenHead(Head):
    """[prefix, bidirectional][facts][action tokens, causal]; the last fact's output asks for the first token."""

    def __init__(self, config: TokenConfig, backbone: Backbone, facts: Sequence[int], actions: int) -> None:
        """`facts` are the sizes of the facts, `actions` is the width of an action.

        Raises:
            UsageError: the vocabulary of a pretrained language model has no room for the bins.
        """
        super().__init__()
        language = backbone.language.config
        vocabulary = language.vocab_size
        if vocabulary <= config.bins:
            raise UsageError(
                f"a language model of {vocabulary} ids has no room for {config.bins} bins beside its words."
            )
        self.config, self.actions = config, actions
        self.tokenizer = ActionTokenizer(vocabulary, config.bins)
        self.facts = Facts(facts, language.hidden_size)
        self.slot = nn.Parameter(torch.randn(config.chunk * actions, language.hidden_size) * 0.02)
        self.logits = nn.Linear(language.hidden_size, config.bins)

    def _tokens(self, backbone: Backbone, known: Float[Tensor, "b f d"], ids: Int[Tensor, "b n"]) -> Tensor:
        """Embeddings of the facts and of the action tokens so far; whoever asks for slot i is told so."""
        tokens = torch.cat([known, backbone.embed(ids)], 1)
        asking = known.shape[1] - 1
        return torch.cat([tokens[:, :asking], tokens[:, asking:] + self.slot[: tokens.shape[1] - asking]], 1)

    def forced(
        self, backbone: Backbone, prefix: Prefix, facts: Sequence[Float[Tensor, "b _"]], ids: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n v"]:
        """Logits of each of n tokens given the true ones before it (teacher forcing), in one pass."""
        known = self.facts(facts)
        tokens = self._tokens(backbone, known, ids[:, :-1])
        length, f = prefix.valid.shape[1], known.shape[1]
        block = torch.cat([torch.ones(f), 2 + torch.arange(ids.shape[1] - 1)]).to(tokens.device, torch.long)
        everyone = torch.cat([prefix.valid, prefix.valid.new_ones(tokens.shape[:2])], 1)
        sees = block_causal(block, torch.cat([block.new_zeros(length), block]), everyone)
        place = positions(everyone)[:, length:]
        hidden = backbone.extend(prefix, tokens, additive(sees), place)
        prefix.cache.crop(-tokens.shape[1])
        return self.logits(hidden[:, f - 1 :]).float()

    def decode(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        given: Int[Tensor, "b g"] | None = None,
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n v"]]:
        """The most probable next token, one after the other, and the logits it was taken from; the first are given."""
        known = self.facts(facts)
        b, f, _ = known.shape
        ids = torch.zeros(b, 0, dtype=torch.long, device=known.device)
        everyone, new = prefix.valid, f
        logits: list[Tensor] = []
        for i in range(len(self.slot)):
            everyone = torch.cat([everyone, everyone.new_ones(b, new)], 1)
            tokens = self._tokens(backbone, known, ids)[:, -new:]
            sees = everyone[:, None].expand(-1, new, -1)
            place = positions(everyone)[:, -new:]
            hidden = backbone.extend(prefix, tokens, additive(sees), place)
            logits.append(self.logits(hidden[:, -1]).float())
            following = self.tokenizer.first + logits[-1].argmax(-1, keepdim=True)
            if given is not None and i < given.shape[1]:
                following = given[:, i : i + 1]
            ids = torch.cat([ids, following], 1)
            new = 1
        prefix.cache.crop(prefix.valid.shape[1] - everyone.shape[1])
        return ids, torch.stack(logits, 1)

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Cross entropy over the tokens of real steps; also logs how often the most probable bin is the right one."""
        ids = self.tokenizer.encode(action.flatten(1))
        right = ids - self.tokenizer.first
        logits = self.forced(backbone, prefix, facts, ids)
        entropy = -(self.target(right) * logits.log_softmax(-1)).sum(-1)
        weight = real.repeat_interleave(self.actions, 1)
        n = weight.sum().clamp(min=1)
        loss = (entropy * weight).sum() / n
        accuracy = ((logits.argmax(-1) == right) * weight).sum() / n
        return loss, {"tokens": loss, "token_accuracy": accuracy}

    def target(self, right: Int[Tensor, "*b"]) -> Float[Tensor, "*b v"]:
        """The distribution to learn: a Gaussian of `softness` bins around the right one."""
        if self.config.softness == 0:
            return one_hot(right, self.config.bins).float()
        away = torch.arange(self.config.bins, device=right.device) - right[..., None]
        return (-0.5 * (away / self.config.softness) ** 2).softmax(-1)

    def sample(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        seeds: Sequence[int],
        step: int,
        committed: Float[Tensor, "b c a"],
    ) -> Float[Tensor, "b k a"]:
        """Greedy decoding; nothing is random."""
        ids, _ = self.decode(backbone, prefix, facts, self.tokenizer.encode(committed.flatten(1)))
        return self.tokenizer.decode(ids).unflatten(1, (-1, self.actions))
