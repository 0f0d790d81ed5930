"""DeepMind's control suite (Tassa et al. 2018, arXiv:1801.00690; `dm_control`) as a vector environment."""

# mujoco's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment
from numpy.typing import NDArray

from worldlab.envs.lockstep import Array, Moment, RestorableLockstep, Size, shape
from worldlab.envs.offscreen import Renderer, fixed
from worldlab.errors import unknown
from worldlab.trajectory import Spec

IDS = tuple(f"dm_control/{domain}-{task}-v0" for domain, task in suite.ALL_TASKS)
"""Every environment of the suite."""

EPISODE = 1000
"""Control steps of the suite before any action repeat: every task's own time limit (LQR has none and gets this)."""

_CAMERA = {"quadruped": 2}
"""Camera of a domain where it is not the first; DrQ-v2's and DreamerV3's choice, so that pictures are comparable."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def make(id: str, n: int = 1, size: int | Size = 64, repeat: int = 1) -> "ControlSuiteEnv":  # noqa: A002
    """A task of the suite by name.

    Args:
        id: "dm_control/<domain>-<task>-v0", one of `IDS`.
        n: environments in lockstep.
        size: side or (height, width) of "images.front" in pixels; None leaves images out.
        repeat: control steps for which an action is repeated; results from pixels are commonly reported with 2.

    Raises:
        UsageError: no task has that name, or `repeat` is below 1.
    """
    if id not in IDS:
        raise unknown("environment", id, IDS)
    domain, task = suite.ALL_TASKS[IDS.index(id)]
    return ControlSuiteEnv(domain, task, n, shape(size), repeat)


class ControlSuiteEnv(RestorableLockstep):
    """n copies of one task.

    The state is the task's observations in their order, named after their keys ("position.0"). The suite defines no
    success: here a control step at full reward (1) counts, and so does LQR's convergence, the only termination there
    is. Tasks with a dense product reward, such as cartpole-swingup, hardly ever get there; compare their returns.

    `physics` is mjSTATE_INTEGRATION, the sensor readings (some are of the step before and follow from no state) and the
    episode's seed. Tasks write the goal, and quadruped-escape its terrain, into the model: a row of another episode is
    restored by starting that episode first.
    """

    def __init__(self, domain: str, task: str, n: int, size: Size, repeat: int) -> None:
        # A fixed seed here, because LQR draws its stiffness and damping while loading: all n are one system.
        self._copies: list[Environment] = [suite.load(domain, task, {"random": 0}) for _ in range(n)]
        self._seeds = [-1] * n
        self._camera = fixed(_CAMERA.get(domain, 0))
        self._renderers: dict[int, Renderer] = {}
        name = f"{domain} {task}".replace("_", " ")
        super().__init__(_contract(self._copies[0], size), n, name, EPISODE, repeat)

    def _begin(self, i: int, seed: int) -> Moment:
        copy = self._copies[i]
        copy.task.random.seed(seed % 2**32)  # more it does not take
        with copy.physics.reset_context():
            copy.task.initialize_episode(copy.physics)
        self._seeds[i] = seed
        if i in self._renderers and copy.physics.model.nhfield:
            del self._renderers[i]  # it holds the terrain of the episode before
        return Moment(self._see(i))

    def _advance(self, i: int, action: NDArray[np.float32]) -> Moment:
        task, physics = self._copies[i].task, self._copies[i].physics
        task.before_step(action, physics)
        physics.step(_substeps(self._copies[i]))
        task.after_step(physics)
        reward = float(task.get_reward(physics))
        terminated = task.get_termination(physics) is not None
        return Moment(self._see(i), reward=reward, terminated=terminated, success=terminated or reward >= 1)

    def _save(self, i: int) -> NDArray[np.float64]:
        physics = self._copies[i].physics
        return np.concatenate([physics.get_state(_STATE), physics.data.sensordata, [self._seeds[i]]])

    def _load(self, i: int, state: NDArray[np.float64]) -> Moment:
        physics = self._copies[i].physics
        sensors = physics.model.nsensordata
        if self._seeds[i] != int(state[-1]):
            self._begin(i, int(state[-1]))
        physics.set_state(state[: -1 - sensors], _STATE)
        mujoco.mj_step1(physics.model.ptr, physics.data.ptr)
        physics.data.sensordata[:] = state[-1 - sensors : -1]
        return Moment(self._see(i))

    def _see(self, i: int) -> NDArray[np.float32]:
        copy = self._copies[i]
        values = copy.task.get_observation(copy.physics).values()
        return np.concatenate([np.ravel(v) for v in values]).astype(np.float32)

    def _draw(self, i: int, size: tuple[int, int]) -> Array:
        # Copies share a renderer, unless there is a terrain: it is uploaded when a renderer is made.
        model = self._copies[i].physics.model.ptr
        which = i if model.nhfield else 0
        if which not in self._renderers:
            self._renderers[which] = Renderer(model, size)
        return self._renderers[which].draw(model, self._copies[i].physics.data.ptr, self._camera)


def _substeps(env: Environment) -> int:
    return round(env.control_timestep() / env.physics.timestep())


def _contract(env: Environment, size: Size) -> Spec:
    model, action = env.physics.model.ptr, env.action_spec()
    observation = env.task.get_observation(env.physics)
    return Spec(
        cameras={} if size is None else {"front": size},
        state=tuple(name for key, value in observation.items() for name in _names(key, np.shape(value))),
        action=tuple(model.actuator(i).name or f"action.{i}" for i in range(model.nu)),
        privileged=(),
        control="raw",
        low=tuple(action.minimum.tolist()),
        high=tuple(action.maximum.tolist()),
        fps=round(1 / env.control_timestep()),
    )


def _names(key: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{key}.{i}" for i in range(int(np.prod(shape)))] if shape else [key]
