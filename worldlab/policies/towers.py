"""Vision towers of several families behind one call: 8-bit images in, the features of their patches out."""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from worldlab.policies import configs
from worldlab.policies.backbone_config import BackboneConfig
from worldlab.runs import Json

FAMILIES: dict[str, type[PreTrainedModel]] = {
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
    "siglip2": Siglip2VisionModel,
    "siglip2_vision_model": Siglip2VisionModel,
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "vit": ViTModel,
    "dinov2": Dinov2Model,
}
"""transformers' model type -> what reads it."""

_UNUSED = ("vision_model.head.", "pooler.", "embeddings.mask_token")
"""Weights that no patch feature depends on."""


class Tower(nn.Module):
    """A vision model, with the normalisation that its images need."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PreTrainedModel, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean` and `std` are of each colour, of values from 0 to 1."""
        super().__init__()
        self.model = model
        self._normalization = list(mean), list(std)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        unused = (*_UNUSED, "vision_model.post_layernorm.") if isinstance(model, CLIPVisionModel) else _UNUSED
        for name, weight in model.named_parameters():
            if name.startswith(unused):
                weight.requires_grad_(False)

    @classmethod
    def small(cls, config: BackboneConfig) -> "Tower":
        """A small one with fresh weights, of the family that the config names."""
        model = build(_small(config))
        return cls(model, *normalization(model.config))

    @classmethod
    def of_description(cls, description: Mapping[str, Json]) -> "Tower":
        """The same architecture with fresh weights: the inverse of `describe`."""
        config, mean, std = (description[name] for name in ("config", "mean", "std"))
        assert isinstance(config, dict)
        assert isinstance(mean, list)
        assert isinstance(std, list)
        return cls(build(configs.of_description(config)), [float(str(x)) for x in mean], [float(str(x)) for x in std])

    def describe(self) -> dict[str, Json]:
        """Everything but the weights."""
        mean, std = self._normalization
        return {
            "config": configs.describe(self.model.config),
            "mean": list(mean),
            "std": list(std),
        }

    @property
    def width(self) -> int:
        """Width of a patch's features."""
        width = self.model.config.hidden_size
        assert isinstance(width, int)
        return width

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        patch = self.model.config.patch_size
        assert isinstance(patch, int)
        return patch

    @property
    def side(self) -> int:
        """Side in pixels of the square that the tower was made for."""
        if isinstance(self.model, Siglip2VisionModel):
            return math.isqrt(self.model.config.num_patches) * self.patch
        side = self.model.config.image_size
        assert isinstance(side, int)
        return side

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches that an image of so many pixels (h, w) becomes.

        SigLIP 2 (NaFlex) keeps the image's proportions; the others see a square.
        """
        if not isinstance(self.model, Siglip2VisionModel):
            return self.side // self.patch, self.side // self.patch
        patches = self.model.config.num_patches
        h, w = get_image_size_for_max_num_patches(*size, self.patch, patches)
        return h // self.patch, w // self.patch

    def size(self, image: UInt8[Tensor, "b h w 3"]) -> tuple[int, int]:
        """Height and width in pixels of what the tower makes of such an image."""
        rows, columns = self.grid((image.shape[1], image.shape[2]))
        return rows * self.patch, columns * self.patch

    def pixels(self, image: UInt8[Tensor, "b h w 3"], size: tuple[int, int]) -> Float[Tensor, "b 3 _ _"]:
        """Normalised, channels first, resized to (h, w)."""
        x = (image.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        return x if x.shape[-2:] == size else interpolate(x, size, mode="bilinear", antialias=True)

    def forward(self, pixels: Sequence[Float[Tensor, "b 3 _ _"]]) -> list[Float[Tensor, "b _ d"]]:
        """The features of the patches of each view, row by row from the top left."""
        return together(self._features, pixels)

    def _features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        rows, columns = pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch
        if isinstance(self.model, Siglip2VisionModel):
            patches = rearrange(pixels, "b c (r p) (s q) -> b (r s) (p q c)", p=self.patch, q=self.patch)
            everyone = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
            shapes = torch.tensor([[rows, columns]], device=patches.device).expand(len(patches), -1)
            out = self.model(pixel_values=patches, pixel_attention_mask=everyone, spatial_shapes=shapes)
        else:
            out = self.model(pixel_values=pixels)
        return out.last_hidden_state[:, -rows * columns :]  # class tokens come first


def together(run: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What `run` makes of each input; if all have one shape they are computed at once."""
    if len({x.shape for x in inputs}) > 1:
        return [run(x) for x in inputs]
    return list(run(torch.cat(list(inputs))).chunk(len(inputs)))


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A vision model with fresh weights, without a pooling head where the family can do without."""
    if isinstance(config, ViTConfig):
        return ViTModel(config, add_pooling_layer=False)
    return FAMILIES[config.model_type](config)


def normalization(config: PreTrainedConfig) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each colour as the family was trained with."""
    if isinstance(config, CLIPVisionConfig):
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    if isinstance(config, Dinov2Config):
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD


def _small(config: BackboneConfig) -> PreTrainedConfig:
    sizes = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
    }
    if config.vision == "dinov2":
        return Dinov2Config(**sizes, image_size=config.image, mlp_ratio=4)
    sizes["intermediate_size"] = 4 * config.width
    if config.vision == "siglip2":
        patches = (config.image // config.patch) ** 2
        return Siglip2VisionConfig(**sizes, num_patches=patches, vision_use_head=False)
    if config.vision == "siglip":
        return SiglipVisionConfig(**sizes, image_size=config.image, vision_use_head=False)
    return {"clip": CLIPVisionConfig, "vit": ViTConfig}[config.vision](**sizes, image_size=config.image)
