"""dm_control's suite as a vector environment: the suite's own numbers, seeds, and branching."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from dm_control import suite as dmc

from worldlab.envs import suite
from worldlab.errors import UsageError
from worldlab.protocols import Environment, Restorable
from worldlab.rollout import rollout
from worldlab.seeding import uniform

# Goals in the model (reacher), readings of the step before (quadruped), a terrain, a settled start (cheetah).
TASKS = ["cartpole-swingup", "reacher-easy", "cheetah-run", "quadruped-escape"]


class Random:
    """Actions that depend on the episode's seed and the step alone."""

    def __init__(self, spec):
        self.low, self.high = torch.tensor(spec.low), torch.tensor(spec.high)

    def reset(self, seeds):
        self.seeds, self.step = seeds, 0

    def act(self, obs):
        self.step += 1
        return self.low + (self.high - self.low) * uniform(self.seeds, self.step, (1, len(self.low)))


def play(task, n, seed, steps=8, size=24):
    env = suite.make(f"dm_control/{task}-v0", n, size)
    return env, rollout(Random(env.contract), env, seed, max_steps=steps)


def assert_same(a, b):
    assert torch.equal(a.obs.state, b.obs.state)
    assert torch.equal(a.obs.images["front"], b.obs.images["front"])
    assert torch.equal(a.reward, b.reward)
    assert torch.equal(a.physics, b.physics)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_depends_on_its_seed_alone(task):
    _, together = play(task, 3, seed=4)
    _, alone = play(task, 1, seed=6)
    assert_same(together.episode(2), alone.episode(0))
    assert not torch.equal(together.obs.state[0], together.obs.state[1])
    assert together.obs.images["front"].float().std() > 5


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_row_replays_bit_for_bit_in_any_environment(task):
    env, recorded = play(task, 2, seed=0)
    env.restore(recorded.physics[:, 3].flip(0), recorded.obs.task[::-1])
    for t in range(3, 8):
        assert torch.equal(env.physics.flip(0), recorded.physics[:, t])
        obs, reward, _, _, _ = env.step(recorded.action[:, t].flip(0).numpy())
        assert torch.equal(torch.tensor(obs["state"]).flip(0), recorded.obs.state[:, t + 1])
        assert torch.equal(torch.tensor(obs["images.front"]).flip(0), recorded.obs.images["front"][:, t + 1])
        np.testing.assert_array_equal(reward[::-1].astype(np.float32), recorded.reward[:, t].numpy())


@pytest.mark.parametrize("task", TASKS)
def test_states_and_rewards_are_those_of_dm_control(task):
    _, ours = play(task, 1, seed=7, size=None)
    theirs = dmc.load(*task.split("-"), task_kwargs={"random": 7})
    steps = [theirs.reset(), *(theirs.step(a.numpy()) for a in ours.action[0, :-1])]
    for t, step in enumerate(steps):
        state = np.concatenate([np.ravel(v) for v in step.observation.values()])
        np.testing.assert_array_equal(ours.obs.state[0, t].numpy(), state.astype(np.float32))
        if t:
            assert ours.reward[0, t - 1].item() == np.float32(step.reward)


def test_the_contract_names_what_the_suite_calls_it():
    env = suite.make("dm_control/walker-walk-v0", 2, (32, 48), repeat=2)
    assert isinstance(env, Environment)
    assert isinstance(env, Restorable)
    spec = env.contract
    assert spec.cameras == {"front": (32, 48)}
    assert spec.state[13:16] == ("orientations.13", "height", "velocity.0")
    assert spec.action[0] == "right_hip"
    assert (spec.control, spec.low[0], spec.high[0], spec.fps) == ("raw", -1, 1, 20)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["task"] == ("walker walk",) * 2


def test_every_task_with_a_time_limit_takes_a_thousand_control_steps():
    limits = [dmc.load(d, t)._step_limit for d, t in dmc.BENCHMARKING]
    assert set(limits) == {suite.EPISODE}


def test_repeated_actions_add_up():
    once, twice = suite.make("dm_control/cheetah-run-v0", 1, None), suite.make("dm_control/cheetah-run-v0", 1, None, 2)
    once.reset(seed=0)
    twice.reset(seed=0)
    action = np.full((1, 6), 0.5, np.float32)
    first, second = once.step(action), once.step(action)
    obs, reward, *_ = twice.step(action)
    assert reward == first[1] + second[1]
    np.testing.assert_array_equal(obs["state"], second[0]["state"])


def test_a_row_recorded_at_every_step_is_branched_where_actions_are_held():
    once, thrice = (suite.make("dm_control/cartpole-swingup-v0", 1, None, repeat) for repeat in (1, 3))
    once.reset(seed=0)
    action = np.full((1, 1), 0.7, np.float32)
    for _ in range(998):
        once.step(-action)
    thrice.reset(seed=5)
    thrice.restore(once.physics, ("x",))
    steps = [once.step(action) for _ in range(2)]
    obs, reward, _, truncated, _ = thrice.step(action)
    assert truncated.all()  # after two of three control steps: the limit counts control steps
    np.testing.assert_array_equal(obs["state"], steps[-1][0]["state"])
    assert reward == steps[0][1] + steps[1][1]
    with pytest.raises(UsageError, match="at least 1"):
        suite.make("dm_control/cartpole-swingup-v0", 1, None, 0)


def test_the_time_limit_truncates_and_survives_a_restore():
    env = suite.make("dm_control/pendulum-swingup-v0", 2, None, repeat=100)
    env.reset(seed=0)
    still = np.zeros((2, 1), np.float32)
    for _ in range(9):
        assert not env.step(still)[3].any()
    branch = env.physics
    final, _, terminated, truncated, _ = env.step(still)
    assert truncated.all()
    assert not terminated.any()
    over = env.physics
    obs, reward, _, truncated, _ = env.step(still)
    np.testing.assert_array_equal(obs["state"], final["state"])
    assert truncated.all()
    assert not reward.any()
    for state, first in ((branch, True), (over, False)):
        env.reset(seed=9)
        env.restore(state, ("a", "b"))
        obs, reward, _, truncated, info = env.step(still)
        np.testing.assert_array_equal(obs["state"], final["state"])
        assert truncated.all()
        assert info["task"] == ("a", "b")
        assert first or not reward.any()


def test_full_reward_is_success():
    env = suite.make("dm_control/cartpole-balance_sparse-v0", 1, None)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.zeros((1, 1), np.float32))
    assert reward == 1
    assert info["success"].all()
    assert not terminated.any()


def test_lqr_terminates_when_it_has_converged():
    env = suite.make("dm_control/lqr-lqr_2_1-v0", 1, None)
    env.reset(seed=0)
    at_rest = env.physics
    at_rest[0, 1:5] = 0  # after the time: two positions, two velocities
    env.restore(at_rest, ("rest",))
    _, _, terminated, _, info = env.step(np.zeros((1, 1), np.float32))
    assert terminated.all()
    assert info["success"].all()


def test_two_environments_do_not_spoil_each_others_pictures():
    kept = suite.make("dm_control/cheetah-run-v0", 1, 24)
    before, _ = kept.reset(seed=0)
    with closing(suite.make("dm_control/walker-run-v0", 1, 24)) as other:
        other.reset(seed=0)
    del other
    after, _ = kept.reset(seed=0)
    np.testing.assert_array_equal(before["images.front"], after["images.front"])


def test_wrong_names_and_wrong_states_are_refused():
    with pytest.raises(UsageError, match="Did you mean 'dm_control/cheetah-run-v0'"):
        suite.make("dm_control/cheeta-run-v0")
    env = suite.make("dm_control/pendulum-swingup-v0", 2, None)
    env.reset(seed=0)
    with pytest.raises(UsageError, match="2 environments; given 1 and 2"):
        env.restore(env.physics[:1], ("a", "b"))


def test_an_episode_after_a_branch_has_its_own_instruction():
    env = suite.make("dm_control/cartpole-swingup-v0", 1, None)
    with pytest.raises(gymnasium.error.ResetNeeded):
        _ = env.physics
    env.reset(seed=0)
    env.restore(env.physics, ("something else",))
    assert env.reset(seed=0)[1]["task"] == ("cartpole swingup",)
    with pytest.raises(UsageError, match="reset_mask"):
        env.reset(options={"reset_mask": [True]})
    assert len(env.reset(seed=2**33)[0]["state"]) == 1
