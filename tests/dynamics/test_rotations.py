"""Rotations against SciPy's."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from worldlab.dynamics.rotations import axes, quaternion


def some(n: int = 200) -> tuple[Rotation, torch.Tensor]:
    r = Rotation.random(n, random_state=0)
    return r, torch.tensor(r.as_quat(scalar_first=True))


def test_axes_are_columns_of_the_rotation_matrix():
    r, q = some()
    np.testing.assert_allclose(axes(q).numpy(), r.as_matrix()[:, :, :2].transpose(0, 2, 1), atol=1e-12)


def test_there_and_back():
    _, q = some()
    half_turns = torch.eye(4, dtype=torch.float64)
    for p in (q, half_turns):
        back = quaternion(axes(p))
        torch.testing.assert_close(back * (back * p).sum(-1, keepdim=True).sign(), p)


def test_axes_need_not_be_orthonormal():
    _, q = some()
    back = quaternion(2.5 * axes(q))
    torch.testing.assert_close((back * q).sum(-1).abs(), torch.ones(len(q), dtype=torch.float64))
