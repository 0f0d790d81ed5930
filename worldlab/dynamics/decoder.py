"""Draws what the cameras see from a vector that says where everything is."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

CHUNK = 256
"""Frames drawn at once, which bounds the memory of long dreams."""
PATCH = 4
"""Pixels along the side of what one cell of the finest grid draws."""


class FrameDecoder(nn.Module):
    """A small patch decoder per camera, added to a learnt background."""

    def __init__(self, features: int, cameras: dict[str, tuple[int, int]], width: int) -> None:
        """`width` is the number of channels of the grids."""
        super().__init__()
        self.cameras = dict(cameras)
        self.branches = nn.ModuleDict({name: _Branch(features, size, width) for name, size in cameras.items()})

    def forward(self, features: Float[Tensor, "n f"]) -> dict[str, Float[Tensor, "n 3 _ _"]]:
        """Frames of each camera, about 0..1."""
        return {name: self.branches[name](features) for name in self.cameras}

    @torch.no_grad()
    def draw(self, features: Float[Tensor, "*b f"]) -> dict[str, UInt8[Tensor, "*b _ _ 3"]]:
        """Frames of each camera as pictures."""
        drawn: dict[str, list[Tensor]] = {name: [] for name in self.cameras}
        for part in features.flatten(0, -2).split(CHUNK):
            for name, frame in self(part).items():
                drawn[name].append((255 * frame).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        return {name: torch.cat(parts).unflatten(0, features.shape[:-1]) for name, parts in drawn.items()}

    def loss(
        self, features: Float[Tensor, "n f"], images: dict[str, UInt8[Tensor, "n _ _ 3"]], focus: float
    ) -> Float[Tensor, ""]:
        """Squared error per pixel, weighted by how far the pixel is from the batch's mean frame.

        Under the plain mean a gripper of five pixels is worth less than the noise of the background, and is not drawn.
        """
        total = features.new_zeros(())
        for name, frame in self(features).items():
            target = images[name].permute(0, 3, 1, 2).to(features.dtype) / 255
            unusual = (target - target.mean(0)).abs().mean(1, keepdim=True)
            weight = 1 + focus * unusual
            total = total + (weight * (frame - target).square()).mean()
        return total


class _Branch(nn.Module):
    """One camera: a coarse grid, doubled with convolutions up to one cell per patch, and a patch from each cell."""

    def __init__(self, features: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        doublings = max(0, round(math.log2(min(size) / (4 * PATCH))))
        self.size = size
        self.base = [math.ceil(pixels / (PATCH * 2**doublings)) for pixels in size]
        self.grid = nn.Sequential(
            nn.Linear(features, 4 * width), nn.SiLU(), nn.Linear(4 * width, 2 * width * self.base[0] * self.base[1])
        )
        self.up = nn.Sequential(
            *[
                layer
                for i in range(doublings)
                for layer in (nn.SiLU(), nn.ConvTranspose2d(width * (1 if i else 2), width, 4, stride=2, padding=1))
            ]
        )
        self.patch = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width if doublings else 2 * width, 3 * PATCH**2, 1), nn.PixelShuffle(PATCH)
        )
        self.background = nn.Parameter(torch.full((3, *size), 0.5))

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n 3 _ _"]:
        cells = self.grid(features).unflatten(1, (-1, *self.base))
        height, width = self.size
        return self.background + self.patch(self.up(cells))[:, :, :height, :width]
