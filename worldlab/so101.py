"""The SO-101 arm as LeRobot knows it: joint names, ranges, and the change of units at LeRobot's edge.

Inside worldlab a joint is an angle in radians with the zero of the Menagerie model. LeRobot's follower reports degrees
about the calibrated middle, and the gripper as 0 (closed) to 100 (open).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""Motor names, ids 1 to 6, in LeRobot's order."""

NAMES = tuple(f"{joint}.pos" for joint in JOINTS)
"""LeRobot's feature names of the joint positions."""

LOW = (-1.91986, -1.74533, -1.69, -1.65806, -2.74385, -0.17453)
"""Smallest target of each joint in radians (Menagerie `robotstudio_so101`, ctrlrange)."""

HIGH = (1.91986, 1.74533, 1.69, 1.65806, 2.74385, 1.74533)
"""Largest target of each joint in radians. The wrist's is the joint's own limit: its ctrlrange goes 0.1 rad beyond."""

_GRID = 2.0**-20
_SCALE = torch.tensor([180 / math.pi] * 5 + [100 / (HIGH[5] - LOW[5])], dtype=torch.float64)
_ZERO = torch.tensor([0.0] * 5 + [LOW[5]], dtype=torch.float64)


def snap(radians: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """The nearest multiples of 2⁻²⁰ rad, a thousandth of what the servo's encoder resolves.

    These survive LeRobot's float32 degrees bit for bit, where one value in eight would change its last bit and, in
    time, the episode. So positions and targets are snapped where the simulator shows and takes them.
    """
    return (torch.round(radians.double() / _GRID) * _GRID).to(radians.dtype)


def target(radians: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """The nearest multiples of 2⁻²⁰ rad within the joints' ranges."""
    low, high = torch.tensor((LOW, HIGH), dtype=torch.float64) / _GRID
    return (torch.clamp(torch.round(radians.double() / _GRID), low.ceil(), high.floor()) * _GRID).to(radians.dtype)


def to_lerobot(radians: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """Radians, snapped -> degrees about the middle, gripper 0 to 100."""
    return ((snap(radians).double() - _ZERO.to(radians.device)) * _SCALE.to(radians.device)).to(radians.dtype)


def from_lerobot(units: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """The inverse of `to_lerobot`, in float32 and wider exactly."""
    return snap(units.double() / _SCALE.to(units.device) + _ZERO.to(units.device)).to(units.dtype)
