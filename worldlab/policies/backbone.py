"""The vision-language trunk that every head shares: a SigLIP tower, a projector and a Llama-type language model.

The prefix [tokens of each camera][instruction] is read once with bidirectional attention; what heads attend to are the
keys and values that each layer of the language model leaves in its cache, as in pi0.
"""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from worldlab.errors import UsageError
from worldlab.policies.attention import additive, positions
from worldlab.policies.text import TextTokenizer
from worldlab.runs import Json


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Sizes of the small trunk, or the names of pretrained parts."""

    vision: str | None = None
    """Hub name or local directory of a SigLIP checkpoint; None builds a small tower from scratch."""
    language: str | None = None
    """Hub name or local directory of a Llama-type checkpoint; None builds a small model from scratch."""
    image: int = 64
    """Side of the square the tower sees, in pixels; cameras of another size are resized. Of the small tower only."""
    patch: int = 8
    """Side of a patch in pixels. Of the small tower only."""
    width: int = 96
    """Width of the small tower and of the small language model."""
    layers: int = 2
    """Layers of the small tower and of the small language model."""
    heads: int = 4
    """Attention heads of both."""
    attention: Literal["eager", "sdpa"] = "eager"
    """transformers' attention implementation. On a CPU, bf16 through SDPA is slower than fp32."""


@dataclass(frozen=True)
class Prefix:
    """What the trunk made of images and instruction."""

    cache: DynamicCache
    """Keys and values of each layer."""
    hidden: Float[Tensor, "b n d"]
    """The last layer's output."""
    valid: Bool[Tensor, "b n"]
    """False on the padding of short instructions."""

    def extend(
        self,
        model: LlamaModel,
        tokens: Float[Tensor, "b q d"],
        mask: Float[Tensor, "b 1 q n"],
        place: Int[Tensor, "b q"],
    ) -> Float[Tensor, "b q d"]:
        """What `model` makes of tokens that attend to the prefix; their keys and values stay in the cache."""
        return model(
            inputs_embeds=tokens, attention_mask=mask, position_ids=place, past_key_values=self.cache
        ).last_hidden_state


def _small_vision(config: BackboneConfig) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image,
        patch_size=config.patch,
        vision_use_head=False,
    )


def _small_language(config: BackboneConfig, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=8 * config.width // 3,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.width // config.heads,
        max_position_embeddings=2048,
        initializer_range=config.width**-0.5,
    )


def _unreadable(part: str, name: str, error: Exception) -> UsageError:
    reason = str(error).strip().split("\n")[0]
    return UsageError(
        f"cannot read the {part} '{name}': {reason} A local directory that transformers' save_pretrained wrote, or a "
        "hub name and a connection to the hub, would work."
    )


class Backbone(nn.Module):
    """Images and instructions -> `Prefix`."""

    def __init__(
        self,
        vision: SiglipVisionModel,
        language: LlamaModel,
        tokenizer: TextTokenizer,
        cameras: tuple[str, ...],
        attention: str,
    ) -> None:
        """Put the parts together; see `create` and `of_description`."""
        super().__init__()
        self.cameras, self.tokenizer, self.attention = cameras, tokenizer, attention
        self.vision, self.language = vision, language
        vision.set_attn_implementation(attention)
        language.set_attn_implementation(attention)
        seen, width = vision.config.hidden_size, language.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(seen, width), nn.GELU(), nn.Linear(width, width))
        self.camera = nn.Parameter(torch.randn(len(cameras), 1, width) * 0.02)

    @classmethod
    def create(
        cls, config: BackboneConfig, cameras: tuple[str, ...], tasks: Sequence[str], reserved: int = 0
    ) -> "Backbone":
        """A trunk as the config asks for, pretrained parts loaded.

        Args:
            config: which parts, and how large.
            cameras: their order in the prefix.
            tasks: the instructions of the data set.
            reserved: ids that a small language model has beyond its words, at the end of its vocabulary.

        Raises:
            UsageError: a named checkpoint cannot be read, or is of another type.
        """
        if config.language is None:
            tokenizer = TextTokenizer.of_words(tasks)
            language = LlamaModel(_small_language(config, tokenizer.size + reserved))
        else:
            language = _read(LlamaModel, "language model", ("llama",), config.language)
            tokenizer = TextTokenizer.fitting(_read_tokenizer(config.language), tasks)
        if config.vision is None:
            vision = SiglipVisionModel(_small_vision(config))
        else:
            vision = _read(SiglipVisionModel, "vision tower", ("siglip", "siglip_vision_model"), config.vision)
        return cls(vision, language, tokenizer, cameras, config.attention)

    @classmethod
    def of_description(cls, description: Mapping[str, Json], cameras: tuple[str, ...], attention: str) -> "Backbone":
        """The same architecture with fresh weights: the inverse of `describe`."""
        text = description["tokenizer"]
        vision, language, width = description["vision"], description["language"], description["text_width"]
        assert isinstance(text, str)
        assert isinstance(width, int)
        assert isinstance(vision, dict)
        assert isinstance(language, dict)
        return cls(
            SiglipVisionModel(SiglipVisionConfig.from_dict(vision)),
            LlamaModel(LlamaConfig.from_dict(language)),
            TextTokenizer.of_description(text, width),
            cameras,
            attention,
        )

    def describe(self) -> dict[str, Json]:
        """Everything but the weights, so that a run needs no checkpoint of anybody else's."""
        return {
            "vision": self.vision.config.to_diff_dict(),
            "language": self.language.config.to_diff_dict(),
            "tokenizer": self.tokenizer.describe(),
            "text_width": self.tokenizer.width,
        }

    @property
    def side(self) -> int:
        """Side in pixels of the square that the tower sees."""
        side = self.vision.config.image_size
        assert isinstance(side, int)
        return side

    @property
    def patches(self) -> int:
        """Tokens of one camera."""
        patch = self.vision.config.patch_size
        assert isinstance(patch, int)
        return (self.side // patch) ** 2

    def image_tokens(self, camera: str) -> slice:
        """Where a camera's patches are in the prefix, row by row from the top left."""
        start = self.cameras.index(camera) * self.patches
        return slice(start, start + self.patches)

    @property
    def text_tokens(self) -> slice:
        """Where the instruction is in the prefix."""
        start = len(self.cameras) * self.patches
        return slice(start, start + self.tokenizer.width)

    def _pixels(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 s s"]:
        """What the tower sees: [-1, 1], channels first, of its own size."""
        x = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        if x.shape[-2:] == (self.side, self.side):
            return x
        return interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)

    def forward(self, images: Mapping[str, UInt8[Tensor, "b _ _ 3"]], task: Sequence[str]) -> Prefix:
        """Read images and instructions once."""
        pixels = torch.cat([self._pixels(images[name]) for name in self.cameras])
        seen = self.projector(self.vision(pixel_values=pixels).last_hidden_state)
        seen = seen.unflatten(0, (len(self.cameras), -1)) + self.camera[:, None]
        ids, valid_text = (x.to(seen.device) for x in self.tokenizer(task))
        tokens = torch.cat([seen.transpose(0, 1).flatten(1, 2), self.language.embed_tokens(ids)], 1)
        valid = torch.cat([valid_text.new_ones(len(ids), len(self.cameras) * self.patches), valid_text], 1)
        mask = additive(valid[:, None].expand(-1, valid.shape[1], -1))
        out = self.language(inputs_embeds=tokens, attention_mask=mask, position_ids=positions(valid), use_cache=True)
        return Prefix(out.past_key_values, out.last_hidden_state, valid)


def _read[M: (SiglipVisionModel, LlamaModel)](family: type[M], part: str, types: Sequence[str], name: str) -> M:
    """A pretrained part. Another type is refused: transformers would warn and start with fresh weights."""
    try:
        found = AutoConfig.from_pretrained(name).model_type
        if found not in types:
            raise UsageError(f"the {part} '{name}' is of type '{found}'; {' or '.join(types)} would work.")
        loaded: object = family.from_pretrained(name, output_loading_info=True)
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(part, name, error) from None
    assert isinstance(loaded, tuple)
    model, report = loaded
    assert isinstance(model, family)
    if missing := report["missing_keys"]:
        raise UsageError(f"the {part} '{name}' lacks {len(missing)} weights, '{min(missing)}' among them.")
    return model


def _read_tokenizer(name: str) -> Tokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable("tokenizer of the language model", name, error) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(f"the tokenizer of '{name}' has no fast form (tokenizer.json), which is needed here.")
    return tokenizer.backend_tokenizer
