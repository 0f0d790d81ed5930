"""The pi0 of LeRobot and that of transformers at the size of a laptop.

LeRobot allows two sizes, both of billions of weights. Nothing of it is edited here; what reads the sizes is replaced
from outside while the policy is built. transformers' takes any size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from transformers import PI0Config as TransformersConfig
from transformers import PI0ForConditionalGeneration, PreTrainedConfig

if TYPE_CHECKING:
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy

Peer = Literal["LeRobot", "transformers"]


@dataclass(frozen=True)
class Size:
    """Of trunk, expert and tower, all of whose heads share one key and value."""

    peer: Peer
    """Whose pi0 has it."""
    width: int
    layers: int
    mlp: int
    heads: int
    """LeRobot hard-codes 8."""
    head: int
    """Width of one."""
    expert: int
    expert_mlp: int
    vision: tuple[int, int, int, int]
    """Width, layers, heads, MLP."""
    vocabulary: int
    image: int
    patch: int
    said: int
    """Words of the instruction."""
    words: int
    """What LeRobot pads it to; the others do not."""
    chunk: int
    batch: int
    """Of a training step."""


SIZES = {
    "1.64 M": Size("transformers", 128, 4, 384, 4, 32, 64, 192, (128, 3, 4, 256), 1024, 64, 8, 12, 12, 16, 2),
    "10.8 M": Size("LeRobot", 256, 6, 1024, 8, 32, 128, 512, (192, 6, 3, 768), 1024, 96, 16, 12, 16, 16, 8),
    "58.8 M": Size("LeRobot", 512, 8, 2048, 8, 64, 256, 1024, (384, 8, 6, 1536), 4096, 224, 16, 36, 48, 50, 4),
}
FULL = Size("transformers", 2048, 18, 16384, 8, 256, 1024, 4096, (1152, 27, 16, 4304), 257152, 224, 14, 12, 12, 50, 8)
"""pi0 as published, 3.2 billion weights: for a GPU."""


def lerobot(size: Size, dtype: Literal["float32", "bfloat16"] = "float32") -> "PI0Policy":
    """LeRobot's policy, with random weights."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi0 import modeling_pi0
    from lerobot.policies.pi0.configuration_pi0 import PI0Config

    paligemma, gemma = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma, modeling_pi0.PiGemmaForCausalLM

    def variant(name: str) -> modeling_pi0.GemmaConfig:
        if name == "gemma_2b":
            return modeling_pi0.GemmaConfig(size.width, size.layers, size.mlp, size.heads, 1, size.head)
        return modeling_pi0.GemmaConfig(size.expert, size.layers, size.expert_mlp, size.heads, 1, size.head)

    def trunk(config: PreTrainedConfig) -> torch.nn.Module:
        vision = config.vision_config
        vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size = size.vision
        vision.patch_size, vision.image_size = size.patch, size.image
        vision.projection_dim = config.projection_dim = size.width
        config.text_config.vocab_size = config._vocab_size = size.vocabulary  # noqa: SLF001
        config.image_token_index = size.vocabulary - 1
        return paligemma(config)

    def expert(config: PreTrainedConfig) -> torch.nn.Module:
        config.vocab_size = size.vocabulary
        return gemma(config)

    cameras = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, size.image, size.image))
        for name in ("front", "wrist")
    }
    before = modeling_pi0.get_gemma_config
    modeling_pi0.get_gemma_config = variant
    modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma = trunk
    modeling_pi0.PiGemmaForCausalLM = expert
    try:
        return modeling_pi0.PI0Policy(
            PI0Config(
                device="cpu",
                dtype=dtype,
                chunk_size=size.chunk,
                n_action_steps=size.chunk // 2,
                image_resolution=(size.image, size.image),
                num_inference_steps=10,
                input_features=cameras | {"observation.state": PolicyFeature(FeatureType.STATE, (6,))},
                output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
            )
        )
    finally:
        modeling_pi0.get_gemma_config = before
        modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma = paligemma
        modeling_pi0.PiGemmaForCausalLM = gemma


def lerobot_batch(size: Size, b: int) -> dict[str, torch.Tensor]:
    """What LeRobot's pre-processor would make of b observations."""
    there = torch.ones(b, size.words, dtype=torch.bool)
    there[:, size.said :] = False
    image = (b, 3, size.image, size.image)
    return {
        "observation.images.front": torch.rand(image),
        "observation.images.wrist": torch.rand(image),
        "observation.state": torch.randn(b, 6),
        "action": torch.randn(b, size.chunk, 6),
        "observation.language.tokens": torch.randint(0, size.vocabulary - 1, (b, size.words)),
        "observation.language.attention_mask": there,
    }


def transformers(size: Size) -> PI0ForConditionalGeneration:
    """transformers' model, with random weights; states and actions of 8 numbers."""
    width, layers, heads, mlp = size.vision
    attention = {"num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": 1}
    attention |= {"head_dim": size.head, "vocab_size": size.vocabulary}
    vision = {"model_type": "siglip_vision_model", "image_size": size.image, "patch_size": size.patch}
    vision |= {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    vision |= {"intermediate_size": mlp, "projection_dim": size.width, "vision_use_head": False}
    text = {"model_type": "gemma", "hidden_size": size.width, "intermediate_size": size.mlp, **attention}
    trunk = {"model_type": "paligemma", "vision_config": vision, "text_config": text, "projection_dim": size.width}
    expert = {"model_type": "gemma", "hidden_size": size.expert, "intermediate_size": size.expert_mlp, **attention}
    return PI0ForConditionalGeneration(
        TransformersConfig(
            vlm_config=trunk | {"image_token_id": size.vocabulary - 1},
            dit_config=expert,
            chunk_size=size.chunk,
            max_state_dim=8,
            max_action_dim=8,
        )
    )


def transformers_batch(size: Size, b: int) -> dict[str, torch.Tensor]:
    """What it takes, without actions."""
    patches = 2 * (size.image // size.patch) ** 2
    image = torch.full((b, patches), size.vocabulary - 1)
    return {
        "input_ids": torch.cat([image, torch.randint(1, size.vocabulary - 1, (b, size.said))], 1),
        "attention_mask": torch.ones(b, patches + size.said, dtype=torch.long),
        "pixel_values": torch.rand(b, 2, 3, size.image, size.image),
        "pixel_attention_mask": torch.ones(b, 2, dtype=torch.bool),
        "state": torch.randn(b, 8),
    }
