"""One SO-101 that lives in time, as a real one does: it moves between looks, and its cameras show the past."""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.envs.offscreen import Renderer, fixed
from worldlab.envs.servo import soften
from worldlab.envs.tasks import Situation, Task

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class Camera:
    """How a camera takes pictures."""

    size: tuple[int, int]
    """Height and width, pixels."""
    fps: int
    """Pictures a second."""


class Twin:
    """The scene of one seed, with servos, cameras and a clock of its own; nothing happens but by `advance`.

    A camera takes a picture every 1 / fps from the beginning on; it is seen `latency` later, until the next is. The
    joints are seen as they are. Same seed, same goals at the same times: same bits.
    """

    num_envs = 1

    def __init__(
        self, env: MujocoVectorEnv, cameras: Mapping[str, Camera], latency: float, stiffness: float | None
    ) -> None:
        """`env` sets and judges the scene and is not stepped.

        Args:
            env: of one simulation.
            cameras: by their names in the scene.
            latency: from a picture's taking to its arrival, seconds.
            stiffness: of the servos, N·m/rad; None leaves the environment's own.
        """
        self._env = env
        self._model = copy(env.model)
        if stiffness is not None:
            soften(self._model, stiffness)
        self._data, self._view = mujoco.MjData(self._model), mujoco.MjData(self._model)
        self._cameras = cameras
        self._latency = latency
        oldest = latency + max((1 / camera.fps for camera in cameras.values()), default=0.0)
        self._film: deque[Array] = deque(maxlen=round(oldest / self._model.opt.timestep) + 2)
        self._renderers = {name: Renderer(copy(self._model), camera.size) for name, camera in cameras.items()}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Set the scene of a seed, the same as the environment's, and the clock to zero."""
        _, info = self._env.reset(seed=seed)
        self.task: tuple[str, ...] = info["task"]
        """The scene's own instruction."""
        self._steps = 0
        mujoco.mj_setState(self._model, self._data, self._env.physics[0].numpy(), _STATE)
        self._film.clear()
        self._film.append(self._env.physics[0].numpy())

    def aim(self, radians: Float[Array, "6"]) -> None:
        """Set the servos' goals."""
        self._data.ctrl[:] = radians

    def advance(self, until: float) -> None:
        """Let time pass until so many seconds after the scene was set."""
        for _ in range(round(until / self._model.opt.timestep) - self._steps):
            mujoco.mj_step(self._model, self._data)
            state = np.empty_like(self._film[0])
            mujoco.mj_getState(self._model, self._data, state, _STATE)
            self._film.append(state)
            self._steps += 1

    @property
    def seconds(self) -> float:
        """Since the scene was set."""
        return self._steps * self._model.opt.timestep

    @property
    def tick(self) -> float:
        """The clock's, seconds."""
        return self._model.opt.timestep

    @property
    def joints(self) -> Float[Array, "6"]:
        """Where the joints are, radians."""
        return self._data.qpos[:6].copy()

    @property
    def objective(self) -> Task:
        """What is to be done."""
        return self._env.objective

    @property
    def situation(self) -> Situation:
        """What the task and its expert know of the present."""
        self._env.restore(torch.tensor(self._film[-1])[None], self.task)
        return self._env.situation

    @property
    def succeeded(self) -> bool:
        """Whether the task is achieved at present."""
        return bool(self.objective.success(self.situation)[0])

    @property
    def droop(self) -> Float[Array, "6"]:
        """How far gravity would hold each joint below its goal if it stood where it is, radians."""
        mujoco.mj_setState(self._model, self._view, self._film[-1], _STATE)
        self._view.qvel[:] = 0
        mujoco.mj_forward(self._model, self._view)
        return self._view.qfrc_bias[:6] / self._model.actuator_gainprm[:6, 0]

    def picture(self, name: str) -> UInt8[Picture, "h w 3"]:
        """The latest picture of a camera that has arrived."""
        step, fps = self._model.opt.timestep, self._cameras[name].fps
        # The physics knows the time to half a step.
        taken = np.floor((self.seconds - self._latency + step / 2) * fps) / fps
        state = self._film[np.clip(round(taken / step) - self._steps - 1, -len(self._film), -1)]
        mujoco.mj_setState(self._model, self._view, state, _STATE)
        mujoco.mj_kinematics(self._model, self._view)
        mujoco.mj_camlight(self._model, self._view)
        camera = fixed(self._model.camera(name).id)
        return self._renderers[name].draw(self._model, self._view, camera).copy()
