"""Unit quaternions (w, x, y, z), MuJoCo's order."""

import torch
from jaxtyping import Float
from torch import Tensor


def multiply(p: Float[Tensor, "*b 4"], q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """The rotation q followed by p."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        -1,
    )


def exponential(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4"]:
    """The rotation about the vector's direction by its length in radians."""
    half = (vector.square().sum(-1, keepdim=True) + 1e-12).sqrt() / 2
    return torch.cat([half.cos(), vector / 2 * (half.sin() / half)], -1)


def matrix(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation matrix; its columns are the turned axes."""
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
