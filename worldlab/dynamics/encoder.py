"""Reads what the cameras see into a vector, by strided convolutions: no layer works at full resolution."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

STRIDE = 4
"""Pixels between the patches that the first layer reads; each is twice as wide, so that neighbours overlap."""
COARSEST = 4
"""Cells along the shorter side of the last grid."""


class FrameEncoder(nn.Module):
    """One tower per camera: overlapping patches, then grids of half the size and twice the channels."""

    def __init__(self, cameras: dict[str, tuple[int, int]], channels: int) -> None:
        """`channels` of the finest grid."""
        super().__init__()
        self.cameras = dict(cameras)
        self.towers = nn.ModuleDict({name: _tower(size, channels) for name, size in cameras.items()})
        self.width = sum(_width(size, channels) for size in cameras.values())
        """Of the vector."""
        # Channels-last is what oneDNN's convolutions want: three times as fast.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: dict[str, UInt8[Tensor, "n _ _ 3"]]) -> Float[Tensor, "n e"]:
        """All cameras' grids, flat."""
        flat: list[Tensor] = []
        for name in self.cameras:
            frames = images[name].permute(0, 3, 1, 2)  # a view of channels-last memory
            flat.append(self.towers[name](frames.float() / 255 - 0.5).flatten(1))
        return torch.cat(flat, 1)


def _halvings(size: tuple[int, int]) -> int:
    """Layers after the first."""
    return max(0, round(math.log2(min(size) / (STRIDE * COARSEST))))


def _width(size: tuple[int, int], channels: int) -> int:
    """Numbers in the last grid."""
    halvings = _halvings(size)
    return channels * 2**halvings * math.prod(pixels // (STRIDE * 2**halvings) for pixels in size)


def _tower(size: tuple[int, int], channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 2 * STRIDE, STRIDE, padding=STRIDE // 2)]
    for i in range(_halvings(size)):
        layers += [nn.SiLU(), nn.Conv2d(channels * 2**i, channels * 2 ** (i + 1), 4, 2, padding=1)]
    return nn.Sequential(*layers, nn.SiLU())
