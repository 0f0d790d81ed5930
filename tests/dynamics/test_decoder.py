"""What is drawn is where the features say that it is, also where it has never been."""

import pytest
import torch
from torch.nn import functional

from worldlab.dynamics.decoder import PATCH, POINTS, SHARPEST, SPREAD, FrameDecoder
from worldlab.seeding import generator

SIZE = (24, 30)  # no multiple of a patch


def dots(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (n, 2) from -0.8 to 0.8, and pictures of a white dot there, six pixels wide, on grey."""
    place = 1.6 * torch.rand(n, 2, generator=generator(seed)) - 0.8
    pixels = [(torch.arange(side) + 0.5) / side * 2 - 1 for side in SIZE]
    down, across = (
        (pixel - place[:, i, None]) * side / 2 for i, (pixel, side) in enumerate(zip(pixels, SIZE, strict=True))
    )
    inside = (down[:, :, None].square() + across[:, None].square()) < 3**2
    frames = torch.where(inside, 255, 128).to(torch.uint8)
    return place, frames[..., None].expand(*frames.shape, 3)


def test_a_dot_is_drawn_where_it_is():
    torch.manual_seed(0)
    decoder = FrameDecoder(2, {"front": SIZE})
    optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-3)
    for seed in range(120):
        place, frames = dots(32, seed)
        loss = decoder.loss(place, {"front": frames}, 20.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    place, frames = dots(64, 10_000)
    drawn = decoder.draw(place)["front"]
    assert drawn.shape == frames.shape
    off = (drawn.float() - frames.float()).square().mean()
    blank = (128 - frames.float()).square().mean()
    assert off < 0.4 * blank
    weight = (drawn.float().mean(-1) - 150).clamp(min=0) + 1e-6
    for axis, side in ((1, 0), (2, 1)):
        pixel = (torch.arange(SIZE[side]) + 0.5) / SIZE[side] * 2 - 1
        found = (weight.sum(3 - axis) * pixel).sum(1) / weight.sum((1, 2))
        assert (found - place[:, side]).abs().mean() < 1.0 / SIZE[side]  # half a pixel


def test_frames_are_drawn_alone_as_beside_others():
    decoder = FrameDecoder(3, {"front": (16, 12), "wrist": (8, 8)})
    features = torch.randn(5, 3, generator=generator(0))
    whole = decoder(features)
    for name, size in (("front", (16, 12)), ("wrist", (8, 8))):
        assert whole[name].shape == (5, 3, *size)
        torch.testing.assert_close(decoder(features[2:3])[name], whole[name][2:3], rtol=1e-4, atol=1e-5)


def frames_by_the_book(decoder, features):
    """Whole frames, with every point's shades as inputs of each cell."""
    branch = decoder.branches["front"]
    told = branch.place(branch.points(features)).unflatten(1, (POINTS, -1))
    x, y, spread, *shades = told[:, None].unbind(-1)
    spread = SHARPEST + SPREAD * spread.sigmoid()
    across, down = (branch.across[:, None] - x) / spread, (branch.down[:, None] - y) / spread
    bump = (-0.5 * (across[:, None].square() + down[:, :, None].square())).exp()
    heard = [bump, bump * across[:, None], bump * down[:, :, None], *(bump * shade[:, None] for shade in shades)]
    patches = functional.pixel_shuffle(branch.cell(torch.cat(heard, -1)).permute(0, 3, 1, 2), PATCH)
    return branch.background + patches[:, :, : branch.size[0], : branch.size[1]]


@pytest.mark.parametrize("size", [(16, 24), (13, 22)])
@pytest.mark.parametrize("focus", [0.0, 20.0])
def test_the_loss_of_patches_is_that_of_whole_frames(size, focus):
    torch.manual_seed(0)
    decoder = FrameDecoder(9, {"front": size}).double()
    features = torch.randn(5, 9, dtype=torch.float64).requires_grad_()
    image = torch.randint(0, 256, (5, *size, 3), dtype=torch.uint8)
    frames = frames_by_the_book(decoder, features)
    torch.testing.assert_close(decoder(features)["front"], frames)
    target = image.permute(0, 3, 1, 2).double() / 255
    weight = 1 + focus * (target - target.mean(0)).abs().mean(1, keepdim=True)
    wanted = (weight * (frames - target).square()).mean()
    loss = decoder.loss(features, {"front": image}, focus)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)  # a picture is read in single precision
    sources = [features, *decoder.parameters()]
    for ours, theirs in zip(torch.autograd.grad(loss, sources), torch.autograd.grad(wanted, sources), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)
