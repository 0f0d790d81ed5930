"""Laws of the one loop."""

import pytest
import torch
from conftest import CountEnv

from worldlab.errors import UsageError
from worldlab.rollout import rollout


def test_an_episode_of_n_actions_has_n_plus_one_rows(env, policy):
    t = rollout(policy, env, seed=0)
    start = t.obs.state[:, 0, 0]
    assert t.length.tolist() == [int(5 - s) + 1 for s in start]
    for i in range(env.num_envs):
        episode = t.episode(i)
        n = len(episode.valid) - 1
        torch.testing.assert_close(episode.obs.state[:, 0], start[i] + torch.arange(n + 1.0))
        torch.testing.assert_close(episode.reward[:-1], episode.obs.state[1:, 0])
        assert episode.terminated.tolist() == [False] * (n - 1) + [True, False]
        assert episode.action[-1].item() == 0
        assert episode.reward[-1].item() == 0


def test_an_episode_does_not_depend_on_how_many_run_beside_it(policy):
    together = rollout(policy, CountEnv(6), seed=3)
    for i in range(6):
        alone = rollout(policy, CountEnv(1), seed=3 + i).episode(0)
        beside = together.episode(i)
        assert torch.equal(alone.obs.state, beside.obs.state)
        assert torch.equal(alone.obs.images["front"], beside.obs.images["front"])
        assert torch.equal(alone.physics, beside.physics)
        assert alone.obs.task == beside.obs.task


def test_max_steps_cuts_off(env, policy):
    t = rollout(policy, env, seed=0, max_steps=2)
    assert t.valid.shape[1] == 3


def test_a_policy_of_another_width_is_refused(env):
    class Wide:
        def reset(self, seeds): ...
        def act(self, obs):
            return torch.ones(4, 1, 2)

    with pytest.raises(UsageError, match="shape"):
        rollout(Wide(), env, seed=0)
