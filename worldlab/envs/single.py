"""One arm at one table, for code that wants a `gymnasium.Env`: `gymnasium.make("worldlab/Lift-v0")`."""

from collections.abc import Mapping
from typing import ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldlab import envs
from worldlab.envs.mujoco_env import FPS
from worldlab.errors import unknown

Pictures = NDArray[np.uint8]


class SingleEnv(gymnasium.Env[dict[str, NDArray[np.generic]], NDArray[np.float32]]):
    """The batched environment with n = 1 and no batch axis.

    Args:
        task: "Reach", "Push", "Lift" or "Stack".
        render_mode: None, or "rgb_array" for pictures of 360 x 480 pixels.
        size, cameras, meshes, variation, hold: as in `worldlab.envs.make`.
    """

    metadata: ClassVar[dict[str, object]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "render_modes": ["rgb_array"],
        "render_fps": FPS,
    }

    def __init__(
        self,
        task: str,
        render_mode: str | None = None,
        *,
        size: int | tuple[int, int] = 64,
        cameras: tuple[str, ...] = ("front", "wrist"),
        meshes: bool = False,
        variation: Mapping[str, float] | None = None,
        hold: int = 0,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise unknown("render mode", render_mode, ("rgb_array",))
        batch = envs.make(task, size=size, cameras=cameras, threads=1, meshes=meshes, variation=variation, hold=hold)
        assert isinstance(batch, envs.MujocoVectorEnv)
        self.batch = batch
        self.render_mode = render_mode
        self.observation_space = batch.single_observation_space
        self.action_space = batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """Begin an episode; without a seed, one that follows from the last seed given."""
        super().reset(seed=seed, options=options)
        drawn = int(self.np_random.integers(1 << 31)) if seed is None else seed
        observation, info = self.batch.reset(seed=drawn)
        return _first(observation), _only(info)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.generic]], float, bool, bool, dict[str, object]]:
        """Hold the joint targets `action` (radians) for a tenth of a second."""
        observation, reward, terminated, truncated, info = self.batch.step(action[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _only(info)

    def render(self) -> Pictures | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The table from the front, if asked for at construction."""
        return self.batch.render()[0] if self.render_mode == "rgb_array" else None


def _first(observation: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {name: value[0] for name, value in observation.items()}


def _only(info: Mapping[str, object]) -> dict[str, object]:
    """`info` without its batch axis."""
    task, success, privileged = info["task"], info["success"], info["privileged"]
    assert isinstance(task, tuple)
    assert isinstance(success, np.ndarray)
    assert isinstance(privileged, np.ndarray)
    return {"task": task[0], "success": bool(success[0]), "privileged": privileged[0]}
