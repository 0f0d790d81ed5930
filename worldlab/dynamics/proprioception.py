"""What a robot knows of itself without looking, and how it moves when it is told to."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from worldlab.dynamics.heads import mlp, symexp, symlog
from worldlab.normalize import Standardize, Statistics
from worldlab.trajectory import Spec

STEP = 0.1
"""A control step changes a coordinate by about so much."""
FLOOR = 0.1
"""Smallest scale of what is not a joint target, in the units of the data: what random actions hardly touch may move
all the more later."""

OUTLIER = 3.0
"""Steps, from where on an error of proprioception counts by its size and not by its square: impacts."""


class Proprioception(nn.Module):
    """The next state from the present one and the action: residual, because most of it stays.

    Where an action is a joint target, what matters is how far the joint is from it; a servo either arrives there or is
    on its way as fast as it can, and a gate says which.
    """

    def __init__(self, spec: Spec, statistics: Statistics, context: int, width: int) -> None:
        """`context` is the width of what else is known."""
        super().__init__()
        self.servo = spec.joint_targets
        """Whether an action says where the joints should be."""
        self.scale = Standardize(statistics.state) if self.servo else Standardize(statistics.state, FLOOR)
        self.scale_action = Standardize(statistics.action)
        states = len(spec.state)
        # Of a hinge that turns round and round, only where it points matters.
        self.turning = [i for i, name in enumerate(spec.state) if self.servo or name.startswith("position")]
        self.width = states + 2 * len(self.turning)
        """Of `posture`."""
        self.inputs = len(spec.action) + self.width + states
        """Width of `motion`."""
        self.net = mlp(self.width + len(spec.action) + context, width, 2, 2 * states, silent=True)

    def coordinates(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b s"]:
        """The state in units of its spread; without targets it may leave the range of the data: by its symlog then."""
        z = self.scale(state)
        return z if self.servo else symlog(z)

    def posture(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b p"]:
        """The state as networks read it; of positions also their sines and cosines, which kinematics is made of."""
        position = state[..., self.turning]
        return torch.cat([self.coordinates(state), position.sin(), position.cos()], -1)

    def motion(
        self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"], after: Float[Tensor, "*b s"]
    ) -> Float[Tensor, "*b m"]:
        """What was done, and how the robot moved meanwhile."""
        return torch.cat([self.scale_action(action), self.posture(state), self.steps(state, after)], -1)

    def steps(self, before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]) -> Float[Tensor, "*b s"]:
        """How far from one state to another, in units of what a control step does."""
        return (self.coordinates(after) - self.coordinates(before)) / STEP

    def forward(
        self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"], context: Float[Tensor, "*b c"]
    ) -> Float[Tensor, "*b s"]:
        """The state one control step later."""
        aim = self.steps(state, action) if self.servo else self.scale_action(action)
        moved, gate = self.net(torch.cat([self.posture(state), aim, context], -1)).float().chunk(2, -1)
        if self.servo:
            return state + STEP * self.scale.std * torch.lerp(moved, aim, gate.sigmoid())
        return self.scale.invert(symexp(self.coordinates(state) + STEP * moved))

    def errors(
        self, state: Float[Tensor, "n k s"], action: Float[Tensor, "n h a"], context: Float[Tensor, "n h c"]
    ) -> Float[Tensor, "n h"]:
        """Squared errors of the state as it moves by itself from the first row of each window on (Huber's)."""
        now = state[:, 0]
        errors: list[Tensor] = []
        for i in range(action.shape[1]):
            now = self(now, action[:, i], context[:, i])
            off = self.steps(state[:, i + 1], now)
            errors.append(2 * huber_loss(off, torch.zeros_like(off), reduction="none", delta=OUTLIER).sum(-1))
        return torch.stack(errors, 1)
