"""LeRobot's configuration of the simulated SO-101."""

from dataclasses import dataclass

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("worldlab_so101")
@dataclass(kw_only=True)
class WorldlabSO101Config(RobotConfig):
    """`--robot.type=worldlab_so101`."""

    task: str = "Reach-v0"
    """The scene on the table: Reach-v0, Push-v0, Lift-v0 or Stack-v0."""
    seed: int = 0
    """Of the scene; the same seed is the same scene as in `worldlab eval` and `lerobot-eval`."""
    size: int = 64
    """Height and width of both cameras, in pixels."""
    realtime: bool = True
    """The arm moves with the clock on the wall; otherwise by one control period for each action it is sent."""
