"""The SO-101 as a MuJoCo model, and its inverse kinematics in closed form.

Kinematics, inertials and servos equal those of MuJoCo Menagerie's `robotstudio_so101`; the shapes are primitives, which
render two hundred times faster than the meshes. With the gripper pointing down the arm is a pan axis, two links in a
vertical plane, a wrist that keeps the gripper vertical, and a roll.
"""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldlab.errors import UsageError
from worldlab.so101 import HIGH, LOW

Array = NDArray[np.float64]

PAN = np.array([0.0388353, 0.0, 0.0624])
"""Where the pan axis stands, metres in the base frame."""

_SHOULDER = np.array([0.0303992, 0.1166])  # (radius, height) of the shoulder_lift axis
_UPPER, _UPPER_ANGLE = np.hypot(0.028, 0.11257), np.arctan2(0.11257, 0.028)
_FORE, _FORE_ANGLE = np.hypot(0.1349, 0.0052), np.arctan2(0.0052, 0.1349)
_HAND = 0.0611 + 0.098127  # from the wrist_flex axis to the fingertips, along the roll axis
_LEANINGS = 4
ROLL = 0.0486795
"""The wrist_roll at which the jaws open along the arm's plane, radians."""

FRAME_X = 0.012
"""The gripperframe's distance from the roll axis, along the gripper's x axis (towards the moving jaw), metres."""


def load(meshes: bool = False) -> mujoco.MjSpec:
    """The arm as an editable spec.

    Args:
        meshes: draw the real printed parts (35 ms a frame without a GPU) instead of the primitives.

    Raises:
        UsageError: `meshes` without the package so101-nexus, which ships them.
    """
    with as_file(files("worldlab.envs") / "assets" / "so101.xml") as path:
        spec = mujoco.MjSpec.from_file(str(path))
    return _with_meshes(spec) if meshes else spec


def _with_meshes(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    found = find_spec("so101_nexus")
    if found is None or found.origin is None:
        raise UsageError("meshes=True needs the real SO-101 meshes: pip install so101-nexus, or use meshes=False.")
    folder = Path(found.origin).parent / "assets" / "SO101_menagerie"
    real = mujoco.MjSpec.from_file(str(folder / "so101.xml"))
    for geom in spec.geoms:
        geom.rgba, geom.material = (0, 0, 0, 0), ""
    drawn = [geom for geom in real.geoms if geom.classname.name == "visual"]
    for name in {geom.meshname for geom in drawn}:
        spec.add_mesh(name=name, file=str(folder / real.meshdir / real.mesh(name).file))
    for geom in drawn:
        spec.body(geom.parent.name).add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=geom.meshname,
            pos=geom.pos,
            quat=geom.quat,
            material="servo" if geom.meshname.startswith("sts3215") else "print",
            contype=0,
            conaffinity=0,
            group=2,
            mass=0,
        )
    return spec


def inverse(
    point: Float[Array, "n 3"], heading: Float[Array, " n"], x: Float[Array, " n"] | float = FRAME_X
) -> Float[Array, "n 5"]:
    """Joint angles that put a point of the gripper somewhere, the gripper pointing down.

    Where the arm cannot point down it leans outwards by as much as it must.

    Args:
        point: where the point goes, metres in the base frame.
        heading: of the gripper's x axis, the direction in which the moving jaw opens, radians.
        x: the point's distance from the roll axis along that axis; it is as far down as the gripperframe.

    Returns:
        shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, wrist_roll; out of reach, the nearest the arm gets.
    """
    axis = point[:, :2] - np.stack([np.cos(heading), np.sin(heading)], -1) * np.reshape(x, (-1, 1)) - PAN[:2]
    azimuth = np.arctan2(axis[:, 1], axis[:, 0])
    roll = (heading - azimuth + ROLL + np.pi) % (2 * np.pi) - np.pi
    tip = np.stack([np.linalg.norm(axis, axis=-1), point[:, 2]], -1) - _SHOULDER
    pitch = np.full(len(point), -np.pi / 2)
    for _ in range(_LEANINGS):
        lift, elbow, wrist, short = _links(tip, pitch)
        pitch = pitch + np.clip(0.7 * (wrist - HIGH[3]), 0, 0.3) + np.clip(short / _HAND, 0, 0.3)
    lift, elbow, wrist, _ = _links(tip, pitch)
    return np.clip(np.stack([-azimuth, lift, elbow, wrist, roll], -1), LOW[:5], HIGH[:5])


def _links(tip: Float[Array, "n 2"], pitch: Float[Array, " n"]) -> tuple[Float[Array, " n"], ...]:
    """Joint angles in the arm's plane that put the fingertips at `tip` from the shoulder with the hand at a pitch.

    Returns:
        shoulder_lift, elbow_flex, wrist_flex, and by how much the wrist is beyond the reach of the two links (metres).
    """
    r, z = (tip - _HAND * np.stack([np.cos(pitch), np.sin(pitch)], -1)).T
    far = np.hypot(r, z)
    d = np.clip(far, _FORE - _UPPER + 1e-3, _FORE + _UPPER - 1e-4)
    angle = np.arctan2(z, r)
    upper = angle + np.arccos((_UPPER**2 + d**2 - _FORE**2) / (2 * _UPPER * d))
    fore = np.arctan2(d * np.sin(angle) - _UPPER * np.sin(upper), d * np.cos(angle) - _UPPER * np.cos(upper))
    lift = _UPPER_ANGLE - upper
    elbow = _FORE_ANGLE - fore - lift
    return lift, elbow, -pitch - lift - elbow, far - d


def facing(joints: Float[Array, "n 6"]) -> Float[Array, " n"]:
    """Heading of the gripper's x axis when it points down, radians."""
    return joints[:, 4] - joints[:, 0] - ROLL
