"""n simulations of one task in lockstep, as a Gymnasium vector environment on MuJoCo's batched stepping."""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

from collections.abc import Mapping, Sequence
from copy import copy

import gymnasium
import mujoco
import mujoco.batch
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float, Float64, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from worldlab import seeding, so101
from worldlab.envs.experts import Expert
from worldlab.envs.offscreen import Renderer, fixed
from worldlab.envs.scene import COLOURS, HALF, PARKED, Scene, project
from worldlab.envs.tasks import Situation, Start, Task
from worldlab.envs.variation import vary
from worldlab.errors import UsageError
from worldlab.protocols import Arrays
from worldlab.trajectory import Spec

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]
Picture = NDArray[np.uint8]

FPS = 10
_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
_STEP, _GOAL, _SEED = 0, slice(1, 3), 3  # in userdata
_PICTURE = (360, 480)


def contract(task: Task, size: tuple[int, int], cameras: tuple[str, ...]) -> Spec:
    """What a policy for `task` must agree with."""
    cube = ("x", "y", "z", "qw", "qx", "qy", "qz", "present", "target", "front.u", "front.v")
    privileged = [f"gripper.{axis}" for axis in "xyz"]
    privileged += [f"{colour}_cube.{name}" for colour in COLOURS for name in cube]
    privileged += ["zone.x", "zone.y", "zone.z", "zone.front.u", "zone.front.v"] if task.zone else []
    return Spec(
        cameras=dict.fromkeys(cameras, size),
        state=so101.NAMES,
        action=so101.NAMES,
        privileged=tuple(privileged),
        control="joint_position",
        low=so101.LOW,
        high=so101.HIGH,
        fps=FPS,
    )


class MujocoVectorEnv(gymnasium.vector.VectorEnv[Arrays, NDArray[np.float32], NDArray[np.generic]]):
    """n SO-101 arms, each at its own table; environment i of `reset(seed=s)` depends on s + i alone.

    Observations are joint positions "state" (n, 6) in radians and "images.<camera>" (n, h, w, 3); actions (n, 6) are
    joint targets in radians, ten a second. `info` holds "task", "success" and "privileged" (see `contract`). An
    environment that has terminated (success) or been truncated (time limit) stands still until the next reset. With
    `hold`, an episode succeeds once its task has stayed achieved for so many control steps more; `physics` does not
    hold that count, so it begins anew after `restore`.
    """

    def __init__(
        self,
        task: Task,
        n: int,
        *,
        size: tuple[int, int],
        cameras: tuple[str, ...],
        threads: int,
        meshes: bool,
        variation: Mapping[str, float],
        hold: int = 0,
    ) -> None:
        self.objective, self._threads, self._size, self._hold = task, threads, size, hold
        self.num_envs = n
        self.model = Scene(task.zone, meshes).compile()
        self.contract = contract(task, size, cameras)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"], "render_fps": FPS}
        self.render_mode = "rgb_array"
        images = {f"images.{camera}": gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8) for camera in cameras}
        joints = gymnasium.spaces.Box(-np.pi, np.pi, (6,), np.float32)
        self.single_observation_space = gymnasium.spaces.Dict({"state": joints, **images})
        low, high = np.array(so101.LOW, np.float32), np.array(so101.HIGH, np.float32)
        self.single_action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, n)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, n)

        self._variation = {name: severity for name, severity in variation.items() if severity}
        self._models = [self.model] * n
        self._batch = mujoco.batch.Batch(self.model, n, threads)
        self._data = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], Renderer] = {}
        self._task = ("",) * n
        self._images = {name: np.zeros((n, *size, 3), np.uint8) for name in images}
        self._gripper = np.zeros((n, 3))
        self._stood = np.zeros(n, int)  # control steps at whose end each was achieved, without a break
        self._pixels = np.zeros((n, len(COLOURS) + self.objective.zone, 2))

    @property
    def physics(self) -> Float64[Tensor, "n p"]:
        """mjSTATE_INTEGRATION of each simulation: all there is to know, goal, time and variation included."""
        return torch.tensor(self._batch.state)

    def restore(self, physics: Float64[Tensor, "n p"], task: tuple[str, ...]) -> None:
        """Continue from saved states, bit for bit; `observe` shows them. What was over there is over here.

        With `hold`, what has been achieved counts from here on, so that an episode may go on that was over.

        Raises:
            UsageError: there are not n rows of the width of `physics` and n instructions.
        """
        if (needed := self._batch.state.shape) != tuple(physics.shape) or len(task) != self.num_envs:
            raise UsageError(
                f"restoring needs one state of {needed[1]} numbers and one instruction for each of {self.num_envs} "
                f"environments; given states of shape {tuple(physics.shape)} and {len(task)} instructions."
            )
        self._batch.state[:] = physics.numpy()
        self._task = task
        self._set_models([int(seed) for seed in self._batch.bind("userdata")[:, _SEED]])
        self._look(range(self.num_envs))
        self._stood[:] = self.objective.success(self.situation)

    def displaced(self, physics: Float64[Tensor, "n p"], metres: float, seed: int) -> Float64[Tensor, "n p"]:
        """Saved states whose cubes lie elsewhere along the table.

        Args:
            physics: rows of `physics`.
            metres: standard deviation along x and along y, of each cube by itself.
            seed: row i is keyed by (seed, i).
        """
        moved = physics.numpy().copy()
        for i, state in enumerate(moved):
            mujoco.mj_setState(self.model, self._data, state, _INTEGRATION)
            cubes = self._data.qpos[6:].reshape(-1, 7)
            draw = np.random.default_rng(seeding.key(seed, i)).standard_normal((len(cubes), 2))
            cubes[:, :2] += np.where(cubes[:, 2:3] < PARKED / 2, metres * draw, 0)
            mujoco.mj_getState(self.model, self._data, state, _INTEGRATION)
        return torch.from_numpy(moved)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """Begin n episodes; without a seed, such as follow from the last one given.

        Raises:
            UsageError: there are options.
        """
        if options:
            raise UsageError(f"reset takes no options here; got {', '.join(options)}.")
        super().reset(seed=seed)
        first = int(self.np_random.integers(1 << 31)) if seed is None else seed
        seeds = [first + i for i in range(self.num_envs)]
        starts = [self.objective.start(np.random.default_rng(seeding.key(s, 0))) for s in seeds]
        self._task = tuple(start.instruction for start in starts)
        self._stood[:] = 0
        self._set_models(seeds)
        for i, start in enumerate(starts):
            self._begin(i, start, seeds[i])
        self._look(range(self.num_envs))
        return self.observe()

    def step(
        self, actions: Float[NDArray[np.float32], "n 6"]
    ) -> tuple[
        dict[str, NDArray[np.generic]], Float[Array, " n"], Bool[Mask, " n"], Bool[Mask, " n"], dict[str, object]
    ]:
        """Hold the joint targets `actions` (radians, clipped to the joints' ranges) for a tenth of a second."""
        terminated, truncated = self._ended()
        moving = np.flatnonzero(~(terminated | truncated)).tolist()
        if moving:
            targets = np.clip(_snap(actions.astype(np.float64)), so101.LOW, so101.HIGH)
            self._batch.bind("ctrl")[moving] = targets[moving]
            self._batch.step(ids=moving, nstep=round(1 / FPS / self.model.opt.timestep))
            self._batch.bind("userdata")[moving, _STEP] += 1
            self._look(moving)
            self._stood[moving] = np.where(self.objective.success(self.situation)[moving], self._stood[moving] + 1, 0)
        terminated, truncated = self._ended()
        observation, info = self.observe()
        return observation, self.objective.reward(self.situation), terminated, truncated, info

    def observe(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """The present observation and info, as `reset` and `step` return them."""
        situation = self.situation
        images = {name: image.copy() for name, image in self._images.items()}
        info: dict[str, object] = {
            "task": self._task,
            "success": self._success,
            "privileged": self._privileged(situation),
        }
        return {"state": _snap(situation.joints).astype(np.float32), **images}, info

    @property
    def situation(self) -> Situation:
        """What tasks and experts know of the present."""
        qpos = self._batch.bind("qpos")
        return Situation(
            joints=qpos[:, :6].copy(),
            gripper=self._gripper.copy(),
            cubes=qpos[:, 6:].reshape(self.num_envs, len(COLOURS), 7).copy(),
            goal=self._batch.bind("userdata")[:, _GOAL].astype(int),
            zone=self._batch.bind("mocap_pos")[:, 0].copy() if self.objective.zone else None,
        )

    @property
    def steps(self) -> Int[Index, " n"]:
        """Control steps since each episode began."""
        return self._batch.bind("userdata")[:, _STEP].astype(int)

    def expert(self, noise: float = 0.0) -> Expert:
        """The scripted policy of this environment; `noise` from 0 to 1 disturbs it (see `Expert`)."""
        return Expert(self, noise)

    def spare(self, n: int) -> "MujocoVectorEnv":
        """So many more simulations of the same task and variation, without cameras."""
        return MujocoVectorEnv(
            self.objective,
            n,
            size=self._size,
            cameras=(),
            threads=self._threads,
            meshes=False,
            variation=self._variation,
            hold=self._hold,
        )

    def render(self) -> tuple[UInt8[Picture, "h w 3"], ...]:
        """A picture of each table from the front camera, 360 x 480 pixels."""
        return tuple(self._draw(self._load(i), "front", _PICTURE).copy() for i in range(self.num_envs))

    def _ended(self) -> tuple[Bool[Mask, " n"], Bool[Mask, " n"]]:
        return self._success, ~self._success & (self.steps >= self.objective.limit)

    @property
    def _success(self) -> Bool[Mask, " n"]:
        return self._stood > self._hold

    def _set_models(self, seeds: list[int]) -> None:
        if self._variation:
            self._models = [vary(self.model, self._variation, seed) for seed in seeds]
            self._batch.set_models(self._models)

    def _begin(self, i: int, start: Start, seed: int) -> None:
        model, data = self._models[i], self._data
        mujoco.mj_resetData(model, data)
        data.qpos[:6] = data.ctrl[:] = start.joints
        for cube, (colour, (x, y, yaw)) in enumerate(zip(COLOURS, start.cubes, strict=True)):
            absent = bool(np.isnan(x))
            place = (cube, 0, PARKED, 1, 0, 0, 0) if absent else (x, y, HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
            data.qpos[6 + 7 * cube : 13 + 7 * cube] = place
            if absent:
                body = model.body(f"{colour}_cube").id
                data.xfrc_applied[body, :3] = -model.body_mass[body] * model.opt.gravity
        if start.zone is not None:
            data.mocap_pos[0, :2] = start.zone
        data.userdata[_GOAL], data.userdata[_SEED] = start.goal, seed
        mujoco.mj_getState(model, data, self._batch.state[i], _INTEGRATION)

    def _load(self, i: int) -> mujoco.MjModel:
        model = self._models[i]
        mujoco.mj_setState(model, self._data, self._batch.state[i], _INTEGRATION)
        mujoco.mj_kinematics(model, self._data)
        mujoco.mj_camlight(model, self._data)
        return model

    def _look(self, ids: Sequence[int]) -> None:
        camera = self.model.camera("front").id
        for i in ids:
            model = self._load(i)
            self._gripper[i] = self._data.site("gripperframe").xpos
            seen = np.concatenate([self._data.qpos[6:].reshape(-1, 7)[:, :3], self._data.mocap_pos])
            position, rotation = self._data.cam_xpos[camera], self._data.cam_xmat[camera].reshape(3, 3)
            self._pixels[i] = project(seen, position, rotation, model.cam_fovy[camera], self._size[1] / self._size[0])
            for name, size in self.contract.cameras.items():
                self._images[f"images.{name}"][i] = self._draw(model, name, size)

    def _draw(self, model: mujoco.MjModel, camera: str, size: tuple[int, int]) -> UInt8[Picture, "h w 3"]:
        if size not in self._renderers:
            self._renderers[size] = Renderer(copy(self.model), size)
        return self._renderers[size].draw(model, self._data, fixed(model.camera(camera).id))

    def _privileged(self, s: Situation) -> Float[NDArray[np.float32], "n z"]:
        present = s.present[..., None]
        target = (np.arange(len(COLOURS)) == s.goal[:, :1])[..., None]
        absent = np.array([0, 0, 0, 1, 0, 0, 0])
        pose = np.where(present, s.cubes, absent)
        pixels = self._pixels[:, : len(COLOURS)]
        cubes = np.concatenate([pose, present, target, np.where(present, pixels, 0)], -1)
        parts = [s.gripper, cubes.reshape(self.num_envs, -1)]
        if s.zone is not None:
            parts += [s.zone, self._pixels[:, -1]]
        return np.concatenate(parts, -1).astype(np.float32)


def _snap(joints: Array) -> Array:
    return so101.snap(torch.from_numpy(joints)).numpy()
