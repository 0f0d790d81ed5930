"""What the expert would have done, recorded beside what was done."""

from collections.abc import Mapping
from dataclasses import replace

import gymnasium
import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.rollout import observation
from worldlab.trajectory import Spec


class ExpertLabels(gymnasium.vector.VectorEnv):
    """An environment whose privileged columns end with the expert's clean action, `expert.<action name>`.

    A disturbed demonstration (DART, Laskey et al. 2017) is then one trajectory for both kinds of model: `action` is
    what was executed, which a world model must know, and `expert.*` is what a policy should imitate. Whoever acts, the
    labels are the expert's (DAgger, Ross et al. 2011), so that a planner's episodes may join an expert's.
    """

    def __init__(self, env: MujocoVectorEnv) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = env.metadata
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self._expert = env.expert()

    @property
    def contract(self) -> Spec:
        """The environment's, with the labels among the privileged columns."""
        spec = self.env.contract
        return replace(spec, privileged=(*spec.privileged, *(f"expert.{name}" for name in spec.action)))

    @property
    def physics(self) -> Float64[Tensor, "n p"]:
        """The environment's."""
        return self.env.physics

    def restore(self, physics: Float64[Tensor, "n p"], task: tuple[str, ...]) -> None:
        """The environment's."""
        self.env.restore(physics, task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """The environment's, with labels."""
        raw, info = self.env.reset(seed=seed, options=options)
        self._expert.reset(range(self.num_envs))
        return raw, self._label(raw, info)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[
        dict[str, NDArray[np.generic]], NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]
    ]:
        """The environment's, with labels."""
        raw, reward, terminated, truncated, info = self.env.step(actions)
        return raw, reward, terminated, truncated, self._label(raw, info)

    def _label(self, raw: Mapping[str, NDArray[np.generic]], info: dict[str, object]) -> dict[str, object]:
        task = info["task"]
        privileged = info["privileged"]
        assert isinstance(task, tuple)
        assert isinstance(privileged, np.ndarray)
        clean = self._expert.act(observation({"state": raw["state"]}, task))[:, 0]
        return info | {"privileged": np.concatenate([privileged, clean.to(torch.float32).numpy()], 1)}
