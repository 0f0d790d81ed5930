"""worldlab's lockstep simulator with the observations, units and attributes that `lerobot-eval` expects."""

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldlab import so101
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.errors import UsageError
from worldlab.policies.lerobot_policy import seeds_to_batch
from worldlab.protocols import Arrays
from worldlab.trajectory import Spec


class WorldlabVectorEnv(VectorEnv):
    """A lockstep environment with LeRobot's observations, units and attributes.

    Observations: "pixels" of each camera, uint8 (n, h, w, 3); "agent_pos" (n, 6), degrees and gripper 0 to 100; "seed",
    from which a worldlab policy draws its noise, so that an episode depends on its seed and not on its batch.
    A finished environment stands still and pays no more reward.
    """

    def __init__(self, env: MujocoVectorEnv) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = {**env.metadata, "render_fps": env.contract.fps}
        self.single_observation_space = _observation_space(env.contract)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = spaces.Box(-np.inf, np.inf, (len(so101.NAMES),), np.float32)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, bool] | None = None
    ) -> tuple[Arrays, dict[str, object]]:
        """Start the episodes of `seed`: consecutive integers, as LeRobot gives them, or the first of them.

        Raises:
            UsageError: the seeds are not consecutive.
        """
        first = secrets.randbelow(1 << 31) if seed is None else seed if isinstance(seed, int) else seed[0]
        self._seeds = list(range(first, first + self.num_envs))
        if isinstance(seed, Sequence) and list(seed) != self._seeds:
            raise UsageError(f"worldlab's environments start from consecutive seeds, not from {list(seed)}.")
        raw, info = self.env.reset(seed=first)
        self._over = np.zeros(self.num_envs, bool)
        return self._see(raw, info), {}

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[Arrays, NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]]:
        """One control step towards joint targets in degrees, gripper 0 to 100."""
        radians = so101.from_lerobot(torch.as_tensor(actions)).float().numpy()
        raw, reward, terminated, truncated, info = self.env.step(radians)
        reward = np.where(self._over, 0, reward)
        self._over = self._over | terminated | truncated
        return self._see(raw, info), reward, terminated, truncated, {"is_success": info["success"]}

    def call(self, name: str) -> Sequence[object]:
        """What LeRobot asks each environment of a batch for."""
        match name:
            case "task" | "task_description":
                return self._task
            case "_max_episode_steps":
                return (self.env.objective.limit,) * self.num_envs
            case "render":
                return self.env.render()
            case _:
                raise AttributeError(f"worldlab's environments have no '{name}'.")

    get_attr = call

    def close_extras(self, **kwargs: object) -> None:
        """Close the simulator."""
        self.env.close()

    def _see(self, raw: Arrays, info: Mapping[str, object]) -> Arrays:
        """The observation in LeRobot's form; its instructions are kept for `call`."""
        self._task = info["task"]
        return {
            "pixels": {camera: raw[f"images.{camera}"] for camera in self.env.contract.cameras},
            "agent_pos": so101.to_lerobot(torch.as_tensor(raw["state"])).numpy(),
            "seed": seeds_to_batch(self._seeds).numpy(),
        }


def _observation_space(contract: Spec) -> spaces.Dict:
    """The space of one environment's observations."""
    pixels = {camera: spaces.Box(0, 255, (*size, 3), np.uint8) for camera, size in contract.cameras.items()}
    joints = spaces.Box(-np.inf, np.inf, (len(so101.NAMES),), np.float32)
    seed = spaces.Box(0, np.inf, (2,), np.float32)
    return spaces.Dict({"pixels": spaces.Dict(pixels), "agent_pos": joints, "seed": seed})
