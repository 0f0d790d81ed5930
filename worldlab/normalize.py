"""Statistics of a data set, and the scaling of states and actions that a model carries inside itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Moments:
    """Per-dimension statistics over the valid rows of a data set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    """1 % quantile."""
    q99: tuple[float, ...]
    """99 % quantile."""

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> "Moments":
        """Exact statistics of n rows."""
        low, high = torch.quantile(x.double(), torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0).tolist()
        return cls(
            tuple(x.double().mean(0).tolist()), tuple(x.double().std(0, correction=0).tolist()), tuple(low), tuple(high)
        )


@dataclass(frozen=True)
class Statistics:
    """What a model must know of its training data to scale its inputs and outputs."""

    state: Moments
    action: Moments
    """Of real actions only: the zero action of each episode's last row is left out."""
    privileged: Moments | None = None


class Standardize(nn.Module):
    """(x - mean) / std and back. The statistics are buffers, so that the weights file is the whole model."""

    mean: Tensor
    std: Tensor

    def __init__(self, moments: Moments, floor: float = 1e-3) -> None:
        """`floor` keeps a dimension that hardly moves from being blown up, in the units of the data."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(moments.mean))
        self.register_buffer("std", torch.tensor(moments.std).clamp(min=floor))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Data units -> zero mean, unit variance."""
        return (x - self.mean) / self.std

    def invert(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The inverse of `forward`."""
        return z * self.std + self.mean


class QuantileScale(nn.Module):
    """Maps [q01, q99] to [-1, 1] and back, unclipped (openpi, OpenVLA's BOUNDS_Q99)."""

    low: Tensor
    high: Tensor

    def __init__(self, moments: Moments, floor: float = 1e-3) -> None:
        """`floor` is the smallest width of [q01, q99], in the units of the data."""
        super().__init__()
        low, high = torch.tensor(moments.q01), torch.tensor(moments.q99)
        missing = (floor - (high - low)).clamp(min=0) / 2
        self.register_buffer("low", low - missing)
        self.register_buffer("high", high + missing)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Data units -> [-1, 1] for the middle 98 % of the data."""
        return 2 * (x - self.low) / (self.high - self.low) - 1

    def invert(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The inverse of `forward`."""
        return (z + 1) / 2 * (self.high - self.low) + self.low
