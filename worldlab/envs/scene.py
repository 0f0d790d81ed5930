"""The table: an arm, coloured cubes, perhaps a zone, and two cameras, as edits of a `mujoco.MjSpec`."""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

import mujoco
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldlab.envs import arm

Array = NDArray[np.float64]

COLOURS = {
    "red": (0.86, 0.10, 0.12, 1.0),
    "green": (0.10, 0.62, 0.22, 1.0),
    "blue": (0.12, 0.32, 0.86, 1.0),
    "yellow": (0.98, 0.90, 0.10, 1.0),
}
"""The cubes of every scene, in the order of `qpos`."""

HALF = 0.0135
"""Half the side of a cube, metres."""

ZONE_RADIUS = 0.035
"""Radius of the zone's disc, metres."""

PARKED = 10.0
"""The height at which an absent cube waits, out of sight and held against gravity, metres."""

USERDATA = 4
"""`MjData.userdata` holds: control steps so far, first cube, second cube, the episode's variation seed."""


class Scene:
    """Builds the model of one task."""

    def __init__(self, zone: bool, meshes: bool = False) -> None:
        self.spec = arm.load(meshes)
        self.spec.modelname = "worldlab"
        self.spec.nuserdata = USERDATA
        self._style()
        self._table()
        for colour, rgba in COLOURS.items():
            self._cube(colour, rgba)
        if zone:
            self._zone()
        look(self.spec, "front", (0.475, 0.0, 0.355), (0.190, 0.0, 0.035), fovy=38.0)

    def compile(self) -> mujoco.MjModel:
        """The model."""
        return self.spec.compile()

    def _style(self) -> None:
        # Shadows, reflections and multisampling are what software rendering spends its time on.
        quality = self.spec.visual.quality
        quality.shadowsize = quality.offsamples = 0
        quality.numslices, quality.numstacks, quality.numquads = 12, 2, 1  # with 1 stack, cylinders lose their lids
        vis = self.spec.visual
        getattr(vis, "global").offwidth, getattr(vis, "global").offheight = 1280, 960
        vis.headlight.ambient, vis.headlight.diffuse = (0.42, 0.42, 0.42), (0.28, 0.28, 0.28)
        vis.headlight.specular = (0.05, 0.05, 0.05)
        vis.map.znear, vis.map.zfar = 0.02, 5.0
        self.spec.stat.extent, self.spec.stat.center = 1.0, (0.2, 0.0, 0.1)
        self.spec.worldbody.add_light(
            name="sun",
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=(0.4, 0.5, 1.2),
            dir=(-0.25, -0.40, -1.0),
            diffuse=(0.55, 0.54, 0.52),
            specular=(0.15, 0.15, 0.15),
            castshadow=False,
        )

    def _table(self) -> None:
        self.spec.add_material(name="table", rgba=(0.44, 0.48, 0.53, 1), specular=0.05, shininess=0.1)
        self.spec.worldbody.add_geom(
            name="table",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=(0.9, 0.9, 0.1),
            material="table",
            contype=1,
            conaffinity=1,
            condim=3,
        )

    def _cube(self, colour: str, rgba: tuple[float, float, float, float]) -> None:
        body = self.spec.worldbody.add_body(name=f"{colour}_cube", pos=(0, 0, HALF))
        body.add_freejoint(name=f"{colour}_cube")
        body.add_geom(
            name=f"{colour}_cube",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(HALF, HALF, HALF),
            rgba=rgba,
            mass=0.02,
            condim=3,
            contype=1,
            conaffinity=1,
            friction=(1, 5e-3, 5e-4),
        )

    def _zone(self) -> None:
        body = self.spec.worldbody.add_body(name="zone", mocap=True, pos=(0.2, 0, 0.0005))
        body.add_geom(
            name="zone",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=(ZONE_RADIUS, 0.0005, 0),
            rgba=(0.92, 0.93, 0.95, 1),
            contype=0,
            conaffinity=0,
        )


def look(
    spec: mujoco.MjSpec,
    name: str,
    eye: tuple[float, float, float],
    at: tuple[float, float, float],
    fovy: float,
) -> None:
    """Add a fixed camera at `eye` that looks at `at`, upright; `fovy` in degrees."""
    back = np.subtract(eye, at) / np.linalg.norm(np.subtract(eye, at))
    right = np.cross((0, 0, 1), back) / np.linalg.norm(np.cross((0, 0, 1), back))
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], -1).ravel())
    spec.worldbody.add_camera(name=name, pos=eye, quat=quat, fovy=fovy)


def project(
    point: Float[Array, "*b 3"],
    position: Float[Array, "3"],
    rotation: Float[Array, "3 3"],
    fovy: float,
    aspect: float,
) -> Float[Array, "*b 2"]:
    """Where a point appears in a camera's picture: (u, v) from 0 to 1, u to the right, v down.

    Args:
        point: metres, world frame.
        position: of the camera.
        rotation: of the camera; it looks along its negative z axis.
        fovy: vertical field of view, degrees.
        aspect: width over height.
    """
    seen = (point - position) @ rotation
    scale = 2 * np.tan(np.radians(fovy) / 2)
    u = 0.5 - seen[..., 0] / (seen[..., 2] * scale * aspect)
    v = 0.5 + seen[..., 1] / (seen[..., 2] * scale)
    return np.stack([u, v], -1)
