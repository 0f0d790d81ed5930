"""Language models of several families: built small, built narrow beside a given one, and run on embeddings.

All of them take the additive mask as it is given, in layers with a sliding window too: a prefix is much shorter than
any of their windows. Gemma's scaling of its embeddings is inside its embedding layer.
"""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModel, DynamicCache, PreTrainedConfig, PreTrainedModel

from worldlab.policies.backbone_config import BackboneConfig

_NO_IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


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
        **_NO_IDS,
    }
    if config.language == "gemma2":
        sizes["query_pre_attn_scalar"] = head
    return AutoConfig.for_model(config.language, **sizes)


def expert_config(language: PreTrainedConfig, width: int) -> PreTrainedConfig:
    """A narrower model of the same family whose keys and values have the trunk's shape, layer by layer."""
    changed = {
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "head_dim": getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads,
        "vocab_size": 1,
        "initializer_range": width**-0.5,
        **_NO_IDS,
    }
    return type(language).from_dict({**language.to_dict(), **changed})


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
        model: a decoder, or an expert beside it.
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
