"""Rotations as networks like them, two axes, and as MuJoCo writes them, quaternions (w, x, y, z)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def axes(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 2 3"]:
    """Where the unit quaternion turns the x and the y axis to: continuous, unlike q itself (Zhou et al. 2019)."""
    w, x, y, z = q.unbind(-1)
    first = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    second = [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)]
    return torch.stack([torch.stack(first, -1), torch.stack(second, -1)], -2)


def quaternion(turned: Float[Tensor, "*b 2 3"]) -> Float[Tensor, "*b 4"]:
    """The inverse of `axes`, up to sign; axes that are not quite orthonormal are made so (Gram and Schmidt)."""
    x = normalize(turned[..., 0, :], dim=-1)
    y = normalize(turned[..., 1, :] - (x * turned[..., 1, :]).sum(-1, keepdim=True) * x, dim=-1)
    z = torch.linalg.cross(x, y)
    # Each row is 4 q q_i for one i; the one with the largest square is the most exact (Shepperd 1978).
    rows = [
        [1 + x[..., 0] + y[..., 1] + z[..., 2], y[..., 2] - z[..., 1], z[..., 0] - x[..., 2], x[..., 1] - y[..., 0]],
        [y[..., 2] - z[..., 1], 1 + x[..., 0] - y[..., 1] - z[..., 2], x[..., 1] + y[..., 0], z[..., 0] + x[..., 2]],
        [z[..., 0] - x[..., 2], x[..., 1] + y[..., 0], 1 - x[..., 0] + y[..., 1] - z[..., 2], y[..., 2] + z[..., 1]],
        [x[..., 1] - y[..., 0], z[..., 0] + x[..., 2], y[..., 2] + z[..., 1], 1 - x[..., 0] - y[..., 1] + z[..., 2]],
    ]
    table = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return normalize(chosen, dim=-1)
