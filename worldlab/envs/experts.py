"""Scripted experts: feedback on the present situation, with no memory, so that they recover from whatever happens.

Each expert is a function from a `Situation` to joint targets. There are no phases: what to do follows from where things
are, and changes smoothly with it, so that a policy without memory can imitate it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldlab import so101
from worldlab.envs import arm
from worldlab.envs.scene import HALF
from worldlab.envs.tasks import Reach, Situation, Task
from worldlab.trajectory import Observation

Array = NDArray[np.float64]

STRIDE = 0.28
"""The farthest a joint target may be from the present position, radians."""

OPEN, SHUT = 0.55, 0.0
"""Gripper angles: around a cube, and past the width of a cube so that it is squeezed (radians)."""

_HELD = 0.22  # a gripper angle below which the jaws touch a cube that is between them
_X = -0.0085 + HALF  # where a cube's centre is when it touches the fixed jaw, along the gripper's x axis
_ABOVE = 0.035  # height at which the open gripper clears a cube, metres

_OFFSET = arm.FRAME_X - _X


def yaw(cube: Float[Array, "n 7"]) -> Float[Array, " n"]:
    """Heading of a cube, radians."""
    w, x, y, z = cube[:, 3:].T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def stride(s: Situation, joints: Float[Array, "n 5"], gripper: Float[Array, " n"]) -> Float[Array, "n 6"]:
    """Targets on the straight line in joint space towards `joints`, at most `STRIDE` ahead."""
    ahead = joints - s.joints[:, :5]
    scale = np.minimum(1, STRIDE / np.maximum(np.abs(ahead).max(-1, keepdims=True), 1e-9))
    jaw = s.joints[:, 5] + np.clip(gripper - s.joints[:, 5], -STRIDE, STRIDE)
    return np.concatenate([s.joints[:, :5] + scale * ahead, jaw[:, None]], -1)


def reach(s: Situation) -> Float[Array, "n 6"]:
    """To the point above the named cube."""
    cube = s.first
    joints = arm.inverse(cube[:, :3] + np.array([0, 0, Reach.height]), yaw(cube))
    return stride(s, joints, np.full(len(cube), 0.3))


def grip(s: Situation) -> Float[Array, "n 3"]:
    """Where the gripper would hold a cube: beside the fixed jaw, at the height of the fingertips."""
    heading = _heading(s)
    side = np.stack([np.cos(heading), np.sin(heading), np.zeros_like(heading)], -1)
    return s.gripper - _OFFSET * side


def _heading(s: Situation) -> Float[Array, " n"]:
    return s.joints[:, 4] - s.joints[:, 0] - arm.ROLL


def lift(s: Situation) -> Float[Array, "n 6"]:
    """Over the cube with the jaws open, down as it comes between them, shut, and up."""
    cube = s.first
    off = cube[:, :3] - grip(s)
    aside = np.linalg.norm(off[:, :2], axis=-1)
    between = (aside < 0.012) & (np.abs(off[:, 2]) < 0.010)
    held = between & (s.joints[:, 5] < _HELD)
    # A funnel: the nearer the gripper is to standing over the cube, with its jaws open, the lower it may go.
    wide = np.clip((0.45 - s.joints[:, 5]) / 0.2, 0, 1)
    height = np.clip(np.maximum((aside - 0.008) * 3, 0.05 * wide), 0, 0.055)
    height = np.where(between, 0.0, height)
    height = np.where(held, 0.05, height)
    target = cube[:, :3] + np.stack([np.zeros_like(height), np.zeros_like(height), height], -1)
    target[:, 2] = np.maximum(target[:, 2], HALF - 0.001)
    joints = arm.inverse(target, yaw(cube), _X)
    return stride(s, joints, np.where(between, SHUT, OPEN))


EXPERTS: dict[str, Callable[[Situation], Float[Array, "n 6"]]] = {"Reach": reach, "Lift": lift}


@runtime_checkable
class Known(Protocol):
    """What an expert needs of its environment."""

    num_envs: int
    objective: Task

    @property
    def situation(self) -> Situation:
        """The present."""
        ...


class Expert:
    """The scripted policy of one environment, which it reads behind the observation's back.

    With `noise`, bursts of disturbed joint targets (DART: Laskey et al. 2017) take the arm off its path so that
    demonstrations show how to come back; `clean` holds what the expert would have done.
    """

    def __init__(self, env: Known, noise: float = 0.0) -> None:
        self._env = env
        self._noise = noise
        self._act = EXPERTS[env.objective.name]
        self.clean: Float[Tensor, "n 6"] = torch.zeros(env.num_envs, 6)
        """The last action before noise."""

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed; the noise of episode i is keyed by (seeds[i], step)."""
        self._seeds = list(seeds)

    def act(self, obs: Observation) -> Float[Tensor, "n 1 6"]:
        """The next joint targets, radians."""
        clean = np.clip(self._act(self._env.situation), so101.LOW, so101.HIGH)
        self.clean = torch.tensor(clean, dtype=torch.float32)
        return self.clean[:, None]
