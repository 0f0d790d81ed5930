"""Draws what the cameras see from a vector that says where everything is."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

CHUNK = 256
"""Frames drawn at once, which bounds the memory of long dreams."""


class FrameDecoder(nn.Module):
    """A small strided transposed convolution per camera, added to a learnt background."""

    def __init__(self, features: int, cameras: dict[str, tuple[int, int]], width: int) -> None:
        """`width` is the number of channels at half the cameras' resolution; it doubles at every halving."""
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
    """One camera."""

    def __init__(self, features: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.size = size
        doublings = max(1, int(math.log2(min(size) / 4)))
        self.base = [math.ceil(pixels / 2**doublings) for pixels in size]
        channels = [width * 2**i for i in reversed(range(doublings))]
        self.hidden = nn.Sequential(nn.Linear(features, 256), nn.SiLU())
        self.grid = nn.Linear(256, channels[0] * self.base[0] * self.base[1])
        ups: list[nn.Module] = []
        for wide, narrow in zip(channels, [*channels[1:], 3], strict=True):
            ups += [nn.SiLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
        self.up = nn.Sequential(*ups)
        self.background = nn.Parameter(torch.full((3, *size), 0.5))

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n 3 _ _"]:
        grid = self.grid(self.hidden(features)).unflatten(1, (-1, *self.base))
        height, width = self.size
        return self.background + self.up(grid)[:, :, :height, :width]
