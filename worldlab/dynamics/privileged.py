"""Reads what only a simulator knows off the features of a world model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab.dynamics.heads import mlp
from worldlab.normalize import Moments

CENTIMETRE = 0.01
"""Metres: an error of this size in a place costs half a nat."""
SHARE = 0.3
"""Of its standard deviation: an error of this size in anything else costs as much."""


class PrivilegedHead(nn.Module):
    """A small network from features to the columns of `Spec.privileged`.

    It is a probe if the features are given without gradient, and a teacher of the features otherwise.
    """

    mean: Tensor
    scale: Tensor
    present: Tensor

    def __init__(self, names: Sequence[str], moments: Moments, features: int, width: int) -> None:
        """`names` are the first columns that `moments` are about."""
        super().__init__()
        place = torch.tensor([name.endswith((".x", ".y", ".z")) for name in names], dtype=torch.bool)
        spread = SHARE * torch.tensor(moments.std[: len(names)]).clamp(min=CENTIMETRE)
        self.register_buffer("mean", torch.tensor(moments.mean[: len(names)]))
        self.register_buffer("scale", torch.where(place, CENTIMETRE, spread))
        flags = [f"{name.rpartition('.')[0]}.present" for name in names]
        owner = [names.index(f) if f in names and f != n else -1 for n, f in zip(names, flags, strict=True)]
        self.register_buffer("present", torch.tensor(owner, dtype=torch.long))
        self.net = mlp(features, width, 2, len(names))

    def forward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b z"]:
        """The columns, in the units of the data."""
        return self.mean + self.scale * self.net(features).float()

    def loss(self, features: Float[Tensor, "*b f"], truth: Float[Tensor, "*b z"]) -> Float[Tensor, "*b"]:
        """Half the squared errors in units of `scale`, summed; where an absent object would be does not count."""
        truth = truth[..., : len(self.mean)]
        there = torch.where(self.present >= 0, truth[..., self.present], 1.0)
        return 0.5 * (there * ((self(features) - truth) / self.scale).square()).sum(-1)
