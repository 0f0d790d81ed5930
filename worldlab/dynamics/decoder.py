"""Draws what the cameras see from a vector that says where everything is."""

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 256
"""Frames drawn at once, which bounds the memory of long dreams."""
PATCH = 4
"""Pixels along the side of what one cell of the grid draws."""
WIDTH = 64
"""Of the layers that draw a patch, which are most of the cost."""
POINTS = 32
"""Of each camera."""
SHADES = 2
"""Numbers that a point tells the cells beside where it is."""
SHARPEST = 0.08
"""The smallest standard deviation of a point, where a picture is 2 wide."""
SPREAD = 0.25
"""How much larger it may be."""


class FrameDecoder(nn.Module):
    """A small decoder per camera, added to a learnt background."""

    def __init__(self, features: int, cameras: dict[str, tuple[int, int]]) -> None:
        """`features` is the width of what frames are drawn from."""
        super().__init__()
        self.cameras = dict(cameras)
        self.branches = nn.ModuleDict({name: _Branch(features, size) for name, size in cameras.items()})

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
        self, features: Float[Tensor, "n f"], images: dict[str, UInt8[Tensor, "n _ _ 3"]], foreground_weight: float
    ) -> Float[Tensor, ""]:
        """Squared error per pixel, weighted by how far the pixel is from the batch's mean frame.

        Under the plain mean a gripper of five pixels is worth less than the noise of the background, and is not drawn.
        """
        total = features.new_zeros(())
        for name in self.cameras:
            branch: _Branch = self.branches[name]  # pyright: ignore[reportAssignmentType]
            total = total + branch.error(features, images[name], foreground_weight)
        return total


class _Branch(nn.Module):
    """One camera: soft points whose places are computed from what is to be drawn, and a patch from each cell of a grid.

    The inverse of the encoder's spatial softmax (Jakab et al. 2018, "Unsupervised Learning of Object Landmarks through
    Conditional Image Generation"). A cell knows of each point how near it is and where it lies from there, so what
    moves is drawn by moving a point; a decoder that must switch pixels on and off instead draws smears for long.
    """

    across: Tensor
    down: Tensor

    def __init__(self, features: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        rows, columns = (math.ceil(pixels / PATCH) for pixels in size)
        self.register_buffer("down", _centres(rows), persistent=False)
        self.register_buffer("across", _centres(columns), persistent=False)
        self.points = nn.Sequential(
            nn.Linear(features, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, 4 * WIDTH), nn.SiLU()
        )
        self.place = nn.Linear(4 * WIDTH, POINTS * (3 + SHADES))
        with torch.no_grad():  # all over the picture, and small
            self.place.bias.view(POINTS, -1)[:, :2].uniform_(-1, 1)
            self.place.bias.view(POINTS, -1)[:, 2] = -1
        self.cell = nn.Sequential(
            nn.Linear(POINTS * (3 + SHADES), WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, 3 * PATCH**2),
        )
        self.background = nn.Parameter(torch.full((3, *size), 0.5))

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n 3 _ _"]:
        height, width = self.size
        patches = functional.pixel_shuffle(self.patches(features).permute(0, 3, 1, 2), PATCH)
        return self.background + patches[:, :, :height, :width]

    def error(
        self, features: Float[Tensor, "n f"], images: UInt8[Tensor, "n _ _ 3"], foreground_weight: float
    ) -> Float[Tensor, ""]:
        """`FrameDecoder.loss` of this camera, patch by patch: frames are never put together."""
        target = self._cells(images.permute(0, 3, 1, 2)) / 255
        off = (self.patches(features) + self._cells(self.background[None])) - target
        weight: Tensor | None = None
        if foreground_weight:
            colours = (target - target.mean(0)).abs_().unflatten(-1, (3, -1))
            weight = 1 + foreground_weight * colours.mean(-2, keepdim=True).expand_as(colours).flatten(-2)
        if any(pixels % PATCH for pixels in self.size):
            inside = self._cells(images.new_ones(1, 3, *self.size)).float()
            weight = inside if weight is None else weight * inside
        # The value of the sum of weighted squares and its gradient, in two passes instead of seven.
        weighted = (off if weight is None else weight * off).detach()
        half = torch.dot(off.flatten(), weighted.flatten())
        return (2 * half - half.detach()) / images.numel()

    def _cells(self, pictures: Shaped[Tensor, "n 3 h w"]) -> Shaped[Tensor, "n r c p"]:
        """Pictures as the cells of the grid, which may reach beyond them."""
        bottom, right = (-pixels % PATCH for pixels in self.size)
        whole = functional.pad(pictures, (0, right, 0, bottom)) if bottom or right else pictures
        return functional.pixel_unshuffle(whole, PATCH).permute(0, 2, 3, 1).contiguous()

    def patches(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n r c p"]:
        """What each cell of the grid adds to the background, as `pixel_unshuffle` orders pixels."""
        told = self.place(self.points(features)).unflatten(1, (POINTS, -1))
        x, y, spread = told[:, None, :, :3].unbind(-1)
        spread = SHARPEST + SPREAD * spread.sigmoid()
        across, down = (self.across[:, None] - x) / spread, (self.down[:, None] - y) / spread
        # A round bump is the product of one across and one down: exponentials of rows and columns, not of cells.
        column, row = (-0.5 * across.square()).exp(), (-0.5 * down.square()).exp()
        # In the precision of the layer that reads them, or most of the time goes into converting their product.
        columns = torch.cat([column, column * across, column], -1).to(told.dtype)
        rows = torch.cat([row, row, row * down], -1).to(told.dtype)
        bumps = (rows[:, :, None] * columns[:, None]).flatten(1, 2)
        # A shade is the same in all cells: it scales the point's weights instead of becoming inputs of every cell.
        heed = self.cell[0]
        assert isinstance(heed, nn.Linear)
        near, right, below, *shades = heed.weight.unflatten(1, (-1, POINTS)).transpose(0, 2).unbind(1)
        near = near + torch.einsum("nps,spw->npw", told[..., 3:], torch.stack(shades))
        fixed = torch.cat([right, below]).expand(len(near), -1, -1)
        heard = torch.baddbmm(heed.bias, bumps, torch.cat([near, fixed], 1).to(bumps.dtype))
        return self.cell[1:](heard.unflatten(1, (rows.shape[1], -1)))


def _centres(cells: int) -> Float[Tensor, " cells"]:
    """Where the cells of an axis are, from -1 to 1."""
    return (torch.arange(cells) + 0.5) / cells * 2 - 1
