"""Another trunk under a preset's head: what `worldlab train --fusion … --backbone …` asks for."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldlab.errors import UsageError, unknown

if TYPE_CHECKING:
    from worldlab.policies.backbone_config import BackboneConfig, Part
    from worldlab.policies.inherit import InitRun
    from worldlab.presets import TrainConfig


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """What differs from the preset's trunk; None leaves it."""

    fusion: str | None = None
    """How images get into the language model. `worldlab list backbones` shows the ways."""
    backbone: str | None = None
    """Hub name or directory of a checkpoint: a vision-language model, a vision tower or a language model."""
    vision: str | None = None
    """The same for the tower alone, or the family of a small one from scratch."""
    language: str | None = None
    """The same for the language model alone, or the family of a small one from scratch."""
    frozen: tuple[str, ...] | None = None
    """Parts that do not learn: vision, language, embeddings, fusion."""
    lora: int | None = None
    """Rank of low-rank adapters in the language model; its own weights are then frozen."""
    init: Path | None = None
    """A run to start from, of a stage or of a policy: its trunk, and every weight whose name and shape is wanted."""

    def applied_to(self, config: "TrainConfig") -> "TrainConfig":
        """The recipe with this trunk.

        Raises:
            UsageError: there is no such fusion, part or rank, the checkpoint or the run cannot be read, the model has
                no trunk, or two are asked for.
        """
        if self == BackboneOptions():
            return config
        from worldlab.policies.stage import StageConfig
        from worldlab.policies.vla import VLAConfig

        if self.lora is not None and self.lora < 0:
            raise UsageError(f"--lora is a rank, 0 for none; got {self.lora}.")
        if not isinstance(config.model, VLAConfig | StageConfig):
            raise UsageError("this preset's model has no vision-language trunk, so it cannot have another one.")
        trunk, init_run = self.instead_of(config.model.backbone), self.init_run()
        if init_run is not None:
            if any((self.fusion, self.backbone, self.vision, self.language)):
                raise UsageError(
                    f"--init takes the trunk of '{self.init}' as it is; leave --fusion, --backbone, --vision and "
                    "--language out, or give them to the first stage."
                )
            trunk = init_run.applied_to(trunk)
        return replace(config, model=replace(config.model, backbone=trunk))

    def init_run(self) -> "InitRun | None":
        """The run to start from."""
        from worldlab.policies.inherit import InitRun

        return None if self.init is None else InitRun(self.init)

    def instead_of(self, trunk: "BackboneConfig") -> "BackboneConfig":
        """That trunk with what differs."""
        if self.fusion is not None:
            trunk = _fused(trunk, self.fusion)
        if self.vision is not None and trunk.fusion == "native":
            raise UsageError(f"native fusion has no vision tower, so --vision {self.vision} has no place in it.")
        vision, language = self.vision, self.language
        if self.backbone is not None:
            from worldlab.policies.checkpoints import parts_of

            found = parts_of(self.backbone)
            vision, language = vision or found.get("vision"), language or found.get("language")
        return replace(
            trunk,
            vision=trunk.vision if vision is None else vision,
            language=trunk.language if language is None else language,
            frozen=trunk.frozen if self.frozen is None else _parts(self.frozen),
            lora=trunk.lora if self.lora is None else self.lora,
        )


def _fused(trunk: "BackboneConfig", name: str) -> "BackboneConfig":
    from worldlab.policies.backbone_config import FUSIONS

    if name not in FUSIONS:
        raise unknown("fusion", name, FUSIONS)
    # The presets' towers are as large as their cameras' images, which then would have no tiles.
    tiled = name == "anyres" and trunk.fusion != "anyres"
    return replace(trunk, fusion=name, image=trunk.image // 2 if tiled else trunk.image)


def _parts(names: Collection[str]) -> "tuple[Part, ...]":
    from worldlab.policies.backbone_config import PARTS

    for name in names:
        if name not in PARTS:
            raise unknown("part of the trunk", name, PARTS)
    return tuple(part for part in PARTS if part in names)


def families() -> dict[str, list[str]]:
    """What a trunk can be made of."""
    from worldlab.policies.backbone_config import FUSIONS, LANGUAGE_FAMILIES, VISION_FAMILIES

    return {"fusion": list(FUSIONS), "vision": list(VISION_FAMILIES), "language": list(LANGUAGE_FAMILIES)}
