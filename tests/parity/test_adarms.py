"""The adaptive norm of the action expert is LeRobot's of pi0.5 on the same weights."""

import torch
from lerobot.policies import pi_gemma

from worldlab.policies.action_expert import Norm, gated


def test_scale_shift_and_gate_are_lerobots():
    torch.manual_seed(0)
    ours, theirs = Norm(16, 1e-6, adaptive=True), pi_gemma.PiGemmaRMSNorm(16, cond_dim=16)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs.dense.load_state_dict(ours.modulation.state_dict())
    x, condition, made = torch.randn(3, 5, 16), torch.randn(3, 16), torch.randn(3, 5, 16)
    normal, gate = ours(x, ours.modulation(condition)[:, None].expand(-1, 5, -1))
    expected, their_gate = theirs(x, condition)
    torch.testing.assert_close(normal, expected)
    torch.testing.assert_close(gated(x, gate, made), pi_gemma._gated_residual(x, made, their_gate))


def test_fresh_it_closes_its_gate():
    x, condition = torch.randn(2, 4, 8), torch.randn(2, 8)
    ours = Norm(8, 1e-6, adaptive=True)
    _, gate = ours(x, ours.modulation(condition)[:, None].expand(-1, 4, -1))
    assert torch.equal(gated(x, gate, torch.randn(2, 4, 8)), x)
