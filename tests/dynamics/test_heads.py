"""Symlog and two-hot are inverses, and mean what they are given."""

import pytest
import torch

from worldlab.dynamics.heads import BINS, TwoHot, mlp, symexp, symlog

NUMBERS = torch.tensor([-3e5, -12.5, -1.0, -1e-3, 0.0, 1e-4, 0.37, 1.0, 999.0, 4e6])


def test_symexp_undoes_symlog():
    torch.testing.assert_close(symexp(symlog(NUMBERS)), NUMBERS)
    torch.testing.assert_close(symlog(NUMBERS), -symlog(-NUMBERS))


def test_a_two_hot_number_has_itself_as_mean():
    two_hot = TwoHot()
    bins, shares = two_hot.spread(NUMBERS)
    assert (bins[:, 1] == bins[:, 0] + 1).all()
    assert ((shares >= 0) & (shares <= 1)).all()
    weights = torch.zeros(10, BINS).scatter(1, bins, shares)
    torch.testing.assert_close(weights.sum(-1), torch.ones(10))
    torch.testing.assert_close(two_hot.mean(weights.clamp(min=1e-38).log()), NUMBERS, rtol=1e-4, atol=1e-4)


def test_equal_logits_mean_exactly_zero():
    assert TwoHot().mean(torch.zeros(3, BINS)).tolist() == [0, 0, 0]


def test_the_loss_is_least_at_the_truth():
    two_hot = TwoHot()
    logits = torch.zeros(1, BINS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        two_hot.loss(logits, torch.tensor([0.37])).sum().backward()
        optimizer.step()
    assert two_hot.mean(logits).item() == pytest.approx(0.37, abs=5e-2)


def test_a_silent_head_says_zero():
    assert torch.equal(mlp(5, 8, 2, 3, silent=True)(torch.randn(4, 5)), torch.zeros(4, 3))
