"""Scripted experts: feedback on the present situation, with no memory, so that they recover from whatever happens.

Each expert is a function from a `Situation` to joint targets. There are no phases: what to do follows from where things
are, and changes smoothly with it, so that a policy without memory can imitate it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from worldlab import seeding, so101
from worldlab.envs import arm
from worldlab.envs.scene import HALF
from worldlab.envs.tasks import Reach, Situation, Task, distance
from worldlab.trajectory import Observation

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAIN = 0.7
"""How much of the way to where a joint should be its next target is."""

STRIDE = 0.12
"""The farthest a joint target may be from the present position, radians."""

OPEN, SHUT = 0.45, 0.0
"""Gripper angles around a cube, and past its width so that it is squeezed, radians."""

CLOSED = -0.15
"""The gripper angle at which the jaws almost meet, radians."""

_GRASPED = 0.13  # the gripper angle below which the jaws touch the cube between them, radians
_TOUCH = -0.0085 + HALF  # a cube's centre along the gripper's x axis when it touches the fixed jaw, metres
_FIST = -0.006  # the middle of the closed jaws along the same axis, metres
_CLEAR = 0.004  # gap to leave between cube and fixed jaw on the way down, metres
_MIDDLE = 0.012  # how near the middle of the zone a cube has arrived, metres
_QUARTER = np.pi / 2

_BURST, _OFTEN = 3, 1 / 3  # length of a burst of noise in steps, and how many of the bursts are on
_SPREAD = np.array([0.1] * 5 + [0.05])  # standard deviation of a full burst, radians


def yaw(cube: Float[Array, "n 7"]) -> Float[Array, " n"]:
    """Heading of a cube, radians."""
    w, x, y, z = cube[:, 3:].T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def stride(s: Situation, joints: Float[Array, "n 5"], gripper: Float[Array, " n"]) -> Float[Array, "n 6"]:
    """Targets on the straight line in joint space towards `joints`, at most `STRIDE` ahead."""
    ahead = GAIN * (joints - s.joints[:, :5])
    scale = np.minimum(1, STRIDE / np.maximum(np.abs(ahead).max(-1, keepdims=True), 1e-9))
    jaw = s.joints[:, 5] + np.clip(gripper - s.joints[:, 5], -STRIDE, STRIDE)
    return np.concatenate([s.joints[:, :5] + scale * ahead, jaw[:, None]], -1)


def turn(s: Situation, heading: Float[Array, " n"], period: float) -> Float[Array, " n"]:
    """The heading nearest the present one among those that are equivalent to `heading` modulo `period`."""
    now = arm.facing(s.joints)
    return now + (heading - now + period / 2) % period - period / 2


def in_hand(s: Situation, cube: Float[Array, "n 7"]) -> Float[Array, "n 3"]:
    """A cube's centre as the gripper sees it, zero where it would be held: towards the moving jaw, across, and up."""
    cos, sin = np.cos(arm.facing(s.joints)), np.sin(arm.facing(s.joints))
    x, y, z = (cube[:, :3] - s.gripper).T
    return np.stack([cos * x + sin * y + arm.FRAME_X - _TOUCH, cos * y - sin * x, z], -1)


def over(point: Float[Array, "n _"], height: Float[Array, " n"]) -> Float[Array, "n 3"]:
    """The point at a height over the table."""
    return np.concatenate([point[:, :2], height[:, None]], -1)


def reach(s: Situation) -> Float[Array, "n 6"]:
    """To the point above the named cube."""
    cube = s.first
    joints = arm.inverse(over(cube, cube[:, 2] + Reach.height), turn(s, yaw(cube), _QUARTER))
    return stride(s, joints, np.full(len(cube), 0.3))


def between(s: Situation) -> Bool[Mask, " n"]:
    """Whether the first cube is where closing the jaws would grasp it."""
    forward, across, up = in_hand(s, s.first).T
    return (np.abs(forward - _CLEAR) < 0.009) & (np.abs(across) < 0.008) & (np.abs(up) < 0.010)


def grasped(s: Situation) -> Bool[Mask, " n"]:
    """Whether the first cube is in the gripper's grasp."""
    return between(s) & (s.joints[:, 5] < _GRASPED)


def grasp(s: Situation) -> Float[Array, "n 6"]:
    """Over the cube with the jaws open, down around it, and shut."""
    cube = s.first
    forward, across, _ = in_hand(s, cube).T
    heading = turn(s, yaw(cube), _QUARTER)
    # A funnel: the better the gripper stands over the cube, with its jaws open, the lower it may go.
    aside = np.hypot(forward - _CLEAR, across) + 0.02 * np.abs(heading - arm.facing(s.joints))
    closed = np.clip((OPEN - 0.05 - s.joints[:, 5]) / 0.2, 0, 1)
    height = np.where(between(s), 0, np.clip(np.maximum(8 * (aside - 0.004), 0.05 * closed), 0, 0.05))
    x = _TOUCH + np.where(between(s), np.clip(forward, 0, _CLEAR), _CLEAR)
    joints = arm.inverse(over(cube, cube[:, 2] + height), heading, x)
    return stride(s, joints, np.where(between(s), SHUT, OPEN))


def carry(s: Situation, to: Float[Array, "n 3"]) -> Float[Array, "n 6"]:
    """The grasped cube to a point, without turning it."""
    forward, _, up = in_hand(s, s.first).T
    joints = arm.inverse(over(to, to[:, 2] - up), arm.facing(s.joints), _TOUCH + forward)
    return stride(s, joints, np.full(len(to), SHUT))


def lift(s: Situation) -> Float[Array, "n 6"]:
    """Grasp, and up."""
    up = carry(s, over(s.first, np.full(len(s.first), HALF + 0.07)))
    return np.where(grasped(s)[:, None], up, grasp(s))


def stack(s: Situation) -> Float[Array, "n 6"]:
    """Grasp, up, over the second cube, down, open, and away."""
    a, b = s.first, s.second
    aside = distance(a[:, :2], b[:, :2])
    risen = np.clip((a[:, 2] - b[:, 2] - HALF) / HALF, 0, 1)[:, None]
    height = b[:, 2] + 2 * HALF + np.clip(4 * (aside - 0.004), 0, 0.03)
    placing = carry(s, over(a[:, :2] + risen * (b - a)[:, :2], height))
    inside = grasped(s)
    # Where it is let go is chosen well; where it then lies is good enough if it lies on the other.
    placed = (aside < np.where(inside, 0.008, HALF)) & (np.abs(a[:, 2] - b[:, 2] - 2 * HALF) < 0.003)
    return np.where(placed[:, None], leave(s), np.where(inside[:, None], placing, grasp(s)))


def leave(s: Situation) -> Float[Array, "n 6"]:
    """Open the jaws without moving the arm, then go up, the fixed jaw off the cube, slowly while the cube is near."""
    cube = s.first
    forward, _, up = in_hand(s, cube).T
    higher = np.minimum(s.gripper[:, 2] + np.clip(0.02 - up, 0.02, 0.08), cube[:, 2] + 0.08)
    away = arm.inverse(over(cube, higher), arm.facing(s.joints), _TOUCH + np.maximum(forward, _CLEAR))
    still = s.joints[:, :5]
    opened = np.clip((s.joints[:, 5:] - 0.3) / 0.1, 0, 1)
    return stride(s, still + opened * (away - still), np.full(len(cube), OPEN))


def push(s: Situation) -> Float[Array, "n 6"]:
    """Behind the cube as seen from the zone, down, forward with the jaws closed; up from a cube that has arrived."""
    assert s.zone is not None
    cube = s.first
    way = s.zone[:, :2] - cube[:, :2]
    ahead = way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
    facing = arm.facing(s.joints)
    fist = s.gripper[:, :2] - (arm.FRAME_X - _FIST) * np.stack([np.cos(facing), np.sin(facing)], -1)
    along = ((fist - cube[:, :2]) * ahead).sum(-1)
    aside = np.abs((fist - cube[:, :2])[:, 0] * ahead[:, 1] - (fist - cube[:, :2])[:, 1] * ahead[:, 0])
    # A funnel again: down only behind the cube, forward only when down.
    astray = np.maximum(aside - 0.006, along + 0.020)
    height = np.clip(8 * astray, 0, 0.04) + HALF
    down = np.clip((0.026 - s.gripper[:, 2]) / 0.006, 0, 1) * np.clip(1 - astray / 0.004, 0, 1)
    # Slowly, or the cube flies: the servos cross any stride in a tenth of a second.
    behind = -0.042 + down * (0.042 + along + 0.022)
    heading = turn(s, np.arctan2(ahead[:, 1], ahead[:, 0]) + _QUARTER, np.pi)
    pushing = arm.inverse(over(cube[:, :2] + behind[:, None] * ahead, height), heading, _FIST)
    away = arm.inverse(over(fist, np.minimum(s.gripper[:, 2] + 0.03, 0.1)), facing, _FIST)
    arrived = np.linalg.norm(way, axis=-1) < _MIDDLE
    joints = np.where(arrived[:, None], away, pushing)
    return stride(s, joints, np.full(len(cube), CLOSED))


EXPERTS: dict[str, Callable[[Situation], Float[Array, "n 6"]]] = {
    "Reach": reach,
    "Push": push,
    "Lift": lift,
    "Stack": stack,
}


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

    With `noise`, bursts of disturbed joint targets take the arm off its path so that demonstrations show how to come
    back (DART: Laskey et al. 2017). A third of the time, for three steps, each arm joint's target is off by a constant
    of standard deviation 0.1 rad times `noise`, and the gripper's by half of that.
    """

    def __init__(self, env: Known, noise: float = 0.0) -> None:
        self._env = env
        self._noise = noise
        self._act = EXPERTS[env.objective.name]
        self._seeds: list[int] = []
        self._step = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed; the noise of episode i is keyed by (seeds[i], step)."""
        self._seeds = list(seeds)
        self._step = 0

    def act(self, obs: Observation) -> Float[Tensor, "n 1 6"]:
        """The next joint targets, radians; what `obs` shows is not looked at."""
        del obs
        clean = self._act(self._env.situation)
        done = clean + self._disturbance() if self._noise else clean
        self._step += 1
        return so101.target(torch.from_numpy(done)).float()[:, None]

    def _disturbance(self) -> Float[Array, "n 6"]:
        draws = [np.random.default_rng(seeding.key(seed, self._step // _BURST)) for seed in self._seeds]
        on = np.array([[rng.random() < _OFTEN] for rng in draws])
        return on * self._noise * _SPREAD * np.stack([rng.standard_normal(6) for rng in draws])
