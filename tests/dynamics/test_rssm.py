"""Laws of the recurrent state-space model that are not those of every world model."""

from dataclasses import replace

import pytest
import torch
from contracts.test_world_models import TABLE_SPEC, statistics, table_episodes

from worldlab import dynamics
from worldlab.errors import UsageError
from worldlab.seeding import generator
from worldlab.trajectory import Observation


def make(**options) -> dynamics.RSSM:
    torch.manual_seed(0)
    config = dynamics.RSSMConfig(**{"size": "tiny", **options})
    return dynamics.create(config, TABLE_SPEC, statistics(table_episodes(4, 6))).eval()


SLOTS = {"carry_state": True, "slots": True, "privileged": 1.0}


@pytest.fixture(
    params=[{}, {"carry_state": True, "correct": True}, SLOTS, {"sees": "images"}, {"sees": "state"}], ids=str
)
def model(request):
    return make(**request.param)


@pytest.fixture
def data():
    return table_episodes(4, 6)


def at(data, t: int) -> Observation:
    return data.map(lambda x: x[:, t]).obs


def test_seeing_row_by_row_is_seeing_all_at_once(model, data):
    whole = model.filter(data).belief
    belief = model.begin(at(data, 0))
    for t in range(6):
        torch.testing.assert_close(belief, whole[:, t], rtol=1e-4, atol=1e-5)
        if t < 5:
            belief = model.update(belief, data.action[:, t], at(data, t + 1))
    torch.testing.assert_close(model.observe(data), belief, rtol=1e-4, atol=1e-5)


def test_beliefs_know_nothing_of_the_future(model, data):
    other = table_episodes(4, 6, seed=1)
    mixed = data.map(torch.clone)
    for x, y in zip(
        (*mixed.obs.images.values(), mixed.obs.state), (*other.obs.images.values(), other.obs.state), strict=True
    ):
        x[:, 3:] = y[:, 3:]
    mixed.action[:, 3:] = other.action[:, 3:]
    a, b = model.filter(data), model.filter(mixed)
    torch.testing.assert_close(a.belief[:, :3], b.belief[:, :3])
    assert not torch.equal(a.posterior[:, 3], b.posterior[:, 3])


def test_a_dream_is_drawn_by_its_generator(model, data):
    belief, action = model.observe(data), data.action
    draws = [model.imagine(belief, action, generator(seed))[1] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(model.imagine(belief, action)[1], model.imagine(belief, action)[1])


def test_imagining_is_advancing_and_showing(model, data):
    for i, weight in enumerate(model.reward_head.parameters()):  # silent, it would be right about anything
        weight.data.add_(0.3 * torch.randn(weight.shape, generator=generator(i)))
    belief = start = model.observe(data)
    g = generator(3)
    for t in range(3):
        belief = model.advance(belief, data.action[:, t], model.noise(4, g))
    dream, end = model.imagine(start, data.action[:, :3], generator(3))
    assert torch.equal(end, belief)
    goes_on, succeeded = model.endings(model.features(belief))
    ended, success = model.ending_head(model.features(belief)).sigmoid().unbind(-1)
    torch.testing.assert_close(goes_on, 1 - ended)
    torch.testing.assert_close(succeeded, torch.minimum(ended, success))
    assert dream.reward.abs().min() > 1e-3
    torch.testing.assert_close(dream.reward[:, -1], model.reward(model.features(belief)))
    assert torch.equal(dream.terminated[:, -1], model.endings(model.features(belief))[0] < 0.5)


def test_beliefs_are_rows_that_can_be_picked_and_copied(model, data):
    belief = model.observe(data)
    picked = model.imagine(belief[[2, 2, 0]].clone(), data.action[[2, 2, 0]])[0]
    whole = model.imagine(belief, data.action)[0]
    torch.testing.assert_close(picked.obs.state, whole.obs.state[[2, 2, 0]], rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_actions_through_sampled_latents(data):
    model = make()
    action = data.action[:, :4].clone().requires_grad_()
    belief = model.observe(data)
    for now in action.unbind(1):
        belief = model.advance(belief, now, model.noise(4, generator(0)))
    model.features(belief).square().sum().backward()
    assert (action.grad.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_only_a_simulator_knows_shapes_the_latents_only_if_asked_to(data, weight):
    model = make(privileged=weight, overshooting=2)
    model.losses(data)[0]["privileged"].backward()
    assert model.world_head.net[-1].weight.grad is not None
    assert (model.core.mix.weight.grad is not None) == (weight > 0)


def test_dreams_of_the_body_follow_a_perfect_servo(data):
    # With equal servo and commands, arriving is one step away: the gate can say so exactly.
    model = make(carry_state=True)
    with torch.no_grad():
        model.body.net[-1].bias[2:] = 50.0
    dream, _ = model.imagine(model.observe(data), data.action)
    torch.testing.assert_close(dream.obs.state, data.action, rtol=1e-4, atol=1e-5)


def test_too_short_windows_and_impossible_configs_are_refused(data):
    with pytest.raises(UsageError, match="windows of 9 rows; got 6"):
        make(overshooting=8).loss(data)
    with pytest.raises(UsageError, match="no proprioception to carry"):
        make(carry_state=True, sees="images")
    for options in ({"slots": True}, {**SLOTS, "sees": "state"}, {**SLOTS, "privileged": 0.0}):
        with pytest.raises(UsageError, match="slots need frames"):
            make(**options)
    with pytest.raises(UsageError, match="'side'"):
        make(cameras=("side",))


def test_padding_does_not_move_a_dream_that_ends_before_it(data):
    model = make(carry_state=True, overshooting=2)
    valid = data.valid.clone()
    valid[:, 4:] = False
    torch.manual_seed(0)
    a = model.loss(replace(data, valid=valid))[0]
    junk = data.map(lambda x: torch.cat([x[:, :4], torch.ones_like(x[:, 4:])], 1))
    torch.manual_seed(0)
    assert model.loss(replace(junk, valid=valid))[0] == a
