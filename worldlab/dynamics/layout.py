"""What the columns of a simulator's privileged state mean to a model, read off their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.dynamics.rotations import axes, quaternion

_NOT_OF_THE_WORLD = re.compile(r"expert\.|zone\.\w+\.[uv]$")
POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")


@dataclass(frozen=True)
class WorldState:
    """The state of a simulated world, in the units of the data."""

    state: Float[Tensor, "*b s"]
    """Proprioception."""
    velocity: Float[Tensor, "*b s"]
    """Change of the state over the last control step."""
    free: Float[Tensor, "*b f"]
    """What moves and is no object: the gripper."""
    constants: Float[Tensor, "*b c"]
    """What no action changes: the goal zone."""
    place: Float[Tensor, "*b o 3"]
    """Where each object is, metres."""
    axes: Float[Tensor, "*b o 2 3"]
    """Where its x and y axes point: continuous in the rotation, and the same for q and -q."""
    marks: Float[Tensor, "*b o m"]
    """Whether it is present, and whether it is the target."""
    pixels: Float[Tensor, "*b o u"]
    """Where cameras see it, 0..1."""

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        arm = (self.state, self.velocity, self.free, self.constants)
        return (*arm, self.place, self.axes, self.marks, self.pixels)

    @property
    def faces(self) -> Float[Tensor, "*b o 4"]:
        """How each object stands, the same for all quarter turns of a cube about the vertical.

        Cosine and sine of four times the x axis's heading, and how far the two axes point up.
        """
        c, s, up = self.axes[..., 0, 0], self.axes[..., 0, 1], self.axes[..., 2]
        twice_c, twice_s = c * c - s * s, 2 * c * s
        around = torch.stack([twice_c * twice_c - twice_s * twice_s, 2 * twice_c * twice_s], -1)
        return torch.cat([around, up], -1)

    def rows(self, start: int, stop: int) -> "WorldState":
        """The rows start..stop-1 of worlds (b, t, ...)."""
        return WorldState(*(x[:, start:stop] for x in self.columns))

    def detach(self) -> "WorldState":
        """The same without gradients."""
        return WorldState(*(x.detach() for x in self.columns))


def stack(worlds: Sequence[WorldState]) -> WorldState:
    """Consecutive worlds (b, t, ...) as one with an axis of steps, (b, t, steps, ...)."""
    return WorldState(*(torch.stack(parts, 2) for parts in zip(*(w.columns for w in worlds), strict=True)))


@dataclass(frozen=True)
class Layout:
    """Indices into `Spec.privileged`.

    An object is a prefix that has a pose and a presence: `red_cube.x … red_cube.qz, red_cube.present`.
    """

    names: tuple[str, ...]
    """The columns a world has: `Spec.privileged` without its end, where the zone is seen and the expert's opinion."""
    poses: tuple[tuple[int, ...], ...]
    """Per object its x, y, z, qw, qx, qy, qz."""
    marks: tuple[tuple[int, ...], ...]
    """Per object what no action changes: present first, then target where there is one."""
    pixels: tuple[tuple[int, ...], ...]
    """Per object whatever else is known of it."""
    constants: tuple[int, ...]
    """The goal zone."""
    free: tuple[int, ...]
    """All other columns, the gripper's position among them."""

    @classmethod
    def of(cls, privileged: tuple[str, ...]) -> "Layout":
        """Read the names."""
        names = tuple(name for name in privileged if not _NOT_OF_THE_WORLD.match(name))
        at = {name: i for i, name in enumerate(names)}
        prefixes = [name.removesuffix(".present") for name in names if name.endswith(".present")]
        objects = [o for o in prefixes if all(f"{o}.{axis}" in at for axis in POSE)]
        poses = tuple(tuple(at[f"{o}.{axis}"] for axis in POSE) for o in objects)
        marks = tuple(tuple(at[m] for m in (f"{o}.present", f"{o}.target") if m in at) for o in objects)
        pixels = tuple(
            tuple(i for name, i in at.items() if name.startswith(f"{o}.") and i not in (*pose, *mark))
            for o, pose, mark in zip(objects, poses, marks, strict=True)
        )
        owned = {i for group in (*poses, *marks, *pixels) for i in group}
        constants = tuple(i for name, i in at.items() if name.startswith("zone."))
        return cls(
            names, poses, marks, pixels, constants, tuple(i for i in range(len(names)) if i not in {*owned, *constants})
        )

    @cached_property
    def gripper(self) -> tuple[int, ...]:
        """Where in `free` the gripper's x, y, z stand; () if the world has none."""
        place = [f"gripper.{axis}" for axis in "xyz"]
        found = [self.free.index(self.names.index(name)) for name in place if name in self.names]
        return tuple(found) if len(found) == 3 else ()

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """Number of objects, of marks and of pixel columns of each."""
        return len(self.poses), len(self.marks[0]) if self.marks else 1, len(self.pixels[0]) if self.pixels else 0

    def split(
        self, state: Float[Tensor, "*b s"], velocity: Float[Tensor, "*b s"], privileged: Float[Tensor, "*b z"]
    ) -> WorldState:
        """Take the columns apart; further columns of `privileged` are left out."""
        pose = _take(privileged, self.poses, len(POSE))
        return WorldState(
            state=state,
            velocity=velocity,
            free=privileged[..., list(self.free)],
            constants=privileged[..., list(self.constants)],
            place=pose[..., :3],
            axes=axes(pose[..., 3:]),
            marks=_take(privileged, self.marks, self.sizes[1]),
            pixels=_take(privileged, self.pixels, self.sizes[2]),
        )

    def join(self, world: WorldState) -> Float[Tensor, "*b z"]:
        """The privileged columns of a world: the inverse of `split`."""
        privileged = world.state.new_zeros(*world.state.shape[:-1], len(self.names))
        privileged[..., list(self.free)] = world.free
        privileged[..., list(self.constants)] = world.constants
        for columns, values in (
            (self.poses, torch.cat([world.place, quaternion(world.axes)], -1)),
            (self.marks, world.marks),
            (self.pixels, world.pixels),
        ):
            privileged[..., [i for group in columns for i in group]] = values.flatten(-2)
        return privileged


def _take(privileged: Float[Tensor, "*b z"], columns: tuple[tuple[int, ...], ...], width: int) -> Tensor:
    """The columns of each object, shape (*b, objects, width)."""
    flat = privileged[..., [i for group in columns for i in group]]
    return flat.reshape(*privileged.shape[:-1], len(columns), width)
