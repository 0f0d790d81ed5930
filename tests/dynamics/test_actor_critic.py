"""Laws of actors and critics that learn in dreams."""

import pytest
import torch
from torch.distributions import Normal

from worldlab.dynamics.actor_critic import ActorCritic, ActorCriticConfig, Dream, ReturnScale, lambda_returns
from worldlab.seeding import generator


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed, *shape))


def test_lambda_returns_are_the_mixture_of_all_n_step_returns():
    n, h, trace = 3, 6, 0.8
    reward, value, discount = random(n, h), random(n, h + 1, seed=1), random(n, h, seed=2)

    def n_step(i: int, steps: int) -> torch.Tensor:
        """Rewards of so many steps from i on, and then what the critic says."""
        total, weight = torch.zeros(n), torch.ones(n)
        for j in range(i, i + steps):
            total = total + weight * reward[:, j]
            weight = weight * discount[:, j]
        return total + weight * value[:, i + steps]

    got = lambda_returns(reward, value, discount, trace)
    for i in range(h):
        left = h - i
        mixed = sum((1 - trace) * trace ** (k - 1) * n_step(i, k) for k in range(1, left))
        torch.testing.assert_close(got[:, i], mixed + trace ** (left - 1) * n_step(i, left))


def test_lambda_returns_at_both_ends_and_at_an_ending():
    reward, value = random(2, 4), random(2, 5, seed=1)
    one = torch.ones(2, 4)
    torch.testing.assert_close(lambda_returns(reward, value, 0.9 * one, 0.0), reward + 0.9 * value[:, 1:])
    far = lambda_returns(reward, value, one, 1.0)
    torch.testing.assert_close(far[:, 0], reward.sum(1) + value[:, -1])
    ended = one.clone()
    ended[:, 1] = 0
    torch.testing.assert_close(lambda_returns(reward, value, ended, 1.0)[:, 0], reward[:, :2].sum(1))


def test_the_range_of_returns_is_not_below_one_and_not_moved_in_evaluation():
    scale = ReturnScale()
    assert scale(torch.linspace(0, 0.5, 100)) == 1
    for _ in range(1000):
        scale(torch.linspace(0, 200, 1001))
    assert abs(scale.high - 190) < 0.1
    assert abs(scale.low - 10) < 0.1
    before = float(scale(torch.linspace(0, 200, 1001)))
    scale.eval()
    assert float(scale(torch.linspace(0, 1e6, 1001))) == before


class Bandit:
    """A belief is a number that stays as it is; the reward is 1 - (action - belief)²."""

    def features(self, belief):
        return belief

    def advance(self, belief, action, noise):
        return torch.cat([belief[..., :1], action], -1)

    def noise(self, n):
        return torch.zeros(n, 0)

    def reward(self, features):
        return 1 - (features[..., 1] - features[..., 0]).square()

    def endings(self, features):
        return torch.ones_like(features[..., 0]), torch.zeros_like(features[..., 0])


class Shaped(Bandit):
    """Near 0.3 it earns nearly 1 a step, for ever; at 0.3 it earns 1, and ends in success."""

    def reward(self, features):
        return 1 - (features[..., 1] - 0.3).abs()

    def endings(self, features):
        there = ((features[..., 1] - 0.3).abs() < 0.1).float()
        return 1 - there, there


def train(world, config: ActorCriticConfig, steps: int, starts) -> ActorCritic:
    torch.manual_seed(0)
    model = ActorCritic(config, 2, 1)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 3e-3)
    for _ in range(steps):
        with torch.no_grad():
            dream = model.dream(world, starts(), lambda _, move: move)
        optimizer.zero_grad()
        torch.stack(list(model.losses(dream).values())).sum().backward()
        optimizer.step()
    return model.eval()


def test_an_actor_learns_what_pays_and_a_critic_what_it_is_worth():
    config = ActorCriticConfig(units=32, depth=2, horizon=5, discount=0.8, output_scale=1.0)
    model = train(Bandit(), config, 400, lambda: torch.cat([torch.rand(64, 1) * 1.2 - 0.6, torch.zeros(64, 1)], 1))
    here = torch.linspace(-0.5, 0.5, 11)[:, None]
    features = torch.cat([here, here], 1)
    chosen = model.distribution(features)
    assert (chosen.mean - here).abs().mean() < 0.1
    # At best 1 a step for ever, less the variance of the actions.
    worth = (1 - chosen.variance.mean() - (chosen.mean - here).square().mean()) / (1 - config.discount)
    assert abs(model.two_hot.mean(model.critic(features)).mean() - worth) < 0.5


@pytest.mark.parametrize("absorbing", [False, True])
def test_it_pays_to_succeed_if_success_is_absorbing(absorbing):
    config = ActorCriticConfig(
        units=32, depth=2, horizon=5, discount=0.9, output_scale=1.0, absorbing_success=absorbing
    )
    model = train(Shaped(), config, 400, lambda: torch.zeros(64, 2))
    off = model.distribution(torch.zeros(1, 2)).mean.item() - 0.3
    assert (abs(off) < 0.1) == absorbing


def test_what_comes_after_an_ending_does_not_count():
    torch.manual_seed(0)
    model = ActorCritic(ActorCriticConfig(units=8, depth=1), 2, 1).eval()
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    seen, move, reward, goes_on = random(4, 6, 2), random(4, 5, 1), random(4, 5), torch.ones(4, 5)
    goes_on[:, 2] = 0
    other, paid = seen.clone(), reward.clone()
    other[:, 4:], paid[:, 3:] = 9.0, 9.0
    one, two = (
        {name: float(x.detach()) for name, x in model.losses(Dream(f, move, r, goes_on)).items()}
        for f, r in ((seen, reward), (other, paid))
    )
    assert one == two


def test_the_slow_critic_follows_in_training_only():
    model = ActorCritic(ActorCriticConfig(units=8, depth=1, slow_rate=0.25), 2, 1)
    torch.nn.init.ones_(model.critic[-1].bias)
    dream = Dream(random(4, 6, 2), random(4, 5, 1), random(4, 5), torch.ones(4, 5))
    for training, expected in ((False, 0.0), (True, 0.25)):
        model.train(training).losses(dream)
        assert torch.allclose(model.slow[-1].bias, torch.tensor(expected))
    assert not any(p.requires_grad for p in model.slow.parameters())


def test_gradients_of_actor_and_critic_do_not_meet():
    model = ActorCritic(ActorCriticConfig(units=8, depth=1), 2, 1)
    losses = model.losses(Dream(random(4, 6, 2), random(4, 5, 1), random(4, 5), torch.ones(4, 5)))
    losses["actor"].backward()
    assert all(p.grad is None for p in model.critic.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.actor.parameters())


def stirred(**options) -> ActorCritic:
    """An untrained one whose every part says something, and whose slow critic says something else."""
    torch.manual_seed(0)
    model = ActorCritic(ActorCriticConfig(units=8, depth=1, **options), 2, 1).eval()
    for i, p in enumerate(model.parameters()):
        p.data.add_(0.5 * torch.randn(p.shape, generator=generator(i)))
    model.scale.high.fill_(5.0)
    return model


def test_the_losses_are_the_published_ones():
    """Step by step, from DreamerV3's equations: returns, weights, both terms of either loss."""
    model = stirred(entropy=0.1, output_penalty=0.01)
    c, two_hot = model.config, model.two_hot
    seen, move, reward, goes_on = random(3, 5, 2), random(3, 4, 1, seed=1), random(3, 4, seed=2), random(3, 4, seed=3)
    got = model.losses(Dream(seen, move, reward, goes_on))
    critic = actor = torch.zeros(())
    for i in range(3):
        logits = model.critic(seen[i])
        value, slow = two_hot.mean(logits), two_hot.mean(model.slow(seen[i]))
        after, weight = value[4], torch.ones(())
        returns = [torch.zeros(())] * 4
        for t in (3, 2, 1, 0):
            returns[t] = after = reward[i, t] + c.discount * goes_on[i, t] * (
                (1 - c.lam) * value[t + 1] + c.lam * after
            )
        for t in range(4):
            critic = critic + weight * (two_hot.loss(logits[t], returns[t].detach()) + two_hot.loss(logits[t], slow[t]))
            outputs = c.output_scale * model.actor(seen[i, t])
            chosen = Normal(outputs[0].tanh(), c.min_std + (1 - c.min_std) * torch.sigmoid(outputs[1] + 2))
            advantage = (returns[t] - value[t]).detach() / 5
            gain = advantage * chosen.log_prob(move[i, t, 0]) + c.entropy * chosen.entropy()
            actor = actor - weight * (gain - c.output_penalty * outputs.square().sum())
            weight = weight * c.discount * goes_on[i, t]
    torch.testing.assert_close(got["critic"], critic / 12)
    torch.testing.assert_close(got["actor"], actor / 12)
