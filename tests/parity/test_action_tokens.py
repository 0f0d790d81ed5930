"""Our bins against OpenVLA's formula, written with NumPy as it is there."""

import numpy as np
import torch

from worldlab.policies.action_tokens import ActionTokenizer


def test_ids_and_decoded_actions_are_those_of_openvla():
    vocabulary = 32000
    action = np.concatenate([np.random.default_rng(0).uniform(-1.3, 1.3, 10_000), np.linspace(-1, 1, 256)])
    action = action.astype(np.float32)
    bins = np.linspace(-1, 1, 256).astype(np.float32)
    centres = (bins[:-1] + bins[1:]) / 2.0
    ids = vocabulary - np.digitize(np.clip(action, -1, 1), bins)
    decoded = centres[np.clip(vocabulary - ids - 1, 0, 254)]

    ours = ActionTokenizer(vocabulary)
    assert ours.first == 31744
    edges_apart = np.abs(action[:, None] - bins).min(1) > 1e-6  # linspace rounds its edges differently in torch
    assert (ours.encode(torch.tensor(action)).numpy() == ids)[edges_apart].all()
    np.testing.assert_allclose(ours.decode(torch.tensor(ids)).numpy(), decoded, atol=1e-6)
    error = ours.decode(ours.encode(torch.tensor(action))).numpy() - np.clip(action, -1, 1)
    assert np.abs(error).max() <= 1 / 255 + 1e-6
