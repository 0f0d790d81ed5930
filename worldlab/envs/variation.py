"""Ways in which the world may differ from the nominal one, each with a severity: 0 is nominal, 1 is severe."""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

from collections.abc import Callable, Mapping
from copy import copy

import mujoco
import numpy as np
from numpy.random import Generator

from worldlab import seeding
from worldlab.envs.scene import COLOURS
from worldlab.errors import UsageError, unknown


def _light(model: mujoco.MjModel, rng: Generator, severity: float) -> None:
    """Brightness up to a factor of 2.5 either way, a tint, and the sun off by up to 40 degrees in x and in y."""
    gain = 2.5 ** (severity * rng.uniform(-1, 1)) * (1 + 0.2 * severity * rng.uniform(-1, 1, 3))
    model.light_diffuse[:] *= gain
    model.vis.headlight.ambient[:] *= gain
    model.vis.headlight.diffuse[:] *= gain
    turn = np.append(np.tan(np.radians(40) * severity * rng.uniform(-1, 1, 2)), 0)
    direction = model.light_dir[0] + turn
    model.light_dir[0] = direction / np.linalg.norm(direction)


def _camera(model: mujoco.MjModel, rng: Generator, severity: float) -> None:
    """The front camera off its place, by up to 4 cm and 5 degrees along and about each axis."""
    camera = model.camera("front").id
    model.cam_pos[camera] += 0.04 * severity * rng.uniform(-1, 1, 3)
    mujoco.mju_quatIntegrate(model.cam_quat[camera], np.radians(5) * severity * rng.uniform(-1, 1, 3), 1.0)


def _mass(model: mujoco.MjModel, rng: Generator, severity: float) -> None:
    """The cubes up to 4 times heavier or lighter."""
    for colour in COLOURS:
        body = model.body(f"{colour}_cube").id
        factor = 4 ** (severity * rng.uniform(-1, 1))
        model.body_mass[body] *= factor
        model.body_inertia[body] *= factor


def _friction(model: mujoco.MjModel, rng: Generator, severity: float) -> None:
    """Sliding friction of table, cubes and fingers up to 2 times lower or higher."""
    model.geom_friction[:, 0] *= 2 ** (severity * rng.uniform(-1, 1))


KNOBS: dict[str, Callable[[mujoco.MjModel, Generator, float], None]] = {
    "light": _light,
    "camera": _camera,
    "mass": _mass,
    "friction": _friction,
}
"""What can vary, by name."""


def names() -> tuple[str, ...]:
    """The knobs."""
    return tuple(KNOBS)


def check(variation: Mapping[str, float]) -> None:
    """Raise `UsageError` for a knob that does not exist or a severity below 0."""
    for name, severity in variation.items():
        if name not in KNOBS:
            raise unknown("variation", name, KNOBS)
        if not 0 <= severity <= 1:
            raise UsageError(f"the severity of variation '{name}' is {severity}; it goes from 0 (nominal) to 1.")


def vary(model: mujoco.MjModel, variation: Mapping[str, float], seed: int) -> mujoco.MjModel:
    """A copy of `model` as the episode `seed` meets it; each knob draws from its own stream."""
    varied = copy(model)
    for name, severity in variation.items():
        rng = np.random.default_rng(seeding.key(seed, 1, list(KNOBS).index(name)))
        KNOBS[name](varied, rng, severity)
    mujoco.mj_setConst(varied, mujoco.MjData(varied))
    return varied
