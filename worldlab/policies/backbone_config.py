"""What a trunk is made of."""

from dataclasses import dataclass
from typing import Literal, get_args

FusionName = Literal["llava", "anyres", "qformer", "flamingo", "native"]
"""How images get into the language model; see `worldlab.policies.fusion`."""

VisionFamily = Literal["siglip", "siglip2", "clip", "vit", "dinov2"]
"""Vision towers; see `worldlab.policies.towers`."""

LanguageFamily = Literal["llama", "gemma", "gemma2", "qwen2", "qwen3", "mistral"]
"""Language models; see `worldlab.policies.languages`."""

Part = Literal["vision", "language", "embeddings", "fusion"]
"""What can be frozen."""

FUSIONS: tuple[FusionName, ...] = get_args(FusionName)
PARTS: tuple[Part, ...] = get_args(Part)
VISION_FAMILIES: tuple[str, ...] = get_args(VisionFamily)
LANGUAGE_FAMILIES: tuple[str, ...] = get_args(LanguageFamily)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The parts of the trunk, and the sizes of those that are built from scratch."""

    fusion: FusionName = "llava"
    """How images get into the language model: llava (an MLP projects every patch into the sequence), anyres (that for a
    thumbnail and for tiles of it), qformer (a few queries per camera read the patches), flamingo (gated cross-attention
    reads them; the sequence is text alone), native (pixels of patches go straight in; there is no tower)."""
    vision: str = "siglip"
    """A family (siglip, siglip2, clip, vit, dinov2) for a small tower from scratch, or the hub name or local directory
    of a checkpoint of one of them, or of a vision-language model that has one."""
    language: str = "llama"
    """A family (llama, gemma, gemma2, qwen2, qwen3, mistral) for a small model from scratch, or the hub name
    or local directory of a checkpoint of one of them, or of a vision-language model that has one."""
    image: int = 64
    """Side of the square that a small tower sees, in pixels; images of another size are resized to it."""
    patch: int = 8
    """Side of a patch in pixels. Of a small tower, and of native fusion."""
    width: int = 96
    """Width of a small tower and of a small language model."""
    layers: int = 2
    """Layers of a small tower, of a small language model, and of a Q-Former."""
    heads: int = 4
    """Attention heads of the same."""
    tiles: int = 4
    """Most tiles that anyres cuts a camera's image into, beside its thumbnail. A tile is as large as what the tower
    sees, so an image that is no larger has none."""
    queries: int = 16
    """Tokens that a Q-Former makes of each camera."""
    every: int = 1
    """Flamingo puts a gated cross-attention before each so many layers of the language model, the first among them."""
    frozen: tuple[Part, ...] = ()
    """Parts that do not learn: vision (the tower), language (the language model, its embeddings included), embeddings
    (those alone), fusion (what lies between tower and language model)."""
    lora: int = 0
    """Rank of the adapters (Hu et al. 2021) that every linear layer of the parts in `lora_parts` gets, whose own
    weights are then frozen; 0 gives none."""
    lora_scale: float = 2.0
    """By how much what an adapter says is multiplied (alpha / rank)."""
    lora_parts: tuple[Literal["vision", "language"], ...] = ("language",)
    """Which parts get adapters."""
    attention: Literal["eager", "sdpa"] = "eager"
    """transformers' attention implementation. On a CPU, bf16 through SDPA is slower than fp32."""
