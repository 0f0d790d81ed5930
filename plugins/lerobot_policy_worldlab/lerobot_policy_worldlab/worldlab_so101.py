"""The simulated SO-101 behind LeRobot's own `Robot` class."""

import logging
import time

import mujoco
import numpy as np
import torch
from lerobot.lerobot_types import RobotAction, RobotObservation
from lerobot.robots import Robot
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from lerobot_policy_worldlab.config_worldlab_so101 import WorldlabSO101Config
from lerobot_policy_worldlab.env_worldlab import CAMERAS
from worldlab import so101
from worldlab.protocols import Arrays

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)

logger = logging.getLogger(__name__)


class WorldlabSO101(Robot):
    """Keys, order and units of the real follower: degrees about the middle, gripper 0 to 100, cameras as RGB arrays.

    Time passes with the clock on the wall from the first action on, also when the task is achieved. Goals beyond a
    joint's range are clamped, as a servo's position limits do.
    """

    config_class = WorldlabSO101Config
    name = "so_follower"
    """The real follower's, so that data sets say the same `robot_type`."""

    def __init__(self, config: WorldlabSO101Config) -> None:
        super().__init__(config)
        self.config = config
        self.cameras = dict.fromkeys(CAMERAS, (config.size, config.size))
        self._connected = False

    @property
    def observation_features(self) -> dict[str, type | tuple[int, int, int]]:
        """Six joint positions, and each camera's shape."""
        return {**self.action_features, **{camera: (*size, 3) for camera, size in self.cameras.items()}}

    @property
    def action_features(self) -> dict[str, type | tuple[int, int, int]]:
        """Six joint goals."""
        return dict.fromkeys(so101.NAMES, float)

    @property
    def is_connected(self) -> bool:
        """Whether the simulator runs."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always: the simulated joints' zero is the model's."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Set the scene of the configured seed."""
        from worldlab import envs

        self._env = envs.make(f"worldlab/{self.config.task}", n=1, size=self.config.size)
        _, info = self._env.reset(seed=self.config.seed)
        self._task = info["task"]
        self._data = mujoco.MjData(self._env.model)
        mujoco.mj_setState(self._env.model, self._data, self._env.physics[0].numpy(), STATE)
        self._begun: float | None = None
        self._steps = self._actions = 0
        self._succeeded = False
        self._connected = True
        logger.info("%s connected; the scene's own instruction is '%s'", self, self._task[0])

    @check_if_not_connected
    def get_observation(self) -> RobotObservation:
        """Joint positions and images of this moment."""
        self._catch_up()
        raw = self._look()
        position = so101.to_lerobot(torch.tensor(raw["state"][0])).tolist()
        images = {camera: raw[f"images.{camera}"][0].copy() for camera in self.cameras}
        return {**dict(zip(so101.NAMES, position, strict=True)), **images}

    @check_if_not_connected
    def send_action(self, action: RobotAction) -> RobotAction:
        """Set the joints' goals; returns them as they were accepted."""
        self._catch_up()
        wanted = so101.from_lerobot(torch.tensor([action[name] for name in so101.NAMES], dtype=torch.float64))
        low, high = (torch.tensor(limit, dtype=torch.float64) for limit in (so101.LOW, so101.HIGH))
        goal = wanted.clamp(low, high)
        self._data.ctrl[:] = goal.numpy()
        self._begun = self._begun or time.perf_counter()
        self._actions += 1
        if not self.config.realtime:
            self._advance(1 / self._env.contract.fps)
        return dict(zip(so101.NAMES, so101.to_lerobot(goal).tolist(), strict=True))

    @check_if_not_connected
    def disconnect(self) -> None:
        """Close the simulator and say how the task went."""
        self._look()
        verdict = "achieved" if self._succeeded else "not achieved"
        logger.info("%s disconnected after %d actions in %.1f s; task %s", self, self._actions, self._seconds, verdict)
        self._env.close()
        self._connected = False

    def _look(self) -> Arrays:
        """What the environment sees of this moment; says when the task is first achieved."""
        state = np.empty_like(self._env.physics[0].numpy())
        mujoco.mj_getState(self._env.model, self._data, state, STATE)
        self._env.restore(torch.tensor(state)[None], self._task)
        raw, info = self._env.observe()
        if info["success"][0] and not self._succeeded:
            self._succeeded = True
            logger.info("task achieved after %.1f s", self._seconds)
        return raw

    @property
    def _seconds(self) -> float:
        """Simulated time since the first action."""
        return self._steps * self._env.model.opt.timestep

    def _catch_up(self) -> None:
        """Let the time pass that has passed on the wall since the last call."""
        if self.config.realtime and self._begun is not None:
            self._advance(time.perf_counter() - self._begun - self._seconds)

    def _advance(self, seconds: float) -> None:
        """Move towards the goals."""
        steps = max(0, round(seconds / self._env.model.opt.timestep))
        if steps:
            mujoco.mj_step(self._env.model, self._data, steps)
            self._steps += steps
