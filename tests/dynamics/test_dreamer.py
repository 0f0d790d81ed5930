"""Laws of Dreamer: what it learns from, and how it acts."""

from dataclasses import replace

import pytest
import torch
from contracts.test_world_models import TABLE_SPEC, statistics, table_episodes

from worldlab import dynamics
from worldlab.dynamics import dreamer
from worldlab.dynamics.actor_critic import ActorCriticConfig
from worldlab.runs import Run
from worldlab.seeding import generator

BEHAVIOUR = ActorCriticConfig(units=16, depth=1, horizon=4, starts=6, output_scale=1.0)


def make(spec=TABLE_SPEC, repeat: int = 1, **world) -> dynamics.Dreamer:
    torch.manual_seed(0)
    config = dynamics.DreamerConfig(
        world=dynamics.RSSMConfig(**{"size": "tiny", **world}), behaviour=BEHAVIOUR, repeat=repeat
    )
    model = dynamics.create(config, spec, statistics(table_episodes(4, 6)))
    # Silent heads would say nothing: the same of everything.
    for i, weight in enumerate([*model.behaviour.parameters(), *model.world.reward_head.parameters()]):
        weight.data.add_(0.3 * torch.randn(weight.shape, generator=generator(i)))
    model.world.ending_head[-1].bias.data.sub_(2)
    return model.eval()


@pytest.fixture(params=[{}, {"carry_state": True}, {"sees": "state"}], ids=str)
def model(request):
    return make(**request.param)


@pytest.fixture
def data():
    return table_episodes(4, 6)


def act(model, data, seeds, steps: int = 4) -> torch.Tensor:
    model.reset(seeds)
    return torch.stack([model.act(data.map(lambda x, t=t: x[: len(seeds), t]).obs)[:, 0] for t in range(steps)], 1)


def test_a_dream_is_the_actor_in_an_imagined_environment(model, data):
    env = dynamics.ImaginedEnv(model.world, data)
    env.reset(seed=0)
    start = env._belief
    torch.manual_seed(5)
    with torch.no_grad():
        dream = model.behaviour.dream(model.world, start, model.action)
    # The same steps, one by one through the environment, whose model draws as torch does.
    torch.manual_seed(5)
    env.model = Drawing(model.world)
    alive = torch.ones(4, dtype=torch.bool)
    for t in range(BEHAVIOUR.horizon):
        belief = env._belief
        move = model.behaviour.distribution(model.world.features(belief)).sample()
        torch.testing.assert_close(move, dream.move[:, t])
        action = model.action(belief, move.clamp(-1, 1))
        _, reward, ended, _, _ = env.step(action.detach().numpy())
        assert abs(reward[alive]).min() > 1e-3
        torch.testing.assert_close(torch.from_numpy(reward)[alive], dream.reward[:, t][alive], check_dtype=False)
        alive &= ~torch.from_numpy(ended)
        torch.testing.assert_close(alive, (dream.goes_on[:, : t + 1] >= 0.5).all(1))
        torch.testing.assert_close(model.world.features(env._belief), dream.features[:, t + 1])


class Drawing:
    """A world model that draws from torch's own generator, whatever it is given."""

    def __init__(self, world) -> None:
        self.world, self.spec = world, world.spec

    def imagine(self, belief, action, generator):
        return self.world.imagine(belief, action, torch.default_generator)


def test_acting_sees_what_filtering_sees(data, monkeypatch):
    model = make(carry_state=True, sees="state")
    # Latents that are all but certain, and draws from the middle: what is drawn is what is likeliest.
    monkeypatch.setattr(dreamer, "uniform", lambda seeds, step, shape: torch.full((len(seeds), *shape), 0.5))
    with torch.no_grad():
        model.world.core.posterior_net.bias.copy_(100 * torch.randn(64, generator=generator(0)))
    watched = replace(data, action=torch.cat([act(model, data, (0, 1, 2, 3)), torch.zeros(4, 2, 2)], 1))
    belief = model.world.filter(watched.rows(0, 4)).belief
    torch.testing.assert_close(model._belief, belief[:, -1], rtol=1e-4, atol=1e-5)


def test_exploring_is_keyed_by_episode_and_step(model, data):
    model.explore = True
    whole = act(model, data, (5, 6, 7, 8))
    assert torch.equal(whole, act(model, data, (5, 6, 7, 8)))
    assert torch.equal(act(model, data, (5, 6)), whole[:2])
    other = act(model, data, (5, 9, 7, 8))
    assert not torch.allclose(other[1], whole[1])
    assert torch.equal(other[[0, 2, 3]], whole[[0, 2, 3]])
    model.explore = False
    assert not torch.allclose(act(model, data, (5, 6, 7, 8)), whole)


def test_actions_are_allowed_and_held(data):
    low, high = torch.tensor([-0.1, 0.0]), torch.tensor([0.1, 0.5])
    free = replace(TABLE_SPEC, low=(-0.1, 0.0), high=(0.1, 0.5), control="raw")
    for model in (make(free, repeat=2), make(free, repeat=2, carry_state=True)):
        model.explore = True
        model.reset((0, 1, 2, 3))
        chunk = model.act(data.map(lambda x: x[:, 0]).obs)
        assert chunk.shape == (4, 2, 2)
        assert torch.equal(chunk[:, 0], chunk[:, 1])
        assert ((chunk >= low) & (chunk <= high)).all()
        assert model.spec.fps == 10
        assert model.world.spec.fps == 5


@pytest.mark.parametrize("world", [{}, {"slots": True, "privileged": 1.0, "correct": True}], ids=str)
def test_joint_targets_are_near_the_joints(data, world):
    model = make(carry_state=True, **world)
    model.explore = True
    first = act(model, data, (0, 1, 2, 3), 1)[:, 0]
    assert ((first - data.obs.state[:, 0]).abs() <= 0.12 + 1e-6).all()


def test_the_three_losses_train_three_networks(data):
    model = make(sees="state").train()
    loss, told = model.loss(data)
    assert {"reward", "dynamics", "actor", "critic"} <= told.keys()
    loss.backward()
    parts = (model.world.core.mix, model.behaviour.actor[0][0], model.behaviour.critic[0][0])
    assert all(part.weight.grad.abs().sum() > 0 for part in parts)
    world = {name: p.grad.clone() for name, p in model.world.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(0)
    draws = torch.get_rng_state()
    model.loss(data)[0].backward()
    with_behaviour = {name: p.grad.clone() for name, p in model.world.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.set_rng_state(draws)
    model.world.loss(data)[0].backward()
    assert world.keys() == with_behaviour.keys()
    for name, p in model.world.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, with_behaviour[name]), name


def test_dreams_do_not_begin_after_an_ending(data, monkeypatch):
    model = make(sees="state")
    began = []
    monkeypatch.setattr(model.behaviour, "dream", lambda world, start, action: (began.append(len(start)), 1 / 0))
    model.config = replace(model.config, behaviour=replace(BEHAVIOUR, starts=1000))
    with pytest.raises(ZeroDivisionError):
        model.loss(data)
    assert began == [4 * 5]  # six rows, of which the last comes after the end


def test_a_run_gives_back_the_policy_and_the_world_it_dreams_in(model, data, tmp_path):
    run = Run.create(tmp_path / "run", model.describe())
    run.save(model.state_dict())
    loaded = dynamics.load_dreamer(tmp_path / "run")
    assert torch.equal(act(loaded, data, (0, 1)), act(model, data, (0, 1)))
    world = dynamics.load(tmp_path / "run")
    a, b = (w.imagine(w.observe(data), data.action)[0] for w in (world, model.world))
    assert torch.equal(a.reward, b.reward)
