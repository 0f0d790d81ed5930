"""Pretrained parts from the hub or from a directory, and one clear sentence where that does not work."""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from collections.abc import Collection

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTModel,
)

from worldlab.errors import UsageError
from worldlab.policies import towers
from worldlab.policies.backbone_config import LANGUAGE_FAMILIES, VISION_FAMILIES
from worldlab.policies.towers import Tower


def read_tower(name: str) -> Tower:
    """A pretrained vision tower: a checkpoint of its own, or a part of a vision-language model.

    Raises:
        UsageError: it cannot be read, has no tower of a known family, or lacks weights.
    """
    what = f"vision tower '{name}'"
    config = _config(name, what)
    family = towers.FAMILIES.get(config.model_type)
    if family is None and not _composite(config):
        raise _other_type(what, config.model_type, VISION_FAMILIES)
    model = _model(family or AutoModel, name, what)
    if family is None:
        model = _inner(model.get_encoder(modality="image"), what, VISION_FAMILIES, towers.FAMILIES)
    return Tower(model, *_normalization(name, model.config))


def read_language(name: str) -> tuple[PreTrainedModel, Tokenizer]:
    """A pretrained decoder and its tokenizer: a checkpoint of its own, or a part of a vision-language model.

    Raises:
        UsageError: it cannot be read, has no decoder of a known family, lacks weights, or has no fast tokenizer.
    """
    what = f"language model '{name}'"
    config = _config(name, what)
    if config.model_type not in LANGUAGE_FAMILIES and not _composite(config):
        raise _other_type(what, config.model_type, LANGUAGE_FAMILIES)
    model = _model(AutoModel, name, what)
    if _composite(config):
        model = _inner(model.get_decoder(), what, LANGUAGE_FAMILIES, LANGUAGE_FAMILIES)
    return model, _tokenizer(name)


def parts_of(name: str) -> dict[str, str]:
    """Which fields of a `BackboneConfig` a checkpoint can fill: vision, language or both, each with its name.

    Raises:
        UsageError: it cannot be read, or is neither.
    """
    what = f"backbone '{name}'"
    config = _config(name, what)
    if config.model_type in towers.FAMILIES:
        return {"vision": name}
    if config.model_type in LANGUAGE_FAMILIES:
        return {"language": name}
    if _composite(config):
        return {"vision": name, "language": name}
    raise _other_type(what, config.model_type, (*VISION_FAMILIES, *LANGUAGE_FAMILIES))


def _composite(config: PreTrainedConfig) -> bool:
    """Whether it describes a vision-language model with a decoder."""
    return {"vision_config", "text_config"} <= set(config.sub_configs) and config.model_type not in towers.FAMILIES


def _config(name: str, what: str) -> PreTrainedConfig:
    try:
        config: object = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(what, error) from None
    assert isinstance(config, PreTrainedConfig)
    return config


def _model(family: type[PreTrainedModel] | type[AutoModel], name: str, what: str) -> PreTrainedModel:
    """Weights in full precision. What is missing is refused: transformers would warn and start with fresh weights."""
    try:
        if family is ViTModel:
            loaded: object = ViTModel.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, add_pooling_layer=False
            )
        else:
            loaded = family.from_pretrained(name, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(what, error) from None
    assert isinstance(loaded, tuple)
    model, report = loaded
    assert isinstance(model, PreTrainedModel)
    if missing := report["missing_keys"]:
        raise UsageError(f"the {what} lacks {len(missing)} weights, '{min(missing)}' among them.")
    return model


def _inner(part: object, what: str, families: tuple[str, ...], types: Collection[str]) -> PreTrainedModel:
    """A part of a vision-language model, if it is of a known type."""
    assert isinstance(part, PreTrainedModel)
    if part.config.model_type not in types:
        raise _other_type(what, part.config.model_type, families)
    return part


def _normalization(name: str, config: PreTrainedConfig) -> tuple[list[float], list[float]]:
    """As the checkpoint's preprocessor_config.json says; where it has none, as its family is normalised."""
    mean, std = towers.normalization(config)
    try:
        said, _ = BaseImageProcessor.get_image_processor_dict(name)
    except OSError:
        said = {}
    return [float(x) for x in said.get("image_mean", mean)], [float(x) for x in said.get("image_std", std)]


def _tokenizer(name: str) -> Tokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable(f"tokenizer of the language model '{name}'", error) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(f"the tokenizer of '{name}' has no fast form (tokenizer.json), which is needed here.")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one where there is none
        raise UsageError(f"the language model '{name}' has no tokenizer beside it; save its tokenizer there too.")
    return tokenizer.backend_tokenizer


def _unreadable(what: str, error: Exception) -> UsageError:
    reason = str(error).strip().split("\n")[0]
    return UsageError(
        f"cannot read the {what}: {reason} A local directory that transformers' save_pretrained wrote, or a hub name "
        "and a connection to the hub, would work."
    )


def _other_type(what: str, found: str, names: tuple[str, ...]) -> UsageError:
    return UsageError(f"the {what} is of type '{found}'; {', '.join(names[:-1])} or {names[-1]} would work.")
