"""The recurrence against plain mathematics and against PyTorch's own distributions."""

import torch
from torch.distributions import Categorical, kl_divergence

from worldlab.dynamics.latents import UNIMIX, divergence, sample
from worldlab.dynamics.recurrence import SIZES, BlockLinear, Recurrence
from worldlab.seeding import generator

SIZE = SIZES["tiny"]


def recurrence() -> Recurrence:
    torch.manual_seed(0)
    return Recurrence(5, 7, SIZE)


def test_a_block_layer_is_a_dense_layer_with_a_block_diagonal_matrix():
    layer = BlockLinear(24, 12, 4)
    x = torch.randn(3, 24)
    torch.nn.init.normal_(layer.bias)
    dense = x @ torch.block_diag(*layer.weight) + layer.bias.flatten()
    torch.testing.assert_close(layer(x).transpose(0, 1).flatten(1), dense)


def test_the_cell_is_a_gated_mean_of_the_old_state_and_a_bounded_candidate():
    core = recurrence()
    deter, stoch = torch.zeros(6, SIZE.deter), torch.zeros(6, SIZE.stoch * SIZE.classes)
    new = core.advance(deter, stoch, core.push(torch.randn(6, 5)))
    assert (new.abs() < 1).all()
    with torch.no_grad():
        core.gates.bias[..., -SIZE.deter // SIZE.blocks :] = -60.0  # the update gate shut
    old = torch.randn(6, SIZE.deter)
    torch.testing.assert_close(core.advance(old, stoch, core.push(torch.randn(6, 5))), old)


def test_every_class_keeps_its_share_of_the_uniform_distribution():
    core = recurrence()
    p = core.prior(100 * torch.randn(8, SIZE.deter))
    torch.testing.assert_close(p.sum(-1), torch.ones(8, SIZE.stoch))
    assert p.min() >= 0.99 * UNIMIX / SIZE.classes


def test_divergence_is_that_of_pytorch():
    p, q = torch.randn(2, 3, 8, 8).softmax(-1)
    expected = kl_divergence(Categorical(p), Categorical(q)).sum(-1)
    torch.testing.assert_close(divergence(p, q), expected)


def test_samples_are_one_hot_with_the_right_frequencies_and_straight_through_gradients():
    assert sample(torch.tensor([[0.5, 0.4]]), torch.tensor([1.0])).tolist() == [0, 1]  # rounded below 1
    p = torch.randn(1, 2, 4, generator=generator(0)).softmax(-1).requires_grad_()
    drawn = sample(p.expand(20000, -1, -1), torch.rand(20000, 2, generator=generator(1)))
    assert torch.equal(drawn.detach().unflatten(-1, (2, 4)).sum(-1).round(), torch.ones(20000, 2))
    torch.testing.assert_close(drawn.detach().mean(0).unflatten(-1, (2, 4)), p[0], atol=0.015, rtol=0)
    weight = torch.randn(8)
    (sample(p) * weight).sum().backward()
    torch.testing.assert_close(p.grad.flatten(), weight)
