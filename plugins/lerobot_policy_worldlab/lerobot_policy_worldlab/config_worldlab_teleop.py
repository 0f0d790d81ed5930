"""LeRobot's configuration of the scripted teleoperator."""

from dataclasses import dataclass

from lerobot.teleoperators import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("worldlab")
@dataclass(kw_only=True)
class WorldlabTeleopConfig(TeleoperatorConfig):
    """`--teleop.type=worldlab`: for `--robot.type=worldlab_so101`, whose task it knows how to do."""
