"""What the stages before the actions have in common: a trunk, and the simulator's labels of what its camera sees."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.policies.backbone import Backbone, BackboneConfig
from worldlab.policies.captions import Richness, SceneReader, Sight
from worldlab.runs import Json, described
from worldlab.trajectory import Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What all stages have in common."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The trunk, with the parts that this stage leaves as they are."""
    cameras: tuple[str, ...] | None = None
    """Cameras to look through; None takes all that the data has."""
    camera: str = "front"
    """Whose image the texts are about."""
    richness: Richness = "spatial"
    """How much the captions say."""


class Stage(nn.Module):
    """A `Trainable` whose trunk the next stage, and at last a policy, goes on with."""

    def __init__(
        self,
        config: StageConfig,
        kind: Literal["contrastive", "align", "instruct"],
        spec: Spec,
        backbone: Backbone,
    ) -> None:
        """`spec` is that of the data.

        Raises:
            UsageError: the data does not say what can be seen.
        """
        super().__init__()
        self.kind, self.backbone = kind, backbone
        self.spec = replace(spec, cameras={name: spec.cameras[name] for name in backbone.cameras})
        self.camera, self._config = config.camera, config
        self.reader = SceneReader(spec, config.camera)
        if not self.reader.colours:
            raise UsageError(
                f"captions are written from columns such as 'red_cube.{config.camera}.u', which this data does not "
                "have; collect it in simulation."
            )

    def describe(self) -> dict[str, Json]:
        """What config.json needs, so that the stage, or a policy on its trunk, can be built again."""
        return described(self.kind, model=self._config, spec=self.spec) | {"backbone": self.backbone.describe()}

    @property
    def compiles(self) -> list[tuple[nn.Module, str]]:
        """What the trunk makes of images and prompts; texts differ from batch to batch, and stay as they are."""
        return [(self.backbone.fusion, "forward"), (self.backbone, "read")]

    def sights(self, batch: Trajectory) -> list[Sight]:
        """What can be seen in each first row."""
        return [self.reader(row) for row in privileged(batch).tolist()]


def privileged(batch: Trajectory) -> Float[Tensor, "b z"]:
    """The simulator's labels of each first row."""
    assert batch.privileged is not None
    return batch.privileged[:, 0]


def equal(texts: Sequence[str]) -> list[list[bool]]:
    """Which texts are the same."""
    return [[a == b for b in texts] for a in texts]
