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
    PreTrainedModel,
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

    def memory(self) -> tuple[list[Float[Tensor, "b g n d"]], list[Float[Tensor, "b g n d"]]]:
        """Keys and values of each layer, in lists of their own."""
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
        for i, (keys, values, _) in enumerate(self.cache):
            assert keys is not None
            assert values is not None
            cache.update(keys.detach(), values.detach(), i)
        cross = None if self.cross is None else self.cross.detach()
        return Prefix(cache, self.valid, self.words.detach(), self.spoken, self.map.detach(), cross)

    def extend(
        self,
        model: PreTrainedModel,
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

    centres: Tensor
    """(m, 2): where each feature of `Prefix.map` is in the image, (u, v) from 0 to 1 from the top left."""

    def __init__(
        self,
        config: BackboneConfig,
        vision: SiglipVisionModel,
        language: LlamaModel,
        tokenizer: TextTokenizer,
        cameras: Mapping[str, tuple[int, int]],
        pointing: str,
    ) -> None:
        """Put the parts together; see `create` and `of_description`."""
        super().__init__()
        self.config, self.cameras, self.tokenizer = config, dict(cameras), tokenizer
        self.vision, self.language = vision, language
        vision.set_attn_implementation(config.attention)
        language.set_attn_implementation(config.attention)
        seen, width = vision.config.hidden_size, language.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(seen, width), nn.GELU(), nn.Linear(width, width))
        self.camera = nn.Parameter(torch.randn(len(cameras), 1, width) * 0.02)
        self._pointing = list(cameras).index(pointing)
        patch = vision.config.patch_size
        assert isinstance(patch, int)
        cells = self.side // patch
        self.register_buffer("centres", grid(cells, cells), persistent=False)

    @classmethod
    def create(
        cls,
        config: BackboneConfig,
        cameras: Mapping[str, tuple[int, int]],
        tasks: Sequence[str],
        *,
        reserved: int = 0,
        notes: Sequence[str] = (),
        pointing: str | None = None,
    ) -> "Backbone":
        """A trunk as the config asks for, pretrained parts loaded.

        Args:
            config: which parts, and how large.
            cameras: name -> (h, w), in their order in the prefix.
            tasks: the instructions of the data set.
            reserved: ids that a small language model has beyond its words, at the end of its vocabulary.
            notes: examples of the second text, the longest among them; () where there is none.
            pointing: whose image `Prefix.map` is about; None is the first camera.

        Raises:
            UsageError: a named checkpoint cannot be read, or is of another type.
        """
        if config.language is None:
            tokenizer = TextTokenizer.of_words(tasks, notes)
            language = LlamaModel(_small_language(config, tokenizer.size + reserved))
        else:
            language = _read(LlamaModel, "language model", ("llama",), config.language)
            tokenizer = TextTokenizer.fitting(_read_tokenizer(config.language), tasks, notes)
        if config.vision is None:
            vision = SiglipVisionModel(_small_vision(config))
        else:
            vision = _read(SiglipVisionModel, "vision tower", ("siglip", "siglip_vision_model"), config.vision)
        return cls(config, vision, language, tokenizer, cameras, pointing or next(iter(cameras)))

    @classmethod
    def of_description(
        cls, config: BackboneConfig, description: Mapping[str, Json], cameras: Mapping[str, tuple[int, int]]
    ) -> "Backbone":
        """The same architecture with fresh weights: the inverse of `describe`. No checkpoint is read."""
        vision, language, pointing = description["vision"], description["language"], description["pointing"]
        text = description["tokenizer"]
        assert isinstance(pointing, str)
        assert isinstance(text, dict)
        assert isinstance(vision, dict)
        assert isinstance(language, dict)
        return cls(
            config,
            SiglipVisionModel(SiglipVisionConfig.from_dict(vision)),
            LlamaModel(LlamaConfig.from_dict(language)),
            TextTokenizer.of_description(text),
            cameras,
            pointing,
        )

    def describe(self) -> dict[str, Json]:
        """Everything but the weights, so that a run needs no checkpoint of anybody else's."""
        return {
            "vision": self.vision.config.to_diff_dict(),
            "language": self.language.config.to_diff_dict(),
            "tokenizer": self.tokenizer.describe(),
            "pointing": list(self.cameras)[self._pointing],
        }

    @property
    def attention(self) -> str:
        """Transformers' name of the attention implementation, for what attends to the prefix."""
        return self.config.attention

    @property
    def width(self) -> int:
        """Width of the language model's tokens."""
        width = self.language.config.hidden_size
        assert isinstance(width, int)
        return width

    @property
    def map_width(self) -> int:
        """Width of the features of `Prefix.map`."""
        return self.width

    @property
    def side(self) -> int:
        """Side in pixels of the square that the tower sees."""
        side = self.vision.config.image_size
        assert isinstance(side, int)
        return side

    def _pixels(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 s s"]:
        """What the tower sees: [-1, 1], channels first, of its own size."""
        x = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        if x.shape[-2:] == (self.side, self.side):
            return x
        return interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)

    def embed(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The language model's embeddings, scaled as it scales them, for `extend`."""
        return self.language.get_input_embeddings()(ids)

    def forward(
        self,
        images: Mapping[str, UInt8[Tensor, "b _ _ 3"]],
        task: Sequence[str],
        notes: Sequence[str] | None = None,
    ) -> Prefix:
        """Read images and instructions once.

        Args:
            images: camera name -> image.
            task: one instruction for each row.
            notes: a second text for each row, read after the instruction; only if `create` was given examples of it.
        """
        pixels = torch.cat([self._pixels(images[name]) for name in self.cameras])
        seen = self.projector(self.vision(pixel_values=pixels).last_hidden_state)
        seen = seen.unflatten(0, (len(self.cameras), -1)) + self.camera[:, None]
        ids, spoken = self.tokenizer(task)
        words = ids.shape[1]
        if notes is not None:
            more, filled = self.tokenizer.notes(notes)
            ids, spoken = torch.cat([ids, more], 1), torch.cat([spoken, filled], 1)
        ids, spoken = ids.to(seen.device), spoken.to(seen.device)
        tokens = torch.cat([seen.transpose(0, 1).flatten(1, 2), self.embed(ids)], 1)
        start = tokens.shape[1] - ids.shape[1]
        valid = torch.cat([spoken.new_ones(len(ids), start), spoken], 1)
        mask = additive(valid[:, None].expand(-1, valid.shape[1], -1))
        cache = DynamicCache()
        hidden = self.language(
            inputs_embeds=tokens, attention_mask=mask, position_ids=positions(valid), past_key_values=cache
        ).last_hidden_state
        place = self._pointing * len(self.centres)
        return Prefix(
            cache=cache,
            valid=valid,
            words=hidden[:, start : start + words],
            spoken=spoken[:, :words],
            map=hidden[:, place : place + len(self.centres)],
        )

    def extend(
        self,
        prefix: Prefix,
        tokens: Float[Tensor, "b q d"],
        mask: Float[Tensor, "b 1 q n"],
        place: Int[Tensor, "b q"],
    ) -> Float[Tensor, "b q d"]:
        """What the trunk itself makes of tokens after its prefix; their keys and values stay in the cache.

        Args:
            prefix: what it has read.
            tokens: embeddings.
            mask: additive, over the prefix and the tokens after it.
            place: positions.
        """
        return prefix.extend(self.language, tokens, mask, place)


def grid(rows: int, columns: int) -> Float[Tensor, "m 2"]:
    """Centres of rows x columns patches as (u, v), row by row from the top left."""
    v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([u, v], -1).flatten(0, 1)


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
