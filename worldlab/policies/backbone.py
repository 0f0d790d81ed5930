"""The vision-language trunk that every head shares: a vision tower, a language model, and the fusion between them.

The prefix [what the fusion makes of the images][instruction][notes] is read once with bidirectional attention; what
heads attend to are the keys and values that each layer of the language model leaves in its cache, as in pi0.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from worldlab.errors import UsageError
from worldlab.policies import checkpoints, configs, fusion, languages
from worldlab.policies.attention import additive, positions
from worldlab.policies.backbone_config import LANGUAGE_FAMILIES, VISION_FAMILIES
from worldlab.policies.backbone_config import BackboneConfig as BackboneConfig
from worldlab.policies.fusion import CameraSetup, Images
from worldlab.policies.prefix import Prefix as Prefix
from worldlab.policies.text import TextTokenizer
from worldlab.policies.towers import Tower
from worldlab.runs import Json


class Backbone(nn.Module):
    """Images and instructions -> `Prefix`."""

    def __init__(
        self,
        config: BackboneConfig,
        tower: Tower | None,
        language: PreTrainedModel,
        tokenizer: TextTokenizer,
        scene: CameraSetup,
    ) -> None:
        """Put the parts together; see `create` and `of_description`."""
        super().__init__()
        self.config, self.tokenizer, self.scene = config, tokenizer, scene
        self._description: dict[str, Json] = {
            "vision": None if tower is None else tower.describe(),
            "language": configs.describe(language.config),
            "tokenizer": tokenizer.describe(),
            "pointing": scene.pointing,
        }
        if tower is not None:
            tower.model.set_attn_implementation(config.attention)
            _adapt(tower.model, config, "vision")
        language.set_attn_implementation(config.attention)
        _adapt(language, config, "language")
        self.language = language
        self.fusion = fusion.create(config, tower, language, scene)
        self._freeze()

    @classmethod
    def create(
        cls,
        config: BackboneConfig,
        cameras: Mapping[str, tuple[int, int]],
        tasks: Sequence[str],
        *,
        reserved: int = 0,
        notes: Sequence[str] = (),
        pointing: str | None = None,
    ) -> "Backbone":
        """A trunk as the config asks for, pretrained parts loaded.

        Args:
            config: which parts, and how large.
            cameras: name -> (h, w), in their order in the prefix.
            tasks: the instructions of the data set.
            reserved: ids that a small language model has beyond its words, at the end of its vocabulary.
            notes: examples of the second text, the longest among them; () where there is none.
            pointing: whose image `Prefix.map` is about; None is the first camera.

        Raises:
            UsageError: a named checkpoint cannot be read or is of another type, or there is no camera.
        """
        if not cameras:
            raise UsageError("a vision-language policy needs a camera; the data has none.")
        if config.language in LANGUAGE_FAMILIES:
            tokenizer = TextTokenizer.of_words(tasks, notes)
            language = languages.build(languages.small(config, tokenizer.size + reserved))
        else:
            language, words = checkpoints.read_language(config.language)
            tokenizer = TextTokenizer.fitting(words, tasks, notes)
        scene = CameraSetup(dict(cameras), pointing or next(iter(cameras)))
        return cls(config, _tower(config), language, tokenizer, scene)

    @classmethod
    def of_description(
        cls, config: BackboneConfig, description: Mapping[str, Json], cameras: Mapping[str, tuple[int, int]]
    ) -> "Backbone":
        """The same architecture with fresh weights: the inverse of `describe`. No checkpoint is read."""
        vision, language, text, pointing = (
            description[name] for name in ("vision", "language", "tokenizer", "pointing")
        )
        assert isinstance(pointing, str)
        assert isinstance(text, dict)
        assert isinstance(language, dict)
        assert vision is None or isinstance(vision, dict)
        return cls(
            config,
            None if vision is None else Tower.of_description(vision),
            languages.build(configs.of_description(language)),
            TextTokenizer.of_description(text),
            CameraSetup(dict(cameras), pointing),
        )

    def describe(self) -> dict[str, Json]:
        """Everything but the weights, so that a run needs no checkpoint of anybody else's."""
        return self._description

    def _freeze(self) -> None:
        """Take the gradient from the parts that the config names; what was put beside them, LoRA, learns on."""
        tower = self.fusion.tower

        def own(model: nn.Module | None) -> list[nn.Parameter]:
            return [] if model is None else [p for name, p in model.named_parameters() if "lora_" not in name]

        between = [p for name, p in self.fusion.named_parameters() if not name.startswith("tower.")]
        parts = {
            "vision": own(tower),
            "language": own(self.language),
            "embeddings": list(self.language.get_input_embeddings().parameters()),
            "fusion": between,
        }
        for part in self.config.frozen:
            for weight in parts[part]:
                weight.requires_grad_(False)

    @property
    def tower(self) -> Tower | None:
        """The vision tower, where the fusion has one."""
        return self.fusion.tower

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Name -> (h, w), in their order in the prefix."""
        return self.scene.cameras

    @property
    def centres(self) -> Float[Tensor, "m 2"]:
        """Where each feature of `Prefix.map` is in the pointing camera's image: (u, v), 0 to 1 from the top left."""
        return self.fusion.centres

    @property
    def width(self) -> int:
        """Width of the language model's tokens."""
        width = self.language.config.hidden_size
        assert isinstance(width, int)
        return width

    @property
    def map_width(self) -> int:
        """Width of the features of `Prefix.map`."""
        return self.fusion.map_width

    def embed(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The language model's embeddings, scaled as it scales them, for `extend`."""
        return self.language.get_input_embeddings()(ids)

    def forward(self, images: Images, task: Sequence[str], notes: Sequence[str] | None = None) -> Prefix:
        """Read images and instructions once.

        Args:
            images: camera name -> image.
            task: one instruction for each row.
            notes: a second text for each row, read after the instruction; only if `create` was given examples of it.
        """
        seen = self.fusion(images)
        ids, spoken = self.tokenizer(task)
        words = ids.shape[1]
        if notes is not None:
            more, filled = self.tokenizer.notes(notes)
            ids, spoken = torch.cat([ids, more], 1), torch.cat([spoken, filled], 1)
        ids, spoken = ids.to(seen.tokens.device), spoken.to(seen.tokens.device)
        tokens = torch.cat([seen.tokens, self.embed(ids)], 1)
        start = seen.tokens.shape[1]
        valid = torch.cat([spoken.new_ones(len(ids), start), spoken], 1)
        mask = additive(valid[:, None].expand(-1, valid.shape[1], -1))
        cache = DynamicCache()
        hidden = self.read(tokens, mask, positions(valid), cache, seen.cross)
        features = hidden[:, self.fusion.place] if self.fusion.place is not None else seen.features
        assert features is not None
        return Prefix(cache, valid, hidden[:, start : start + words], spoken[:, :words], features, seen.cross)

    def read(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Float[Tensor, "b 1 n n"],
        place: Int[Tensor, "b n"],
        cache: DynamicCache,
        cross: Float[Tensor, "b c e"] | None,
    ) -> Float[Tensor, "b n d"]:
        """What the language model makes of a prefix, as `languages.read`."""
        return languages.read(self.language, tokens, mask, place, cache, cross)

    def extend(
        self,
        prefix: Prefix,
        tokens: Float[Tensor, "b q d"],
        mask: Float[Tensor, "b 1 q n"],
        place: Int[Tensor, "b q"],
    ) -> Float[Tensor, "b q d"]:
        """What the trunk itself makes of tokens after its prefix; their keys and values stay in the cache.

        Args:
            prefix: what it has read.
            tokens: embeddings.
            mask: additive, over the prefix and the tokens after it.
            place: positions.
        """
        return languages.read(self.language, tokens, mask, place, prefix.cache, prefix.cross)


def _tower(config: BackboneConfig) -> Tower | None:
    if config.fusion == "native":
        if config.vision not in VISION_FAMILIES:
            raise UsageError(f"native fusion has no vision tower, so '{config.vision}' cannot be one; leave it out.")
        return None
    return Tower.small(config) if config.vision in VISION_FAMILIES else checkpoints.read_tower(config.vision)


def _adapt(model: PreTrainedModel, config: BackboneConfig, part: str) -> None:
    """Put low-rank adapters beside all linear layers; the model's own weights no longer learn."""
    if config.lora and part in config.lora_parts:
        adapters = LoraConfig(
            r=config.lora, lora_alpha=round(config.lora * config.lora_scale), target_modules="all-linear"
        )
        inject_adapter_in_model(adapters, model)
