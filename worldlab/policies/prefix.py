"""What the trunk hands to the heads."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Prefix:
    """What the trunk made of images and instruction."""

    cache: DynamicCache
    """Keys and values of each layer of the language model."""
    valid: Bool[Tensor, "b n"]
    """Tokens of the prefix that are not padding."""
    words: Float[Tensor, "b l d"]
    """The trunk's output at the instruction's tokens: what asks where to point."""
    spoken: Bool[Tensor, "b l"]
    """Which of the words are not padding."""
    map: Float[Tensor, "b m e"]
    """Features with a place in the pointing camera's image, `Backbone.centres`: what is pointed at."""
    cross: Float[Tensor, "b c e"] | None = None
    """A second stream that the trunk's gated cross-attention layers read; None where there are no such layers."""

    def memory(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values (b, g, n, d) of each layer, in lists of their own."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for of_layer, in_layer, _ in self.cache:
            assert of_layer is not None
            assert in_layer is not None
            keys.append(of_layer)
            values.append(in_layer)
        return keys, values

    def detach(self) -> "Prefix":
        """The same numbers without a gradient into the trunk, in a cache of their own (knowledge insulation)."""
        cache = DynamicCache()
        for i, (keys, values) in enumerate(zip(*self.memory(), strict=True)):
            cache.update(keys.detach(), values.detach(), i)
        cross = None if self.cross is None else self.cross.detach()
        return Prefix(cache, self.valid, self.words.detach(), self.spoken, self.map.detach(), cross)
