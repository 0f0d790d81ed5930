"""Language models by family: how a small one, or a narrower one beside a given one, is built."""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A decoder with fresh weights, without a head."""
    model: object = AutoModel.from_config(config)
    assert isinstance(model, PreTrainedModel)
    return model


def expert_config(language: PreTrainedConfig, width: int) -> PreTrainedConfig:
    """A narrower model of the same family whose keys and values have the trunk's shape, layer by layer."""
    changed = {
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "head_dim": getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads,
        "vocab_size": 1,
        "initializer_range": width**-0.5,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return type(language).from_dict({**language.to_dict(), **changed})
