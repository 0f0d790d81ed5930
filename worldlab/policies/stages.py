"""The stages before the actions: how each is made, and read from its run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from worldlab.errors import UsageError
from worldlab.policies.backbone import Backbone
from worldlab.policies.backbone_config import LANGUAGE_FAMILIES
from worldlab.policies.captioning import Captioning, CaptioningConfig
from worldlab.policies.captions import SceneReader, prompts, replies
from worldlab.policies.contrastive import Contrastive, ContrastiveConfig
from worldlab.policies.inherit import InitRun
from worldlab.policies.stage import StageConfig
from worldlab.policies.vla import note_examples
from worldlab.runs import Json, Run, restored
from worldlab.trajectory import Spec

type StageConfigs = ContrastiveConfig | CaptioningConfig

_KINDS = ("contrastive", "align", "instruct")


def create(
    config: StageConfigs, spec: Spec, tasks: Sequence[str], init_run: InitRun | None = None
) -> Contrastive | Captioning:
    """A stage for data of the given `Spec`, its trunk fresh or built as an earlier run's; weights are not loaded.

    Args:
        config: which stage, and its sizes.
        spec: of the data; its privileged columns name what can be seen.
        tasks: every instruction that a later stage may be given.
        init_run: whose trunk is gone on with.

    Raises:
        UsageError: a camera is missing, a pretrained part cannot be read or cannot be taught words, or the data has no
            labels.
    """
    make = Backbone.create if init_run is None else init_run.backbone
    colours = SceneReader(spec, config.camera).colours
    # A later policy may read joint positions as numbers, so these are words too.
    notes = [*replies(colours), *note_examples(len(spec.state))]
    backbone = make(
        config.backbone, _cameras(config, spec), [*tasks, *prompts(colours)], notes=notes, pointing=config.camera
    )
    if isinstance(config, CaptioningConfig):
        _check_writing(backbone)
    return _assemble(config, spec, backbone)


def _check_writing(backbone: Backbone) -> None:
    """Raise `UsageError` for a checkpoint that writes by a layer of its own, which the trunk does not have."""
    name = backbone.config.language
    if name not in LANGUAGE_FAMILIES and not backbone.language.config.tie_word_embeddings:
        raise UsageError(
            f"'{name}' writes by another layer than its embeddings, which policies do not load, so it cannot be taught "
            "words here; choose one that ties the two, such as SmolLM2 or Gemma, or leave this stage out."
        )


def of_description(description: Mapping[str, Json]) -> Contrastive | Captioning:
    """The stage that its `describe` described, with untrained weights and in evaluation mode."""
    union = Annotated[StageConfigs, Field(discriminator="kind")]
    config = restored(TypeAdapter[StageConfigs](union).validate_python, description["model"])
    spec = restored(TypeAdapter(Spec).validate_python, description["spec"])
    architecture = description["backbone"]
    assert isinstance(architecture, dict)
    return _assemble(config, spec, Backbone.of_description(config.backbone, architecture, spec.cameras)).eval()


def load(path: str | Path) -> Contrastive | Captioning:
    """The stage that a run holds.

    Raises:
        UsageError: there is no run, or it holds something else.
    """
    run = Run.open(path)
    kind = run.config["kind"]
    if kind not in _KINDS:
        raise UsageError(f"'{path}' holds a model of kind '{kind}', not a stage ({', '.join(_KINDS)}).")
    stage = of_description(run.config)
    run.load_into(stage)
    return stage


def _assemble(config: StageConfigs, spec: Spec, backbone: Backbone) -> Contrastive | Captioning:
    if isinstance(config, ContrastiveConfig):
        return Contrastive(config, spec, backbone)
    return Captioning(config, spec, backbone)


def _cameras(config: StageConfig, spec: Spec) -> dict[str, tuple[int, int]]:
    wanted = tuple(spec.cameras) if config.cameras is None else config.cameras
    if missing := [name for name in (*wanted, config.camera) if name not in spec.cameras]:
        raise UsageError(f"the data has no camera '{missing[0]}'; it has {', '.join(spec.cameras) or 'none'}.")
    if config.camera not in wanted:
        raise UsageError(f"texts are about camera '{config.camera}', so it must be among those looked through.")
    return {name: spec.cameras[name] for name in wanted}
