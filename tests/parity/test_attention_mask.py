"""Our block mask against LeRobot's (which is openpi's)."""

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks

from worldlab.policies.attention import block_causal, positions


def test_blocks_see_what_they_see_in_pi0():
    # four tokens of images and text with padding, a state token, three actions
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    starts = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0]] * 2)
    block = starts[0].cumsum(0)
    theirs = make_att_2d_masks(valid, starts)
    ours = block_causal(block, block, valid)
    # what padding itself sees is of no consequence: nobody sees padding
    assert torch.equal(ours[valid], theirs[valid])
    assert torch.equal(positions(valid)[valid], (valid.cumsum(1) - 1)[valid])
