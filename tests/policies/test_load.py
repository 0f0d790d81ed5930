"""Policies by name."""

import pytest
import torch
from conftest import CountEnv, Ones

from worldlab import policies
from worldlab.errors import UsageError
from worldlab.rollout import rollout
from worldlab.runs import Run
from worldlab.trajectory import Observation


def test_random_is_smooth_seeded_and_inside_the_range():
    policy = policies.load("random", env=CountEnv())
    one, two = rollout(policy, CountEnv(8), seed=0), rollout(policy, CountEnv(8), seed=0)
    assert torch.equal(one.action, two.action)
    assert not torch.equal(one.action[0], one.action[1])
    alone = rollout(policy, CountEnv(1), seed=5).episode(0)
    assert torch.equal(alone.action, one.episode(5).action)
    policy.reset([3])
    obs = Observation({}, torch.zeros(1, 1), ("",))
    path = torch.cat([policy.act(obs)[0] for _ in range(20)])
    assert path.abs().max() <= 1
    assert (path[1:] - path[:-1]).abs().max() <= 2 / policy.period + 1e-6


def test_names_that_need_an_environment_say_so():
    for name in ("random", "expert"):
        with pytest.raises(UsageError, match="env"):
            policies.load(name)
    with pytest.raises(UsageError, match="no scripted expert"):
        policies.load("expert", env=CountEnv())


def test_the_expert_is_the_environments_own():
    class Taught(CountEnv):
        def expert(self, noise=0.0):
            return Ones()

    assert isinstance(policies.load("expert", env=Taught()), Ones)


def test_a_run_of_another_kind_is_named(tmp_path):
    Run.create(tmp_path / "x", {"kind": "state"})
    with pytest.raises(UsageError, match=r"state.*not a policy \(flow"):
        policies.load(tmp_path / "x")
    with pytest.raises(UsageError, match="does not exist"):
        policies.load(tmp_path / "nothing")
