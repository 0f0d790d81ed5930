"""Laws of scaling and of keyed randomness."""

import torch

from worldlab.normalize import Moments, QuantileScale, Standardize
from worldlab.seeding import generator, key, normal, uniform


def test_scaling_and_back_is_the_identity():
    x = torch.randn(1000, 3) * torch.tensor([0.1, 1.0, 10.0]) + 5
    moments = Moments.of(x)
    for scale in (Standardize(moments), QuantileScale(moments)):
        torch.testing.assert_close(scale.invert(scale(x)), x, rtol=1e-5, atol=1e-5)


def test_standardized_data_is_standard_and_quantiles_span_one():
    x = torch.randn(5000, 2) * 3 + 1
    z = Standardize(Moments.of(x))(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    inside = (QuantileScale(Moments.of(x))(x).abs() <= 1).float().mean(0)
    torch.testing.assert_close(inside, torch.full((2,), 0.98), atol=0.002, rtol=0)


def test_a_constant_dimension_does_not_explode():
    x = torch.ones(10, 1)
    for scale in (Standardize(Moments.of(x)), QuantileScale(Moments.of(x))):
        assert scale(x + 1e-4).abs().max() < 1


def test_noise_depends_on_the_episode_and_the_step_alone():
    batch = normal([3, 4, 5], 7, (2,))
    assert torch.equal(batch[1], normal([4], 7, (2,))[0])
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(normal([4], 8, (2,)), normal([4], 7, (2,)))
    assert torch.equal(uniform([1, 2], 0, (3,))[1:], uniform([2], 0, (3,)))


def test_keys_are_stable_and_ordered():
    assert key(1, 2) == key(1, 2) != key(2, 1)
    assert key(0) == 7896617691693857887
    assert generator(5).initial_seed() == key(5)
