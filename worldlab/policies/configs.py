"""transformers' configurations as JSON, so that a run holds its architecture."""

from collections.abc import Mapping

from transformers import AutoConfig, PreTrainedConfig

from worldlab.runs import Json


def describe(config: PreTrainedConfig) -> dict[str, Json]:
    """What differs from the defaults of its type, and the type."""
    return {**config.to_diff_dict(), "model_type": config.model_type}


def of_description(description: Mapping[str, Json]) -> PreTrainedConfig:
    """The inverse of `describe`."""
    made = AutoConfig.for_model(str(description["model_type"]))
    return type(made).from_dict(dict(description))
