"""Where the arm is, and what its motion does to objects."""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab.dynamics.layout import Layout, WorldState
from worldlab.normalize import Moments, Standardize

NEAR = 0.05
"""Metres: the scale on which an object's place relative to the gripper matters."""
STILL = 0.25
"""How far an arm moves in a step for three quarters of a push, in units of `NEAR` and radians together."""


def plain_mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """`depth` linear layers with SiLU between them."""
    sizes = [inputs, *[width] * (depth - 1)]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))


class Kinematics(nn.Module):
    """What a pose of the arm says of what moves with it. With one hidden layer the gripper is millimetres off."""

    def __init__(self, state: Moments, width: int, outputs: int) -> None:
        """`state` is how proprioception is distributed."""
        super().__init__()
        self.scale = Standardize(state)
        self.net = plain_mlp(3 * len(state.mean), width, 4, outputs)

    def forward(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b f"]:
        """In whatever unit it is taught."""
        return self.net(torch.cat([self.scale(state), state.sin(), state.cos()], -1))


class Contact(nn.Module):
    """One network that all objects share, from an object's place relative to the gripper before and after.

    It is gated, so that what is not touched stays where it is, and nothing moves beside an arm that does not: a network
    that has learnt from pushes believes that cubes come to a resting arm, and a planner would wait for them.
    """

    def __init__(self, layout: Layout, state: Moments, width: int, depth: int) -> None:
        """`state` is how proprioception is distributed."""
        super().__init__()
        self.layout = layout
        self.scale = Standardize(state)
        self.net = plain_mlp(len(state.mean) + 11, width, depth, 7 + layout.sizes[2])
        nn.init.zeros_(self.net[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, before: WorldState, after: WorldState) -> WorldState:
        """`after`, whose arm has moved, with the objects pushed from where they are in `before`."""
        objects = self.layout.sizes[0]
        if objects == 0:
            return after
        joints = self.scale(after.state)[..., None, :]
        near, near_after = self.near(before), self.near(replace(after, place=before.place))
        turned = (after.state - before.state)[..., None, :].expand(*near.shape[:-1], after.state.shape[-1])
        motion = torch.cat([near_after - near, turned], -1).norm(dim=-1, keepdim=True)
        inputs = [
            joints.expand(*joints.shape[:-2], objects, joints.shape[-1]),
            near,
            near_after,
            before.place[..., 2:] / NEAR,
            before.faces,
        ]
        gate, push, spin, pixels = self.net(torch.cat(inputs, -1)).split([1, 3, 3, before.pixels.shape[-1]], -1)
        touched = (motion / STILL).tanh() * gate.sigmoid() * before.marks[..., :1]
        return replace(
            after,
            place=before.place + NEAR * touched * push,
            axes=before.axes + torch.linalg.cross((touched * spin)[..., None, :].expand_as(before.axes), before.axes),
            pixels=before.pixels + NEAR * touched * pixels,
        )

    def near(self, world: WorldState) -> Float[Tensor, "*b o 3"]:
        """Where the objects are as seen from the gripper, in units of `NEAR`."""
        gripper = list(self.layout.gripper)
        origin = world.free[..., None, gripper] if gripper else 0.0
        return (world.place - origin) / NEAR
