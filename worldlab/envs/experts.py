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

STRIDE = 0.12
"""The farthest a joint target may be from the present position, radians."""

OPEN, SHUT = 0.55, 0.0
"""Gripper angles around a cube, and past its width so that it is squeezed, radians."""

_HELD = 0.22  # the gripper angle below which the jaws touch the cube between them, radians
_TOUCH = -0.0085 + HALF  # a cube's centre along the gripper's x axis when it touches the fixed jaw, metres
_CLEAR = 0.004  # gap to leave between cube and fixed jaw on the way down, metres


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


def in_hand(s: Situation, cube: Float[Array, "n 7"]) -> Float[Array, "n 3"]:
    """A cube's centre as the gripper sees it, zero where it would be held: towards the moving jaw, across, and up."""
    heading = s.joints[:, 4] - s.joints[:, 0] - arm.ROLL
    cos, sin = np.cos(heading), np.sin(heading)
    x, y, z = (cube[:, :3] - s.gripper).T
    return np.stack([cos * x + sin * y + arm.FRAME_X - _TOUCH, cos * y - sin * x, z], -1)


def twist(s: Situation, cube: Float[Array, "n 7"]) -> Float[Array, " n"]:
    """Angle between the jaws and the nearest faces of a cube, radians."""
    quarter = np.pi / 2
    heading = s.joints[:, 4] - s.joints[:, 0] - arm.ROLL
    return np.abs((yaw(cube) - heading + quarter / 2) % quarter - quarter / 2)


def lift(s: Situation) -> Float[Array, "n 6"]:
    """Over the cube with the jaws open, down around it, shut, and up."""
    cube = s.first
    seen = in_hand(s, cube)
    between = (np.abs(seen[:, 0] - _CLEAR) < 0.009) & (np.abs(seen[:, 1]) < 0.008) & (np.abs(seen[:, 2]) < 0.010)
    held = between & (s.joints[:, 5] < _HELD)
    # A funnel: the better the gripper stands over the cube, with its jaws open, the lower it may go.
    aside = np.hypot(seen[:, 0] - _CLEAR, seen[:, 1]) + 0.02 * twist(s, cube)
    closed = np.clip((0.5 - s.joints[:, 5]) / 0.2, 0, 1)
    height = np.clip(np.maximum(8 * (aside - 0.004), 0.05 * closed), 0, 0.05)
    height = np.select([held, between], [0.06, 0.0], height)
    x = _TOUCH + np.where(between, np.clip(seen[:, 0], 0, _CLEAR), _CLEAR)
    joints = arm.inverse(cube[:, :3] * [1, 1, 0] + np.stack([0 * height, 0 * height, cube[:, 2] + height], -1), yaw(cube), x)
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
