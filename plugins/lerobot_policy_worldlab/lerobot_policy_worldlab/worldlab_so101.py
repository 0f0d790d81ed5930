"""The digital twin of the SO-101 behind LeRobot's own `Robot` class."""

import logging
import re
import time

import numpy as np
import torch
from jaxtyping import Float
from lerobot.lerobot_types import RobotAction, RobotObservation
from lerobot.motors import MotorCalibration
from lerobot.robots import Robot
from lerobot.robots.utils import ensure_safe_goal_position
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from numpy.typing import NDArray

from lerobot_policy_worldlab.config_worldlab_so101 import WorldlabSO101Config
from worldlab import so101
from worldlab.envs.servo import Encoders, nominal
from worldlab.envs.twin import Camera, Twin
from worldlab.errors import UsageError

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)

connected: "list[WorldlabSO101]" = []
"""The twins of this process, for teleoperators that know what the arm does not see."""


class WorldlabSO101(Robot):
    """Keys, order, units, limits and calibration files of the real follower (`lerobot.robots.so_follower`).

    Time passes from the first action on, also when the task is achieved.
    """

    config_class = WorldlabSO101Config
    name = "so_follower"
    """The real follower's, so that data sets say the same `robot_type`."""

    def __init__(self, config: WorldlabSO101Config) -> None:
        """Read the arm's calibration file if it has one; see `calibrate`."""
        super().__init__(config)
        self.config = config
        self.cameras = {name: Camera((c.height, c.width), c.fps) for name, c in config.cameras.items()}
        if unknown := set(self.cameras) - {"front", "wrist"}:
            raise UsageError(f"the simulated SO-101 has the cameras front and wrist, not {', '.join(sorted(unknown))}.")
        if config.ideal and not config.use_degrees:
            raise UsageError("the ideal arm has no encoders and so no ranges: leave out use_degrees=false, or ideal.")
        if not self.calibration:
            self.calibrate()
        self._listener = Listener(self)

    @property
    def observation_features(self) -> dict[str, type | tuple[int, int, int]]:
        """Six joint positions, and each camera's shape."""
        return {**self.action_features, **{name: (*camera.size, 3) for name, camera in self.cameras.items()}}

    @property
    def action_features(self) -> dict[str, type | tuple[int, int, int]]:
        """Six joint goals."""
        return dict.fromkeys(so101.NAMES, float)

    @property
    def is_connected(self) -> bool:
        """Whether the simulator runs."""
        return self in connected

    @property
    def is_calibrated(self) -> bool:
        """Always: an arm without a file calibrates itself."""
        return True

    def calibrate(self) -> None:
        """Take on the nominal calibration, unless the arm has a file.

        It is not written to LeRobot's folder: a real arm of the same id would be offered it as its own.
        """
        if not self.calibration:
            ranges = nominal()
            self.calibration = {
                joint: MotorCalibration(id=i + 1, drive_mode=0, homing_offset=0, range_min=low, range_max=high)
                for i, (joint, low, high) in enumerate(zip(so101.JOINTS, ranges.low, ranges.high, strict=True))
            }

    def configure(self) -> None:
        """Nothing to do: the configuration is read when the simulator is set up."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Set the scene of the configured seed."""
        from worldlab import envs

        config = self.config
        env = envs.make(f"worldlab/{config.task}", size=None)
        self.units = Exact() if config.ideal else encoders(self.calibration, config.use_degrees)
        rigid = config.ideal or config.stiffness is None
        stiffness = None if rigid else config.stiffness * config.position_p_coefficient
        self.twin = Twin(env, self.cameras, 0.0 if config.ideal else config.latency, stiffness)
        connected.append(self)
        logging.getLogger().addHandler(self._listener)
        self.begin(0)

    @check_if_not_connected
    def begin(self, episode: int) -> None:
        """Set the scene of an episode."""
        self.twin.reset(self.config.seed + episode)
        self._begun: float | None = None
        self._actions = 0
        self._succeeded = False
        logger.info("%s: scene %d; its own instruction is '%s'", self, self.config.seed + episode, self.twin.task[0])

    @check_if_not_connected
    def get_observation(self) -> RobotObservation:
        """The joints' positions at this moment, and each camera's latest picture."""
        self._catch_up()
        position = self.units.read(self.twin.joints).tolist()
        images = {name: self.twin.picture(name) for name in self.cameras}
        return {**dict(zip(so101.NAMES, position, strict=True)), **images}

    @check_if_not_connected
    def send_action(self, action: RobotAction) -> RobotAction:
        """Set the joints' goals; returns them as they were sent, no farther than `max_relative_target`.

        Raises:
            ValueError, TypeError: `max_relative_target` is not what LeRobot accepts.
        """
        self._catch_up()
        goal = {joint: float(action[name]) for joint, name in zip(so101.JOINTS, so101.NAMES, strict=True)}
        if self.config.max_relative_target is not None:
            present = self.units.read(self.twin.joints).tolist()
            pairs = {joint: (goal[joint], now) for joint, now in zip(so101.JOINTS, present, strict=True)}
            goal = ensure_safe_goal_position(pairs, self.config.max_relative_target)
        self.twin.aim(self.units.write(np.array([goal[joint] for joint in so101.JOINTS])))
        self._begun = self._begun or time.perf_counter()
        self._actions += 1
        if not self.config.realtime:
            self._advance(self._actions / self.config.fps)
        return dict(zip(so101.NAMES, goal.values(), strict=True))

    @check_if_not_connected
    def disconnect(self) -> None:
        """Say how the task went."""
        verdict = "achieved" if self._succeeded else "not achieved"
        logger.info("%s disconnected after %d actions; task %s", self, self._actions, verdict)
        logging.getLogger().removeHandler(self._listener)
        connected.remove(self)

    def _catch_up(self) -> None:
        """Let the time pass that has passed on the wall since the last call."""
        if self.config.realtime and self._begun is not None:
            self._advance(time.perf_counter() - self._begun)

    def _advance(self, until: float) -> None:
        """Let time pass, and say when the task is first achieved."""
        self.twin.advance(until)
        if not self._succeeded and self.twin.succeeded:
            self._succeeded = True
            logger.info("task achieved after %.1f s", self.twin.seconds)


class Exact:
    """LeRobot's units without an encoder between: every angle as `so101` knows it."""

    def read(self, radians: Float[Array, "6"]) -> Float[Array, "6"]:
        """Radians, float32 as the environment shows them, in LeRobot's units."""
        return so101.to_lerobot(so101.snap(torch.tensor(radians)).float()).double().numpy()

    def write(self, units: Float[Array, "6"]) -> Float[Array, "6"]:
        """The inverse, within the joints' ranges."""
        return np.clip(so101.from_lerobot(torch.tensor(units)).numpy(), so101.LOW, so101.HIGH)


def encoders(calibration: dict[str, MotorCalibration], degrees: bool) -> Encoders:
    """The encoders of an arm with this calibration.

    Raises:
        UsageError: the file is another robot's.
    """
    if set(calibration) != set(so101.JOINTS) or any(motor.drive_mode for motor in calibration.values()):
        raise UsageError(
            f"not the calibration of an SO-101: motors {', '.join(calibration)}; needed are {', '.join(so101.JOINTS)}, "
            "all with drive_mode 0, as lerobot-calibrate writes them."
        )
    motors = [calibration[joint] for joint in so101.JOINTS]
    return Encoders(tuple(m.range_min for m in motors), tuple(m.range_max for m in motors), degrees)


class Listener(logging.Handler):
    """Sets the table for the next episode when LeRobot says that it begins.

    `lerobot-record` and `lerobot-rollout` have no hook for it: they tell the person at the table, by voice and in the
    log ("Recording episode 3"). The twin listens.
    """

    def __init__(self, robot: WorldlabSO101) -> None:
        super().__init__()
        self._robot = robot

    def emit(self, record: logging.LogRecord) -> None:
        """Begin the episode that is announced."""
        if episode := re.fullmatch(r"Recording episode (\d+)", record.getMessage()):
            self._robot.begin(int(episode[1]))
