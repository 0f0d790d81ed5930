"""A teleoperator that does the task of the simulated SO-101 by itself."""

import numpy as np
from jaxtyping import Float
from lerobot.lerobot_types import RobotAction
from lerobot.teleoperators import Teleoperator
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from numpy.typing import NDArray

from lerobot_policy_worldlab import worldlab_so101
from lerobot_policy_worldlab.config_worldlab_teleop import WorldlabTeleopConfig
from worldlab import so101
from worldlab.envs.experts import EXPERTS
from worldlab.envs.mujoco_env import FPS
from worldlab.errors import UsageError

Array = NDArray[np.float64]


class WorldlabTeleop(Teleoperator):
    """worldlab's expert of the scene's own task, at the other end of a leader arm.

    It sees the scene itself, not the pictures, decides ten times a second, and pulls as much farther as the servos give
    way to gravity, as a person does who looks at the arm.
    """

    config_class = WorldlabTeleopConfig
    name = "worldlab"

    def __init__(self, config: WorldlabTeleopConfig) -> None:
        super().__init__(config)
        self.config = config
        self._connected = False

    @property
    def action_features(self) -> dict[str, type]:
        """Six joint goals, as of an SO-101 leader."""
        return dict.fromkeys(so101.NAMES, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        """None."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Be ready; LeRobot connects its robot later."""
        self._connected = True
        self._decided = np.inf

    @check_if_not_connected
    def get_action(self) -> RobotAction:
        """The goals of this moment, in the robot's units.

        Raises:
            UsageError: there is not one simulated SO-101 in this process.
        """
        if len(worldlab_so101.connected) != 1:
            raise UsageError(
                "--teleop.type=worldlab drives one --robot.type=worldlab_so101 in the same program; "
                f"{len(worldlab_so101.connected)} are connected."
            )
        robot = worldlab_so101.connected[0]
        now = robot.twin.seconds
        if not self._decided <= now < self._decided + 1 / FPS - robot.twin.tick / 2:
            self._decided = now
            self._goal = self._decide(robot)
        return dict(zip(so101.NAMES, self._goal.tolist(), strict=True))

    def _decide(self, robot: worldlab_so101.WorldlabSO101) -> Float[Array, "6"]:
        twin = robot.twin
        wanted = EXPERTS[twin.objective.name](twin.situation)[0] + twin.droop
        return robot.units.read(np.clip(wanted, so101.LOW, so101.HIGH))

    def send_feedback(self, feedback: dict[str, float]) -> None:
        """Nothing is felt."""

    @check_if_not_connected
    def disconnect(self) -> None:
        """Let go."""
        self._connected = False
