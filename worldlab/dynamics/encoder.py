"""Reads what the cameras see into a vector that says where things are."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from worldlab.dynamics.heads import precision

PATCH = 4
"""Pixels along the side of the squares that the first layer reads, nine at a time."""
SHARP = 16.0
"""How much larger than usual the weights of the maps begin: under a flat softmax, everything is in the middle."""
SPREAD = 4.0
"""Scales places and amounts to about unit variance."""


class FrameEncoder(nn.Module):
    """A patch stem and a spatial softmax per camera (Finn et al. 2016, "Deep Spatial Autoencoders").

    Each map of a coarse grid says where something is, as the mean place under its softmax, and how much of it there is.
    No layer works at full resolution.
    """

    def __init__(self, cameras: dict[str, tuple[int, int]], channels: int) -> None:
        """`channels` of the stem; there are twice as many maps."""
        super().__init__()
        self.cameras = dict(cameras)
        self.towers = nn.ModuleDict({name: _Tower(channels, 2 * channels) for name in cameras})
        self.width = 6 * channels * len(cameras)
        """Of the vector."""

    def forward(self, images: dict[str, UInt8[Tensor, "n _ _ 3"]]) -> Float[Tensor, "n e"]:
        """Place and amount of every map of every camera."""
        return torch.cat([self.towers[name](images[name]) for name in self.cameras], 1)


class _Tower(nn.Module):
    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 * PATCH**2, channels, 3, padding=1)
        self.maps = nn.Conv2d(channels, maps, 3, padding=1)
        with torch.no_grad():
            self.maps.weight.mul_(SHARP)
        # Channels-last is what oneDNN's convolutions want: three times as fast.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, frames: UInt8[Tensor, "n _ _ 3"]) -> Float[Tensor, "n e"]:
        maps = self.maps(functional.silu(self.stem(_patches(frames, precision(self.stem.weight))))).permute(0, 2, 3, 1)
        height, width = maps.shape[1:3]
        flat = maps.flatten(1, 2).float()
        highest = flat.amax(1, keepdim=True).detach()
        down, across = (torch.linspace(-1, 1, n, device=flat.device) for n in (height, width))
        moments = torch.stack(
            [torch.ones(height * width, device=flat.device), down.repeat_interleave(width), across.repeat(height)]
        )
        amount, *place = (moments @ (flat - highest).exp()).unbind(1)
        amount_log = amount.log() + highest[:, 0]
        return torch.cat([*(SPREAD * where / amount for where in place), amount_log / SPREAD], 1)


def _patches(frames: UInt8[Tensor, "n h w 3"], dtype: torch.dtype) -> Float[Tensor, "n c _ _"]:
    """Squares of `PATCH` pixels as the channels of a coarse grid, about -0.5..0.5; a rest at the rim is cut off."""
    height, width = (PATCH * (n // PATCH) for n in frames.shape[1:3])
    grid = frames[:, :height, :width].unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).transpose(2, 3).flatten(3)
    return (grid.to(dtype) / 255 - 0.5).permute(0, 3, 1, 2)
