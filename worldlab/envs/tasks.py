"""What is asked of the arm: where things start, when it is done, how good the present is, and in which words.

A task is a pure function of a `Situation`, which is a pure function of the simulator's state.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator
from numpy.typing import NDArray

from worldlab.envs import arm
from worldlab.envs.scene import COLOURS, HALF, ZONE_RADIUS

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]

NAMES = tuple(COLOURS)

_RADIUS = (0.145, 0.225)  # of the cubes from the pan axis: where the gripper can point down and lift
_AZIMUTH = 0.52
_APART = 0.06
_PUSH = (0.07, 0.13)  # how far it is to the zone
_BACK = 0.045  # how far behind a cube the gripper comes down to push it
_BEHIND = (0.12, 0.24)  # where it can, from the pan axis
_TRIES = 32
_PARKED = 5.0  # cubes above this height are absent


@dataclass(frozen=True)
class Situation:
    """What the tasks and the experts know about n simulations. Metres, radians, world frame."""

    joints: Float[Array, "n 6"]
    """Joint positions."""
    gripper: Float[Array, "n 3"]
    """The site gripperframe, between the fingertips."""
    cubes: Float[Array, "n 4 7"]
    """Position and quaternion (w, x, y, z) of each cube, in the order of `NAMES`."""
    goal: Int[Index, "n 2"]
    """Index of the cube the instruction names first, and second; -1 where it names none."""
    zone: Float[Array, "n 3"] | None
    """Centre of the zone, for a task that has one."""

    @property
    def present(self) -> Bool[Mask, "n 4"]:
        """Which cubes are on the table."""
        return self.cubes[..., 2] < _PARKED

    @property
    def first(self) -> Float[Array, "n 7"]:
        """The cube named first."""
        return self.cubes[np.arange(len(self.goal)), self.goal[:, 0]]

    @property
    def second(self) -> Float[Array, "n 7"]:
        """The cube named second."""
        return self.cubes[np.arange(len(self.goal)), self.goal[:, 1]]


@dataclass(frozen=True)
class Start:
    """How an episode begins."""

    joints: Float[Array, "6"]
    """Joint positions, radians."""
    cubes: Float[Array, "4 3"]
    """x, y (metres) and yaw (radians) of each cube; nan where it is absent."""
    goal: tuple[int, int]
    """Index of the cube named first, and second (-1: none)."""
    zone: tuple[float, float] | None
    """Centre of the zone, metres."""
    instruction: str
    """What the arm is told."""


@runtime_checkable
class Task(Protocol):
    """One task."""

    name: str
    limit: int
    zone: bool

    @property
    def phrases(self) -> tuple[str, ...]:
        """Instructions, with a gap for each cube that is named."""
        ...

    def start(self, rng: Generator) -> Start:
        """Draw the start of an episode; it never already succeeds."""
        ...

    def success(self, s: Situation) -> Bool[Mask, " n"]:
        """Whether the task is achieved."""
        ...

    def reward(self, s: Situation) -> Float[Array, " n"]:
        """How near success the situation is, from 0 to 1."""
        ...


def distance(a: Float[Array, "n d"], b: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Euclidean distance, row by row."""
    return np.linalg.norm(a - b, axis=-1)


def near(d: Float[Array, " n"]) -> Float[Array, " n"]:
    """1 at distance 0, falling by half every 6 cm or so (metres)."""
    return 1 - np.tanh(8 * d)


class Reach:
    """Bring the fingertips to a point above the named cube."""

    name, limit, zone = "Reach", 40, False
    height = 0.045
    """Of the point above the cube's centre, metres."""
    tolerance = 0.02
    """Largest distance from the point, metres."""
    phrases = ("reach the {} cube", "move to the {} cube", "go to the {} block", "point at the {} cube")

    def start(self, rng: Generator) -> Start:
        """2 to 4 cubes, one of them named."""
        return table(rng, self.phrases)

    def success(self, s: Situation) -> Bool[Mask, " n"]:
        """The gripperframe within `tolerance` of the point."""
        return self._distance(s) < self.tolerance

    def reward(self, s: Situation) -> Float[Array, " n"]:
        """Nearness to the point."""
        return np.where(self.success(s), 1.0, 0.9 * near(self._distance(s)))

    def _distance(self, s: Situation) -> Float[Array, " n"]:
        return distance(s.gripper, s.first[:, :3] + np.array([0, 0, self.height]))


class Lift:
    """Pick the named cube up."""

    name, limit, zone = "Lift", 60, False
    height = 0.05
    """How far above its resting place the cube must be, metres."""
    phrases = ("lift the {} cube", "pick up the {} cube", "raise the {} block", "take the {} cube")

    def start(self, rng: Generator) -> Start:
        """2 to 4 cubes, one of them named."""
        return table(rng, self.phrases)

    def success(self, s: Situation) -> Bool[Mask, " n"]:
        """The cube is up, and between the fingertips."""
        return (s.first[:, 2] > HALF + self.height) & (distance(s.gripper, s.first[:, :3]) < 0.03)

    def reward(self, s: Situation) -> Float[Array, " n"]:
        """Nearness of the fingertips, then the cube's height."""
        risen = np.clip((s.first[:, 2] - HALF) / self.height, 0, 1)
        return np.where(self.success(s), 1.0, 0.5 * near(distance(s.gripper, s.first[:, :3])) + 0.4 * risen)


class Push:
    """Push the named cube into the zone."""

    name, limit, zone = "Push", 100, True
    tolerance = ZONE_RADIUS - 0.01
    """Largest distance of the cube's centre from the zone's, metres."""
    phrases = (
        "push the {} cube into the zone",
        "move the {} block to the white circle",
        "slide the {} cube onto the white disc",
    )

    def start(self, rng: Generator) -> Start:
        """2 to 4 cubes and a zone that the named one can be pushed to past the others."""
        while True:
            start = table(rng, self.phrases)
            here = start.cubes[start.goal[0], :2]
            others = np.delete(start.cubes[:, :2], start.goal[0], 0)
            zones = _sector(rng, _TRIES)
            good = zones[_pushable(here, zones, others[~np.isnan(others[:, 0])])]
            if len(good):
                return replace(start, zone=(float(good[0, 0]), float(good[0, 1])))

    def success(self, s: Situation) -> Bool[Mask, " n"]:
        """The cube lies in the zone."""
        return (self._away(s) < self.tolerance) & (s.first[:, 2] < 1.5 * HALF)

    def reward(self, s: Situation) -> Float[Array, " n"]:
        """Nearness of the cube to the zone, and a little for that of the fingertips to the cube."""
        shaped = 0.7 * near(self._away(s)) + 0.2 * near(distance(s.gripper, s.first[:, :3]))
        return np.where(self.success(s), 1.0, shaped)

    def _away(self, s: Situation) -> Float[Array, " n"]:
        assert s.zone is not None
        return distance(s.first[:, :2], s.zone[:, :2])


class Stack:
    """Put the first named cube on the second, and let go."""

    name, limit, zone = "Stack", 100, False
    phrases = (
        "stack the {} cube on the {} cube",
        "put the {} cube on top of the {} cube",
        "place the {} block on the {} block",
    )

    def start(self, rng: Generator) -> Start:
        """2 to 4 cubes, two of them named."""
        return table(rng, self.phrases)

    def success(self, s: Situation) -> Bool[Mask, " n"]:
        """The first rests on the second, and the fingertips have left it."""
        free = distance(s.gripper, s.first[:, :3]) > 0.04
        return self.stacked(s) & free

    def stacked(self, s: Situation) -> Bool[Mask, " n"]:
        """The first lies on the second, held or not."""
        over = distance(s.first[:, :2], s.second[:, :2]) < HALF
        return over & (np.abs(s.first[:, 2] - s.second[:, 2] - 2 * HALF) < 0.004)

    def reward(self, s: Situation) -> Float[Array, " n"]:
        """Nearness of the fingertips to the first cube, then of the first cube to its place."""
        place = s.second[:, :3] + np.array([0, 0, 2 * HALF])
        shaped = 0.3 * near(distance(s.gripper, s.first[:, :3])) + 0.4 * near(distance(s.first[:, :3], place))
        return np.where(self.success(s), 1.0, shaped + 0.2 * self.stacked(s))


TASKS: dict[str, Task] = {task.name: task for task in (Reach(), Push(), Lift(), Stack())}
"""Every task by name."""


def table(rng: Generator, phrases: tuple[str, ...]) -> Start:
    """Draw 2 to 4 cubes apart from each other, the arm above them, and an instruction that names one or two."""
    count = int(rng.integers(2, 5))
    shown = rng.permutation(len(NAMES))[:count]
    cubes = np.full((len(NAMES), 3), np.nan)
    cubes[shown, :2] = _spots(rng, count)
    cubes[shown, 2] = rng.uniform(-np.pi / 4, np.pi / 4, count)
    phrase = phrases[int(rng.integers(len(phrases)))]
    named = [int(i) for i in shown[: phrase.count("{}")]]
    return Start(
        joints=_joints(rng),
        cubes=cubes,
        goal=(named[0], named[1] if len(named) > 1 else -1),
        zone=None,
        instruction=phrase.format(*(NAMES[i] for i in named)),
    )


def _joints(rng: Generator) -> Float[Array, "6"]:
    """A pose well above the cubes and somewhat aside, the gripper partly open."""
    r, a, z = rng.uniform(0.09, 0.16), rng.uniform(-0.7, 0.7), rng.uniform(0.12, 0.18)
    point = np.array([arm.PAN[0] + r * np.cos(a), r * np.sin(a), z])
    pose = arm.inverse(point[None], np.array([a]))[0] + rng.uniform(-0.1, 0.1, 5)
    return np.append(pose, rng.uniform(0.1, 0.5))


def _sector(rng: Generator, count: int) -> Float[Array, "{count} 2"]:
    """Points of the annular sector in which cubes lie."""
    r = np.sqrt(rng.uniform(_RADIUS[0] ** 2, _RADIUS[1] ** 2, count))
    a = rng.uniform(-_AZIMUTH, _AZIMUTH, count)
    return arm.PAN[:2] + np.stack([r * np.cos(a), r * np.sin(a)], -1)


def _spots(rng: Generator, count: int) -> Float[Array, "{count} 2"]:
    """Points of the sector that are apart from each other."""
    while True:
        spots = np.empty((0, 2))
        for spot in _sector(rng, _TRIES):
            if (np.linalg.norm(spots - spot, axis=-1) > _APART).all():
                spots = np.append(spots, spot[None], 0)
            if len(spots) == count:
                return spots


def _pushable(here: Float[Array, "2"], zones: Float[Array, "m 2"], others: Float[Array, "o 2"]) -> Bool[Mask, " m"]:
    """Whether a cube can be pushed from `here` to a zone: far enough, room behind it, the others out of the way."""
    way = zones - here
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    ahead = way / length
    behind = here - _BACK * ahead
    along = np.clip(
        ((others[None] - behind[:, None]) * ahead[:, None]).sum(-1, keepdims=True), 0, length[:, None] + _BACK
    )
    aside = np.linalg.norm(others[None] - behind[:, None] - along * ahead[:, None], axis=-1)
    radius = np.linalg.norm(behind - arm.PAN[:2], axis=-1)
    far = (length[:, 0] > _PUSH[0]) & (length[:, 0] < _PUSH[1])
    return far & (radius > _BEHIND[0]) & (radius < _BEHIND[1]) & (aside > 0.055).all(-1)
