"""Going on from an earlier run: its trunk as it was described, and every weight whose name and shape is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.policies.backbone import Backbone, BackboneConfig
from worldlab.policies.backbone_config import LANGUAGE_FAMILIES
from worldlab.policies.text import TextTokenizer
from worldlab.runs import Run, restored

_TOLD = 8
"""Words that a refusal names."""


@dataclass(frozen=True)
class Report:
    """What became of the weights."""

    run: str
    """Where they are from."""
    loaded: int
    """Weights of the model that begin where the earlier run ended."""
    fresh: tuple[str, ...]
    """Those that begin anew: the earlier run does not have them, or in another shape."""


class InitRun:
    """An earlier run whose trunk is gone on with."""

    def __init__(self, path: str | Path) -> None:
        """Read its description.

        Raises:
            UsageError: there is no run, it has no weights, or it is of a model without a trunk.
        """
        run = Run.open(path)
        self.path, described = run.path, run.config.get("backbone")
        if not isinstance(described, dict):
            raise UsageError(
                f"'{path}' holds a model of kind '{run.config['kind']}', which has no vision-language trunk; --init "
                "goes on from a stage or from a policy that sees."
            )
        weights = run.path / "model.safetensors"
        if not weights.is_file():
            raise UsageError(f"'{path}' has no weights (model.safetensors); did its training finish?")
        self.described, self._weights = described, weights
        model = run.config["model"]
        assert isinstance(model, dict)
        self.config = restored(TypeAdapter(BackboneConfig).validate_python, model["backbone"])

    def applied_to(self, recipe: BackboneConfig) -> BackboneConfig:
        """The run's architecture; what learns is the recipe's to say.

        Raises:
            UsageError: the run has low-rank adapters that the recipe does not.
        """
        if self.config.lora not in (0, recipe.lora):
            raise UsageError(
                f"'{self.path}' has low-rank adapters of rank {self.config.lora}, and {recipe.lora} is asked for; "
                f"--lora {self.config.lora} would work."
            )
        return replace(
            self.config,
            frozen=recipe.frozen,
            lora=recipe.lora,
            lora_scale=recipe.lora_scale,
            lora_parts=recipe.lora_parts,
            attention=recipe.attention,
        )

    def backbone(
        self,
        config: BackboneConfig,
        cameras: Mapping[str, tuple[int, int]],
        tasks: Sequence[str],
        *,
        reserved: int = 0,
        notes: Sequence[str] = (),
        pointing: str | None = None,
    ) -> Backbone:
        """The same trunk with fresh weights; see `Backbone.create` for the arguments.

        The vocabulary is the run's, at its old ids. Texts are as wide as this data's. A small language model gets the
        reserved ids at the end, if it has none yet.

        Raises:
            UsageError: this data has words that the run does not know.
        """
        text, language = self.described["tokenizer"], self.described["language"]
        assert isinstance(text, dict)
        assert isinstance(language, dict)
        words = Tokenizer.from_str(str(text["json"]))
        if unknown := _unknown(words, [*tasks, *notes]):
            some = ", ".join(unknown[:_TOLD]) + (f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else "")
            raise UsageError(
                f"'{self.path}' does not know the words {some} that this policy reads (in instructions, or as numbers "
                "in its prompt); begin from a stage, which knows all tasks, or leave --init out."
            )
        ids = language["vocab_size"]
        assert isinstance(ids, int)
        if config.language in LANGUAGE_FAMILIES:
            ids = max(ids, words.get_vocab_size() + reserved)
        description = {
            **self.described,
            "language": {**language, "vocab_size": ids},
            "tokenizer": TextTokenizer.fitting(words, tasks, notes).describe(),
            "pointing": pointing or next(iter(cameras)),
        }
        return Backbone.of_description(config, description, cameras)

    def load_into(self, model: nn.Module) -> Report:
        """Load the parameters that match by name and shape; of a vocabulary that has grown, the old ids.

        Buffers are the model's own: they hold statistics of its data.

        Raises:
            UsageError: none matches.
        """
        fresh: list[str] = []
        loaded, weights = 0, load_file(self._weights)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                source = weights.get(name, weights.get(name.replace(".base_layer", "")))
                if source is None or not _fits(name, source, weight):
                    fresh.append(name)
                    continue
                weight[: len(source)].copy_(source) if weight.ndim else weight.copy_(source)
                loaded += 1
        if not loaded:
            raise UsageError(f"no weight of '{self.path}' has a place in this model; --init needs a related run.")
        return Report(str(self.path), loaded, tuple(fresh))


def _fits(name: str, source: Tensor, weight: Tensor) -> bool:
    if name.endswith("embed_tokens.weight"):
        return source.shape[1:] == weight.shape[1:] and len(source) <= len(weight)
    return source.shape == weight.shape


def _unknown(words: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Words that become the word-level tokenizer's unknown; a pretrained one spells everything."""
    unknown = words.token_to_id("[UNK]")
    if unknown is None:
        return []
    encoded = zip(texts, words.encode_batch(list(texts), add_special_tokens=False), strict=True)
    return sorted({t[a:b] for t, e in encoded for i, (a, b) in zip(e.ids, e.offsets, strict=True) if i == unknown})
