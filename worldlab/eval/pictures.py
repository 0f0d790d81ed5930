"""How near drawn frames are to seen ones, where something moves."""

from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

CHANGED = 12
"""Levels of 255 by which a pixel must differ, in some channel, from the first frame to have moved."""
WINDOW = 7
"""Pixels along the side of SSIM's window."""


def moving(frames: UInt8[Tensor, "k t h w 3"], first: UInt8[Tensor, "h w 3"]) -> Bool[Tensor, "h w"]:
    """The pixels that change at any time in any branch: what no prediction can be praised for is left out."""
    return ((frames.int() - first.int()).abs() > CHANGED).any(-1).any(0).any(0)


def squared_error(
    said: UInt8[Tensor, "*b h w 3"], truth: UInt8[Tensor, "*b h w 3"], where: Bool[Tensor, "h w"]
) -> Float[Tensor, "*b"]:
    """Sum over the pixels of the mask of the mean squared error of their channels, 0..1 squared."""
    return (((said.float() - truth.float()) / 255).square().mean(-1) * where).sum((-1, -2))


def similarity(
    said: UInt8[Tensor, "*b h w 3"], truth: UInt8[Tensor, "*b h w 3"], where: Bool[Tensor, "h w"]
) -> Float[Tensor, "*b"]:
    """Sum over the pixels of the mask of the structural similarity (Wang et al. 2004; uniform window, as scikit-image).

    Windows are cut off at the edges of the frame.
    """
    lead, size = said.shape[:-3], said.shape[-3:-1]
    x, y = (f.float().reshape(-1, *size, 3).permute(0, 3, 1, 2) for f in (said, truth))

    def mean(f: Tensor) -> Tensor:
        return avg_pool2d(f, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = (mean(a * b) - mean(a) * mean(b) for a, b in ((x, x), (y, y), (x, y)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return (ssim.mean(1) * where).sum((-1, -2)).reshape(lead)
