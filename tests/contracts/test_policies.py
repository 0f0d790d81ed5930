"""The laws that every trained policy obeys, whatever its head."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import FUSED, HEADS, make_batch, make_policy, make_spec

from worldlab import policies
from worldlab.errors import UsageError
from worldlab.policies import GroundingConfig
from worldlab.protocols import Policy, Trainable
from worldlab.runs import Run
from worldlab.trajectory import Observation


@pytest.fixture(params=HEADS | FUSED)
def config(request):
    """Every head and every fusion; what is said of all is said of the policy without a camera in tests/policies."""
    return (HEADS | FUSED)[request.param]


@pytest.fixture
def spec():
    return make_spec()


@pytest.fixture
def policy(config, spec):
    return make_policy(config, spec)


def first(batch, n=None):
    obs = batch.obs.map(lambda x: x[:n, 0])
    return Observation(obs.images, obs.state, obs.task[:n])


def loss_of(policy, batch, seed=0):
    torch.manual_seed(seed)
    return policy.loss(batch)[0]


def test_it_fulfils_both_roles(policy):
    assert isinstance(policy, Policy)
    assert isinstance(policy, Trainable)


def test_an_episode_does_not_depend_on_its_company(policy, spec):
    obs = first(make_batch(spec, b=8))
    policy.reset(range(8))
    together = policy.act(obs)
    assert together.shape == (8, policy.config.execute, 6)
    for n in (1, 4):
        part = Observation({k: v[:n] for k, v in obs.images.items()}, obs.state[:n], obs.task[:n])
        policy.reset(range(n))
        assert torch.equal(policy.act(part), together[:n])


def test_the_same_seed_gives_the_same_actions_and_each_step_has_its_own_noise(policy, spec):
    obs = first(make_batch(spec))
    policy.reset(range(8))
    one, two = policy.act(obs), policy.act(obs)
    policy.reset(range(8))
    assert torch.equal(policy.act(obs), one)
    assert torch.equal(policy.act(obs), two)
    if policy.kind in ("flow", "flow-insulated", "diffusion"):
        assert not torch.equal(one, two)


def test_padding_is_inert(policy, spec):
    batch = make_batch(spec)
    batch.valid[:, 3:] = False
    clean = loss_of(policy, batch)
    noise = torch.where(batch.valid[..., None], 0.0, 99.0)
    garbage = replace(batch, action=batch.action + noise, privileged=batch.privileged + noise)
    torch.testing.assert_close(loss_of(policy, garbage), clean, rtol=0, atol=0)


def test_it_imitates_the_expert_up_to_a_disturbance(policy, spec):
    """What the expert answers to a disturbance cannot be foretold from the first observation."""
    batch = make_batch(spec)
    batch.action[:, 1] += 0.3
    disturbed = loss_of(policy, batch)
    batch.action[:, 1] += 0.3
    assert loss_of(policy, batch) == disturbed
    batch.privileged[:, 2:, -6:] += 1
    assert loss_of(policy, batch) == disturbed
    batch.privileged[:, 1, -6:] += 0.1
    assert loss_of(policy, batch) != disturbed


def test_saved_and_loaded_it_acts_the_same(policy, spec, tmp_path):
    run = Run.create(tmp_path / "run", policy.describe())
    run.save(policy.state_dict())
    loaded = policies.load(tmp_path / "run")
    assert loaded.describe() == policy.describe()
    obs = first(make_batch(spec))
    policy.reset(range(8))
    loaded.reset(range(8))
    assert torch.equal(loaded.act(obs), policy.act(obs))
    loaded.spec.check(spec)


def test_it_works_without_labels(config):
    spec = make_spec(labelled=False)
    policy = make_policy(config, spec)
    loss, metrics = policy.loss(make_batch(spec))
    loss.backward()
    assert "pointing" not in metrics


@pytest.mark.parametrize("pace", [None, 1.2])
def test_scaling_is_undone(config, spec, pace):
    policy = make_policy(replace(config, pace=pace), spec)
    action, state = torch.randn(5, 4, 6), torch.randn(5, 6)
    scaled = policy.chunks.scaled(action, state)
    torch.testing.assert_close(policy.chunks.unscaled(scaled, state), action)


def test_only_joint_targets_are_relative_to_the_joints(config, spec):
    for other in (replace(spec, control="raw"), replace(spec, state=tuple(f"{name}?" for name in spec.state))):
        policy = make_policy(config, other)
        action, state = torch.randn(5, 4, 6), torch.randn(5, 6)
        assert torch.equal(policy.chunks.scaled(action, state), policy.chunks.scaled(action, state + 1))


def test_without_grounding_the_instruction_is_never_changed(config, spec):
    blind = make_policy(replace(config, grounding=GroundingConfig(weight=0.0)), spec)
    assert blind.grounding is None
    loss, metrics = blind.loss(make_batch(spec))
    loss.backward()
    assert "pointing" not in metrics


def test_every_weight_learns(policy, spec):
    policy.loss(make_batch(spec))[0].backward()
    assert not [name for name, p in policy.named_parameters() if p.grad is None]


def test_cameras_can_be_chosen(config, spec):
    policy = make_policy(replace(config, cameras=("front",)), spec)
    assert tuple(policy.spec.cameras) == ("front",)
    policy.loss(make_batch(spec))
    with pytest.raises(UsageError, match="no camera 'top'"):
        make_policy(replace(config, cameras=("front", "top")), spec)
    with pytest.raises(UsageError, match="grounding points into"):
        make_policy(replace(config, cameras=("wrist",)), spec)


def test_other_windows_are_refused(policy, spec):
    with pytest.raises(UsageError, match="3 rows and 1 observation"):
        policy.loss(make_batch(spec, t=3))
    batch = make_batch(spec, t=4)
    twice = batch.obs.map(lambda x: x.expand(-1, 2, *x.shape[2:]))
    with pytest.raises(UsageError, match="4 rows and 2 observation"):
        policy.loss(replace(batch, obs=twice))


@pytest.mark.slow
def test_it_overfits_one_batch(policy, spec):
    """The actions it then samples are those of the batch, and its point is on the cube."""
    batch = make_batch(spec, b=8, t=policy.config.chunk)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss, metrics = policy.loss(batch)
        loss.backward()
        optimizer.step()
    assert metrics["pointing_error"] < 0.05
    policy.reset(range(8))
    error = (policy.act(first(batch)) - batch.action[:, : policy.config.execute]).abs().mean()
    assert error < 0.03
