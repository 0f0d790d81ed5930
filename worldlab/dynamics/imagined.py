"""A world model, seen as the environment it imagines."""

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Space
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from worldlab.protocols import WorldModel
from worldlab.seeding import generator
from worldlab.trajectory import Spec, Trajectory


class ImaginedEnv[S](gymnasium.vector.VectorEnv):
    """Goes on from the end of recorded contexts, one environment per context, by imagining instead of simulating.

    The same `rollout`, success counter and videos work here as in a simulator. A finished environment stands still.
    """

    def __init__(self, model: WorldModel[S], context: Trajectory, *, max_steps: int | None = None) -> None:
        """Name the model and where its dreams begin.

        Args:
            model: imagines what follows; what its `spec.privileged` names is reported in `info["privileged"]`.
            context: leading axes (n, t); the last valid row of each entry is where its episode starts.
            max_steps: time limit of an episode; None leaves it to the model to end one.
        """
        self.model, self.context, self.max_steps = model, context, max_steps
        self.num_envs = len(context.valid)
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
        spec = model.spec
        spaces: dict[str, Space[object]] = {"state": Box(-np.inf, np.inf, (len(spec.state),), np.float32)}
        spaces |= {f"images.{name}": Box(0, 255, (*size, 3), np.uint8) for name, size in spec.cameras.items()}
        self.single_observation_space = Dict(spaces)
        self.single_action_space = Box(np.array(spec.low, np.float32), np.array(spec.high, np.float32))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def contract(self) -> Spec:
        """The model's."""
        return self.model.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """Return to the end of the contexts.

        `seed` is that of the model's own randomness, which all share: in a model that draws, what happens in one
        environment depends on how many there are.
        """
        self._belief = self.model.observe(self.context)
        self._generator = generator(seed or 0)
        self._steps = 0
        self._terminated = self._over = np.zeros(self.num_envs, bool)
        last = self.context.length - 1
        self._arrays = self._at(self.context, last)
        # Row t holds the success of action t, so the success of the last observation stands one row above it.
        above = self._at(self.context, (last - 1).clamp(min=0))
        self._arrays["success"] = above["success"] & (last > 0).cpu().numpy()
        return self._observation(), self._info()

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[
        dict[str, NDArray[np.generic]], NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]
    ]:
        """Imagine one control step; `actions` (n, a) in environment units."""
        action = torch.as_tensor(actions, dtype=torch.float32)[:, None]
        imagined, self._belief = self.model.imagine(self._belief, action, self._generator)
        running = ~self._over
        new = self._at(imagined, torch.zeros(self.num_envs, dtype=torch.long))
        self._arrays = {name: _where(running, new[name], old) for name, old in self._arrays.items()}
        self._steps += 1
        self._terminated = self._terminated | (running & imagined.terminated[:, 0].cpu().numpy())
        late = self.max_steps is not None and self._steps >= self.max_steps
        truncated = ~self._terminated & late
        self._over = self._terminated | truncated
        reward = np.where(running, imagined.reward[:, 0].cpu().numpy(), 0)
        return self._observation(), reward, self._terminated.copy(), truncated, self._info()

    def _at(self, trajectory: Trajectory, index: Tensor) -> dict[str, NDArray[np.generic]]:
        """What row index[i] of entry i shows."""
        row = trajectory.map(lambda x: x[torch.arange(len(index)), index.to(x.device)].cpu())
        arrays = {f"images.{name}": row.obs.images[name].numpy() for name in self.model.spec.cameras}
        arrays |= {"state": row.obs.state.numpy(), "success": row.success.numpy()}
        if row.privileged is not None and self.model.spec.privileged:
            # A store may append columns that no world has, such as the expert's opinion.
            arrays["privileged"] = row.privileged[:, : len(self.model.spec.privileged)].numpy()
        return arrays

    def _observation(self) -> dict[str, NDArray[np.generic]]:
        return {name: array.copy() for name, array in self._arrays.items() if name not in ("success", "privileged")}

    def _info(self) -> dict[str, object]:
        known = {name: self._arrays[name].copy() for name in ("success", "privileged") if name in self._arrays}
        return {"task": self.context.obs.task, **known}


def _where(mask: NDArray[np.bool_], new: NDArray[np.generic], old: NDArray[np.generic]) -> NDArray[np.generic]:
    """`new` for the entries in the mask, `old` for the others."""
    return np.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)
