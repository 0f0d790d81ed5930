"""What a planner wants: a number for each imagined future."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.trajectory import Spec, Trajectory

type Objective = Callable[[Trajectory], Float[Tensor, " n"]]
"""From imagined futures, leading axes (n, t), to how much each is wanted."""

BEHIND = 0.03
"""How far behind an object the fingertips push it from, metres."""
CLEAR = 0.009
"""How high over the table fingertips should stay, metres: pressed against it, an arm does not go where it is told."""
JAWS = "gripper.pos"
"""The joint that closes them."""
SHUT = -0.15
"""The gripper's angle at which the jaws meet, radians."""


def mean_reward(dream: Trajectory) -> Float[Tensor, " n"]:
    """The mean imagined reward, of futures that stand still after their end (`Trajectory.absorbing_reward`)."""
    return dream.absorbing_reward.mean(1)


@dataclass(frozen=True)
class ToZone:
    """Push the target object into the zone: a shaped cost, written by hand for a simulator's privileged state.

    The task's own reward draws the fingertips to the object from whichever side is nearest; this one also says that
    they belong behind it as seen from the zone, low but off the table, with the jaws closed. Metres, mean over the
    dream.
    """

    spec: Spec
    """Names the columns of `Trajectory.privileged`."""
    aim: float = 3.0
    """Weight of the object's distance from the zone, against that of the fingertips from where they push."""
    fist: float = 0.3
    """Metres that a radian of open jaws is worth: open, they rake and brace, which no model learns from fists."""
    clearance: float = 5.0
    """Weight of how far the fingertips are below `CLEAR`."""

    def __post_init__(self) -> None:
        if not self.fits(self.spec):
            raise UsageError("the objective 'zone' needs a world model that imagines a gripper, objects and a zone.")

    @staticmethod
    def fits(spec: Spec) -> bool:
        """Whether the spec names a gripper, a zone and a target."""
        known = set(spec.privileged)
        return {"gripper.x", "zone.x"} <= known and any(n.endswith(".target") for n in known) and JAWS in spec.state

    def __call__(self, dream: Trajectory) -> Float[Tensor, " n"]:
        """How much each future is wanted; 0 at best."""
        zone, gripper, cube = self._place(dream, "zone"), self._place(dream, "gripper"), self._target(dream)
        way = (zone - cube)[..., :2]
        left = way.norm(dim=-1, keepdim=True)
        behind = torch.cat([cube[..., :2] - BEHIND * way / left.clamp(min=1e-6), cube[..., 2:]], -1)
        astray = (gripper - behind).norm(dim=-1)
        jaws = dream.obs.state[..., self.spec.state.index(JAWS)].clamp(min=SHUT) - SHUT
        pressed = (CLEAR - gripper[..., 2]).clamp(min=0)
        return -(self.aim * left[..., 0] + astray + self.fist * jaws + self.clearance * pressed).mean(1)

    def _place(self, dream: Trajectory, body: str) -> Float[Tensor, "n t 3"]:
        assert dream.privileged is not None
        return dream.privileged[..., [self.spec.privileged.index(f"{body}.{axis}") for axis in "xyz"]]

    def _target(self, dream: Trajectory) -> Float[Tensor, "n t 3"]:
        """Where the object is that the instruction names."""
        assert dream.privileged is not None
        names = [n.removesuffix(".target") for n in self.spec.privileged if n.endswith(".target")]
        places = torch.stack([self._place(dream, name) for name in names], -2)
        marks = dream.privileged[..., [self.spec.privileged.index(f"{name}.target") for name in names]]
        return (places * (marks > 0.5)[..., None]).sum(-2)
