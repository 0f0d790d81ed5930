"""Separate simulators side by side as one vector environment: what the adapters of foreign environments share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.trajectory import Spec

type Array = NDArray[np.generic]
type Size = tuple[int, int] | None  # (height, width) in pixels; None leaves images out


def shape(size: int | Size) -> Size:
    """The (height, width) of a picture given as such or as one side."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Moment:
    """What one environment shows after a reset, a step or a restore."""

    state: NDArray[np.float32]
    """Shape (s,)."""
    images: dict[str, Array] = field(default_factory=dict[str, Array])
    """Camera name -> (h, w, 3)."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated


class Lockstep(gymnasium.vector.VectorEnv[dict[str, Array], NDArray[np.float32], Array], ABC):
    """n environments, one after the other in one process, with autoreset disabled.

    Environment i of `reset(seed=s)` is a pure function of s + i. A finished environment stands still: it is not
    stepped, shows its last observation and earns nothing. Actions are clipped to the contract's limits.
    """

    def __init__(self, contract: Spec, n: int, task: str, limit: int | None, repeat: int = 1) -> None:
        """Prepare n environments.

        Args:
            contract: of one that is asked for an action at every control step.
            n: how many.
            task: instruction of every environment.
            limit: control steps after which an episode is truncated.
            repeat: control steps for which every action is repeated. Rewards are summed, success between counts, and
                an episode that ends between ends there.

        Raises:
            UsageError: an action is to be repeated for less than a step.
        """
        if repeat < 1:
            raise UsageError(f"an action is repeated for at least 1 control step; got {repeat}.")
        self.contract = contract = replace(contract, fps=max(1, contract.fps // repeat))
        self.num_envs = n
        self.limit, self.repeat = limit, repeat
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": contract.fps}
        spaces: dict[str, gymnasium.Space[Array]] = {
            f"images.{name}": Box(0, 255, (*size, 3), np.uint8) for name, size in contract.cameras.items()
        }
        spaces["state"] = Box(-np.inf, np.inf, (len(contract.state),), np.float32)
        self.single_observation_space = Dict(spaces)
        self._low, self._high = np.array(contract.low, np.float32), np.array(contract.high, np.float32)
        self.single_action_space = Box(self._low, self._high)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self._own_task = self._task = (task,) * n
        self._steps = [0] * n
        self._now: list[Moment] = []

    @abstractmethod
    def _begin(self, i: int, seed: int) -> Moment:
        """Start an episode of environment i that is a pure function of `seed`."""

    @abstractmethod
    def _advance(self, i: int, action: NDArray[np.float32]) -> Moment:
        """One control step of environment i."""

    @abstractmethod
    def _draw(self, i: int, size: tuple[int, int]) -> Array:
        """The picture (h, w, 3) that environment i shows now."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, Array], dict[str, object]]:
        """Start n episodes; without a seed they follow from the last seed given.

        Raises:
            UsageError: there are options.
        """
        if options:
            raise UsageError(f"all environments begin together; options such as {next(iter(options))} are not heeded.")
        super().reset(seed=seed)
        self._task = self._own_task
        first = int(self.np_random.integers(1 << 31)) if seed is None else seed
        self._now = [self._look(i, self._begin(i, first + i)) for i in range(self.num_envs)]
        self._steps = [0] * self.num_envs
        return self._obs(), self._info()

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[dict[str, Array], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]]:
        """One step of every environment whose episode goes on; actions (n, a) in environment units."""
        if not self._now:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        taken = self._within_limits(np.asarray(actions, np.float32))
        self._now = [self._next(i, action) for i, action in enumerate(taken)]
        return (
            self._obs(),
            np.array([m.reward for m in self._now]),
            np.array([m.terminated for m in self._now]),
            np.array([m.truncated for m in self._now]),
            self._info(),
        )

    def observe(self) -> tuple[dict[str, Array], dict[str, object]]:
        """The present observation and info, without a step.

        Raises:
            gymnasium.error.ResetNeeded: nothing has begun.
        """
        if not self._now:
            raise gymnasium.error.ResetNeeded("call reset before observe.")
        return self._obs(), self._info()

    def _within_limits(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(actions, self._low, self._high)

    def _next(self, i: int, action: NDArray[np.float32]) -> Moment:
        """What comes of an action."""
        now, reward, success = replace(self._now[i], reward=0.0), 0.0, False
        if now.over:
            return now
        for _ in range(self.repeat):
            self._steps[i] += 1
            now = self._advance(i, action)
            now = replace(now, truncated=now.truncated or self._steps[i] == self.limit)
            reward, success = reward + now.reward, success or now.success
            if now.over:
                break
        return self._look(i, replace(now, reward=reward, success=success))

    def _look(self, i: int, moment: Moment) -> Moment:
        """A moment with its pictures."""
        return replace(moment, images={name: self._draw(i, size) for name, size in self.contract.cameras.items()})

    def _obs(self) -> dict[str, Array]:
        images = {f"images.{name}": np.stack([m.images[name] for m in self._now]) for name in self.contract.cameras}
        return {"state": np.stack([m.state for m in self._now])} | images

    def _info(self) -> dict[str, object]:
        return {"task": self._task, "success": np.array([m.success for m in self._now])}


class RestorableLockstep(Lockstep):
    """A lockstep environment whose simulators can be saved and branched.

    A row of `physics` is the simulator's own state followed by the control steps taken and whether the episode was
    terminated, truncated and successful, so that a restored episode keeps its time limit and a finished one still
    stands still. It means the same whatever the action repeat.
    """

    @abstractmethod
    def _save(self, i: int) -> NDArray[np.float64]:
        """The whole state of simulator i."""

    @abstractmethod
    def _load(self, i: int, state: NDArray[np.float64]) -> Moment:
        """Continue simulator i from a saved state."""

    @property
    def physics(self) -> Float64[Tensor, "n p"]:
        """The saved state of each environment.

        Raises:
            gymnasium.error.ResetNeeded: nothing has begun.
        """
        if not self._now:
            raise gymnasium.error.ResetNeeded("call reset before saving.")
        book = [(s, m.terminated, m.truncated, m.success) for s, m in zip(self._steps, self._now, strict=True)]
        return torch.from_numpy(np.stack([np.append(self._save(i), row) for i, row in enumerate(book)]))

    def restore(self, physics: Float64[Tensor, "n p"], task: Sequence[str]) -> None:
        """Continue from rows of `physics`, as if never left.

        Raises:
            UsageError: there are not n rows and n instructions.
        """
        if not len(physics) == len(task) == self.num_envs:
            raise UsageError(
                f"restoring needs one state and one instruction for each of {self.num_envs} environments; "
                f"given {len(physics)} and {len(task)}."
            )
        states, book = physics[:, :-4].numpy(force=True), physics[:, -4:].tolist()
        self._task = tuple(task)
        self._steps = [int(steps) for steps, *_ in book]
        self._now = [
            self._look(
                i, replace(self._load(i, states[i]), terminated=bool(ended), truncated=bool(cut), success=bool(done))
            )
            for i, (_, ended, cut, done) in enumerate(book)
        ]
