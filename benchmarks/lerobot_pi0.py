"""LeRobot's pi0 at the size of a laptop.

LeRobot allows two sizes, both of billions of weights. Nothing of it is edited here; what reads the sizes is replaced
from outside while the policy is built.
"""

from dataclasses import dataclass

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Size:
    """Of trunk, expert and tower; 8 heads that share one key and value, as LeRobot hard-codes."""

    width: int
    layers: int
    mlp: int
    head: int
    expert: int
    expert_mlp: int
    vision: tuple[int, int, int, int]
    """Width, layers, heads, MLP."""
    vocabulary: int
    image: int
    words: int
    chunk: int
    batch: int
    """Of a training step."""


SIZES = {
    "10.8 M": Size(256, 6, 1024, 32, 128, 512, (192, 6, 3, 768), 1024, 96, 16, 16, 8),
    "58.8 M": Size(512, 8, 2048, 64, 256, 1024, (384, 8, 6, 1536), 4096, 224, 48, 50, 4),
}
PATCH = 16


def build(size: Size) -> modeling_pi0.PI0Policy:
    """The policy, with random weights."""
    paligemma, gemma = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma, modeling_pi0.PiGemmaForCausalLM

    def variant(name: str) -> modeling_pi0.GemmaConfig:
        if name == "gemma_2b":
            return modeling_pi0.GemmaConfig(size.width, size.layers, size.mlp, 8, 1, size.head)
        return modeling_pi0.GemmaConfig(size.expert, size.layers, size.expert_mlp, 8, 1, size.head)

    def trunk(config: PreTrainedConfig) -> torch.nn.Module:
        vision = config.vision_config
        vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size = size.vision
        vision.patch_size, vision.image_size = PATCH, size.image
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


def batch(size: Size, b: int) -> dict[str, torch.Tensor]:
    """What LeRobot's pre-processor would make of b observations, three quarters of the words being real."""
    there = torch.ones(b, size.words, dtype=torch.bool)
    there[:, size.words * 3 // 4 :] = False
    image = (b, 3, size.image, size.image)
    return {
        "observation.images.front": torch.rand(image),
        "observation.images.wrist": torch.rand(image),
        "observation.state": torch.randn(b, 6),
        "action": torch.randn(b, size.chunk, 6),
        "observation.language.tokens": torch.randint(0, size.vocabulary - 1, (b, size.words)),
        "observation.language.attention_mask": there,
    }
