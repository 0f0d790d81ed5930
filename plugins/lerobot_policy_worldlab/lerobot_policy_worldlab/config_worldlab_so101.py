"""LeRobot's configuration of the simulated SO-101."""

from dataclasses import dataclass, field

from lerobot.cameras import CameraConfig
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.robots import RobotConfig

from worldlab.envs.servo import STIFFNESS, P


def small_cameras() -> dict[str, CameraConfig]:
    """The cameras that worldlab's policies look through unless told otherwise."""
    return {name: OpenCVCameraConfig(index_or_path=0, width=64, height=64, fps=30) for name in ("front", "wrist")}


@RobotConfig.register_subclass("worldlab_so101")
@dataclass(kw_only=True)
class WorldlabSO101Config(RobotConfig):
    """`--robot.type=worldlab_so101`. What the real follower has under the same name means the same."""

    task: str = "Reach-v0"
    """The scene on the table: Reach-v0, Push-v0, Lift-v0 or Stack-v0."""
    seed: int = 0
    """Of the scene; the same seed is the same scene as in `worldlab eval` and `lerobot-eval`. A program that counts its
    episodes gets the scene of seed + n in episode n."""
    realtime: bool = True
    """The arm moves with the clock on the wall; otherwise by one control period for each action it is sent."""
    fps: int = 30
    """Control periods a second where the clock is not the wall's: what the program runs at (its own --fps)."""
    ideal: bool = False
    """Exactly the environment of `worldlab eval`: no encoder ticks, no delay, servos that give way to nothing."""
    cameras: dict[str, CameraConfig] = field(default_factory=small_cameras)
    """Named front and wrist, of any type: their width, height and fps are what counts. All in one --robot.cameras."""
    latency: float = 0.05
    """From a picture's taking to its arrival, seconds. Pictures come once a frame, so at 30 a second they are
    one and a half to two and a half frames old, 50 to 83 ms."""
    stiffness: float | None = STIFFNESS
    """Of the servos for each unit of P, N·m/rad: 0.556 at 7.4 V, 1.38 at 12 V; null leaves the environment's own."""
    position_p_coefficient: int = P
    """The servos' position gain."""
    use_degrees: bool = True
    """The arm's joints in degrees; otherwise -100 to 100."""
    max_relative_target: float | dict[str, float] | None = None
    """The farthest a goal may be from where its joint is, in the joint's units; None is no limit."""
