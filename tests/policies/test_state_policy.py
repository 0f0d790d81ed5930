"""The baseline that sees nothing obeys the laws of the others."""

import torch
from policies.synthetic import STATE_ONLY, make_batch, make_policy, make_spec

from worldlab import policies
from worldlab.protocols import Policy, Trainable
from worldlab.runs import Run


def first(batch, n=None):
    obs = batch.obs.map(lambda x: x[:n, 0])
    return type(obs)(obs.images, obs.state, obs.task[:n])


def test_it_is_a_policy_whose_rows_are_independent_and_blind(tmp_path):
    policy, batch = make_policy(STATE_ONLY), make_batch(make_spec())
    assert isinstance(policy, Policy)
    assert isinstance(policy, Trainable)
    policy.reset(range(8))
    together = policy.act(first(batch))
    policy.reset(range(3))
    assert torch.equal(policy.act(first(batch, 3)), together[:3])
    dark = batch.obs.map(lambda x: x[:, 0])
    policy.reset(range(8))
    blind = type(dark)({k: torch.zeros_like(v) for k, v in dark.images.items()}, dark.state, ("",) * 8)
    assert torch.equal(policy.act(blind), together)
    run = Run.create(tmp_path / "run", policy.describe())
    run.save(policy.state_dict())
    loaded = policies.load(run.path)
    loaded.reset(range(8))
    assert torch.equal(loaded.act(first(batch)), together)
    loaded.spec.check(make_spec(cameras=()))


def test_padding_is_inert():
    policy, batch = make_policy(STATE_ONLY), make_batch(make_spec())
    batch.valid[:, 3:] = False
    clean = policy.loss(batch)[0]
    batch.privileged[:, 3:] += 9
    assert policy.loss(batch)[0] == clean
    clean.backward()
    assert all(p.grad is not None for p in policy.parameters())
