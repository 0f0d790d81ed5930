"""Token heads' common part: the trunk itself goes on from its prefix, one token after the other or all at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.policies.attention import additive, block_causal, positions
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.head import Facts, FactTokens, Interface

type Choice = Callable[[int, Float[Tensor, "b v"]], Int[Tensor, " b"]]
"""Number of the token and its logits -> the class to write."""


class AutoregressiveDecoder(nn.Module):
    """[prefix, bidirectional][facts][tokens, causal]; the last fact's output asks for the first token.

    Tokens are classes 0 to v - 1, the last v ids of the trunk's vocabulary. Nothing else can be written, in training or
    in decoding, so a word in place of an action cannot occur. Whoever asks for a token is told with which number of the
    chunk it begins: where tokens stand for several numbers, that does not follow from how many there are before it.
    """

    sizes: Tensor

    def __init__(self, backbone: Backbone, interface: Interface, classes: int) -> None:
        """A chunk takes at most one token for each of its numbers.

        Raises:
            UsageError: the vocabulary of a pretrained language model has no room for the classes.
        """
        super().__init__()
        vocabulary, width = backbone.language.config.vocab_size, backbone.language.config.hidden_size
        if vocabulary <= classes:
            raise UsageError(
                f"a language model of {vocabulary} ids has no room for {classes} action tokens beside its words."
            )
        self.first, self.length = vocabulary - classes, interface.steps * interface.actions
        self.facts = FactTokens(interface, width)
        self.slot = nn.Parameter(torch.randn(self.length, width) * 0.02)
        self.logits = nn.Linear(width, classes)
        self.register_buffer("sizes", torch.ones(classes, dtype=torch.long), persistent=False)
        """How many numbers of the chunk each token stands for."""

    def _tokens(self, backbone: Backbone, known: Float[Tensor, "b f d"], tokens: Int[Tensor, "b n"]) -> Tensor:
        """Embeddings of the facts and of the tokens so far, told what number is asked for."""
        inputs = torch.cat([known, backbone.embed(self.first + tokens)], 1)
        asking = known.shape[1] - 1
        written = torch.cat([tokens.new_zeros(len(tokens), 1), self.sizes[tokens].cumsum(-1)], 1)
        slots = self.slot[written.clamp(max=self.length - 1)] + self.facts.told(known)
        return torch.cat([inputs[:, :asking], inputs[:, asking:] + slots], 1)

    def forced(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, tokens: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n v"]:
        """Logits of each of n tokens given the true ones before it (teacher forcing), in one pass."""
        known = self.facts(facts)
        inputs = self._tokens(backbone, known, tokens[:, :-1])
        f = known.shape[1]
        block = torch.cat([torch.ones(f), 2 + torch.arange(tokens.shape[1] - 1)]).to(inputs.device, torch.long)
        return self.logits(attend(backbone, prefix, inputs, block)[:, f - 1 :]).float()

    def write(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, choose: Choice, done: Callable[[], bool]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n v"]]:
        """Tokens one after the other until all are written or it is `done`, and the logits they were taken from."""
        known = self.facts(facts)
        b, new, _ = known.shape
        tokens = torch.zeros(b, 0, dtype=torch.long, device=known.device)
        everyone = prefix.valid
        logits: list[Tensor] = []
        while len(logits) < self.length and not done():
            everyone = torch.cat([everyone, everyone.new_ones(b, new)], 1)
            inputs = self._tokens(backbone, known, tokens)[:, -new:]
            sees = everyone[:, None].expand(-1, new, -1)
            hidden = backbone.extend(prefix, inputs, additive(sees), positions(everyone)[:, -new:])
            logits.append(self.logits(hidden[:, -1]).float())
            tokens = torch.cat([tokens, choose(len(logits) - 1, logits[-1])[:, None]], 1)
            new = 1
        prefix.cache.crop(prefix.valid.shape[1] - everyone.shape[1])
        return tokens, torch.stack(logits, 1)


class ParallelDecoder(nn.Module):
    """[prefix, bidirectional][facts][slots, bidirectional]: one pass reads every slot, as in OpenVLA-OFT."""

    def __init__(self, backbone: Backbone, interface: Interface) -> None:
        """There is a slot for each number of a chunk."""
        super().__init__()
        width = backbone.language.config.hidden_size
        self.facts = FactTokens(interface, width)
        self.slot = nn.Parameter(torch.randn(interface.steps * interface.actions, width) * 0.02)

    def forward(self, backbone: Backbone, prefix: Prefix, facts: Facts) -> Float[Tensor, "b s d"]:
        """What the trunk makes of the slots."""
        known = self.facts(facts)
        slots = self.slot.expand(len(known), -1, -1) + self.facts.told(known)
        inputs = torch.cat([known, slots], 1)
        f = known.shape[1]
        block = torch.cat([torch.ones(f), torch.full((len(self.slot),), 2)]).to(inputs.device, torch.long)
        return attend(backbone, prefix, inputs, block)[:, f:]


def attend(
    backbone: Backbone, prefix: Prefix, inputs: Float[Tensor, "b q d"], block: Int[Tensor, " q"]
) -> Float[Tensor, "b q d"]:
    """What the trunk makes of tokens in blocks of their own after the prefix, which stays as it was."""
    length = prefix.valid.shape[1]
    everyone = torch.cat([prefix.valid, prefix.valid.new_ones(inputs.shape[:2])], 1)
    sees = block_causal(block, torch.cat([block.new_zeros(length), block]), everyone)
    hidden = backbone.extend(prefix, inputs, additive(sees), positions(everyone)[:, length:])
    prefix.cache.crop(-inputs.shape[1])
    return hidden
