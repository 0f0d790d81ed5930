"""Any registered Gymnasium environment as a vector environment."""

# mujoco's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

from collections.abc import Mapping
from typing import override

import cv2
import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, flatdim, flatten
from numpy.typing import NDArray

from worldlab.envs.lockstep import Array, Lockstep, Moment, RestorableLockstep, Size, shape
from worldlab.envs.offscreen import Renderer, fixed, free
from worldlab.errors import UsageError, unknown
from worldlab.trajectory import Spec

type Space = gymnasium.Space[object]
type Env = gymnasium.Env[object, object]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_FPS = 30  # Gymnasium's own assumption where an environment does not say


def make(id: str, n: int = 1, size: int | Size = 64, repeat: int = 1) -> "GymnasiumEnv":  # noqa: A002
    """A registered environment by name; restorable where it is simulated by MuJoCo.

    Args:
        id: as `gymnasium.make` takes it.
        n: environments in lockstep.
        size: side or (height, width) of "images.front" in pixels; None leaves images out.
        repeat: control steps for which an action is repeated.

    Raises:
        UsageError: there is none of that name, a package it needs is missing, its observations or actions do not
            fit a `Spec`, or `repeat` is below 1.
    """
    envs = [_open(id, None) for _ in range(n)]
    if _simulation(envs[0]) is not None:
        return SimulatedGymnasiumEnv(id, envs, shape(size), repeat)
    if size is not None and "rgb_array" in envs[0].metadata.get("render_modes", ()):
        return GymnasiumEnv(id, [_open(id, "rgb_array") for _ in range(n)], shape(size), repeat)
    return GymnasiumEnv(id, envs, None, repeat)


class GymnasiumEnv(Lockstep):
    """n copies of one environment.

    The state is the flattened observation ("observation.0", or a dict's keys), "images.front" what the environment
    renders as rgb_array, if it does. A discrete action is one number per choice, of which the largest is taken. Success
    is `info["is_success"]`, False where an environment does not report it. `reset(seed=s)` gives environment i the seed
    s + i; that nothing else decides what happens is up to the environment.
    """

    def __init__(self, id: str, envs: list[Env], size: Size, repeat: int) -> None:  # noqa: A002
        self._envs = envs
        self._observed: Space = envs[0].observation_space
        self._acts: Space = envs[0].action_space
        super().__init__(_contract(id, envs[0], size), len(envs), id, gymnasium.spec(id).max_episode_steps, repeat)
        if size is not None:
            self._try_to_draw(id, size)

    def _begin(self, i: int, seed: int) -> Moment:
        observation, info = self._envs[i].reset(seed=seed)
        return Moment(self._see(observation), success=_success(info))

    def _advance(self, i: int, action: NDArray[np.float32]) -> Moment:
        observation, reward, terminated, truncated, info = self._envs[i].step(self._given(action))
        return Moment(
            self._see(observation),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
            success=_success(info),
        )

    @override
    def _within_limits(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        # Of choices the largest is taken, and those cut off at the same limit would all be it.
        return actions if isinstance(self._acts, Discrete) else super()._within_limits(actions)

    def _given(self, action: NDArray[np.float32]) -> object:
        if isinstance(self._acts, Discrete):
            return self._acts.start + int(action.argmax())
        return action.reshape(self._acts.shape).astype(self._acts.dtype)

    def _see(self, observation: object) -> NDArray[np.float32]:
        return np.asarray(flatten(self._observed, observation), np.float32)

    def _draw(self, i: int, size: tuple[int, int]) -> Array:
        frame = np.asarray(self._envs[i].render(), np.uint8)
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)

    def _try_to_draw(self, id: str, size: tuple[int, int]) -> None:  # noqa: A002
        try:
            self._begin(0, 0)
            self._draw(0, size)
        except gymnasium.error.Error as error:
            raise UsageError(
                f"Gymnasium cannot draw '{id}': {error} From Python, size=None leaves images out."
            ) from None

    def close_extras(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()


class SimulatedGymnasiumEnv(GymnasiumEnv, RestorableLockstep):
    """n copies of an environment that keeps a MuJoCo `model` and `data`, as Gymnasium's `MujocoEnv` does.

    `physics` is mjSTATE_INTEGRATION and the observation. What an environment keeps elsewhere is not restored: its own
    counters, and body positions of one physics step ago, which some read to reward progress; there the first reward
    after a restore may differ from the recorded one. States and images that follow are the same bits.

    "images.front" is the model's first camera (the free camera where it has none), drawn by worldlab at the size asked,
    because Gymnasium's viewers mix up their OpenGL contexts where there is more than one environment.
    """

    def __init__(self, id: str, envs: list[Env], size: Size, repeat: int) -> None:  # noqa: A002
        self._simulations = [_require_simulation(env) for env in envs]
        model = self._simulations[0][0]
        self._camera = fixed(0) if model.ncam else free(model)
        self._renderer = None if size is None else Renderer(model, size)
        super().__init__(id, envs, size, repeat)

    def _draw(self, i: int, size: tuple[int, int]) -> Array:
        assert self._renderer is not None
        return self._renderer.draw(*self._simulations[i], self._camera)

    def _save(self, i: int) -> NDArray[np.float64]:
        model, data = self._simulations[i]
        state = np.empty(mujoco.mj_stateSize(model, _STATE))
        mujoco.mj_getState(model, data, state, _STATE)
        return np.concatenate([state, self._now[i].state], dtype=np.float64)

    def _load(self, i: int, state: NDArray[np.float64]) -> Moment:
        model, data = self._simulations[i]
        seen = len(self.contract.state)
        mujoco.mj_setState(model, data, state[:-seen], _STATE)
        mujoco.mj_forward(model, data)
        return Moment(state[-seen:].astype(np.float32))


def _open(id: str, render_mode: str | None) -> Env:  # noqa: A002
    try:
        # Without Gymnasium's own time limit, whose count could not be restored.
        return gymnasium.make(id, render_mode=render_mode, max_episode_steps=-1, disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv:
        raise unknown("environment", id, gymnasium.registry) from None
    except (gymnasium.error.Error, ImportError) as error:
        raise UsageError(f"Gymnasium cannot make '{id}': {error}") from None


def _simulation(env: Env) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
    model, data = (getattr(env.unwrapped, name, None) for name in ("model", "data"))
    return (model, data) if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None


def _require_simulation(env: Env) -> tuple[mujoco.MjModel, mujoco.MjData]:
    simulation = _simulation(env)
    assert simulation is not None
    return simulation


def _success(info: Mapping[str, object]) -> bool:
    return bool(info.get("is_success", False))


def _contract(id: str, env: Env, size: Size) -> Spec:  # noqa: A002
    observed, acts = env.observation_space, env.action_space
    if not observed.is_np_flattenable or (isinstance(observed, Box) and observed.dtype == np.uint8):
        raise UsageError(f"'{id}' observes {observed}; worldlab needs numbers that can be flattened, and no pixels.")
    if isinstance(acts, Box):
        low, high = acts.low.ravel().tolist(), acts.high.ravel().tolist()
    elif isinstance(acts, Discrete):
        low, high = [0.0] * int(acts.n), [1.0] * int(acts.n)
    else:
        raise UsageError(f"'{id}' takes actions in {acts}; worldlab needs a Box or a Discrete space.")
    return Spec(
        cameras={} if size is None else {"front": size},
        state=tuple(_names(observed, "observation")),
        action=tuple(f"action.{i}" for i in range(len(low))),
        privileged=(),
        control="raw",
        low=tuple(low),
        high=tuple(high),
        fps=int(env.metadata.get("render_fps") or _FPS),
    )


def _names(space: Space, name: str) -> list[str]:
    if isinstance(space, Dict):
        return [inner for key, part in space.items() for inner in _names(part, key)]
    return [f"{name}.{i}" for i in range(flatdim(space))]
