"""What is drawn is where the features say that it is, also where it has never been."""

import torch

from worldlab.dynamics.decoder import FrameDecoder
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
