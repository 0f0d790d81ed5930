"""Language models of several families: built small, and run on embeddings.

All of them take the additive mask as it is given, in layers with a sliding window too: a prefix is much shorter than
any of their windows. Gemma's scaling of its embeddings is inside its embedding layer.
"""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModel, DynamicCache, PreTrainedConfig, PreTrainedModel

from worldlab.policies.backbone_config import BackboneConfig


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A decoder with fresh weights, without a head."""
    model: object = AutoModel.from_config(config)
    assert isinstance(model, PreTrainedModel)
    return model


def small(config: BackboneConfig, vocabulary: int) -> PreTrainedConfig:
    """A small model of the family that the config names, with so many ids."""
    head = config.width // config.heads
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": config.width,
        "intermediate_size": 8 * config.width // 3,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": head,
        "max_position_embeddings": 2048,
        "initializer_range": config.width**-0.5,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.language == "gemma2":
        sizes["query_pre_attn_scalar"] = head
    return AutoConfig.for_model(config.language, **sizes)


def head_size(config: PreTrainedConfig) -> int:
    """Width of an attention head; some families say it only if it is not the width divided by the heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def activation(config: PreTrainedConfig) -> str:
    """Name of the activation in the MLPs, which Gemma 2 calls otherwise."""
    return getattr(config, "hidden_act", None) or config.hidden_activation


def read(
    model: PreTrainedModel,
    tokens: Float[Tensor, "b q d"],
    mask: Float[Tensor, "b 1 q n"],
    place: Int[Tensor, "b q"],
    cache: DynamicCache,
    cross: Float[Tensor, "b c e"] | None = None,
) -> Float[Tensor, "b q d"]:
    """The last layer's output for tokens after those in the cache, where their keys and values stay.

    Args:
        model: a decoder.
        tokens: embeddings.
        mask: additive, over what is cached and the tokens.
        place: positions.
        cache: grows.
        cross: what the gated cross-attention layers read, of a model that has them.
    """
    if cross is None:
        out = model(inputs_embeds=tokens, attention_mask=mask, position_ids=place, past_key_values=cache)
    else:
        out = model(inputs_embeds=tokens, attention_mask=mask, position_ids=place, past_key_values=cache, cross=cross)
    return out.last_hidden_state
