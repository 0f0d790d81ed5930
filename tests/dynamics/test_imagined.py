"""A world model is an environment: the same loop runs in the dream and in the world."""

import torch
from conftest import CountEnv, Ones, PerfectModel

from worldlab.dynamics import ImaginedEnv
from worldlab.protocols import Environment
from worldlab.rollout import rollout


def start(n: int):
    return rollout(Ones(), CountEnv(n), seed=0, max_steps=1).rows(0, 1)


def test_it_is_an_environment():
    assert isinstance(ImaginedEnv(PerfectModel(), start(4)), Environment)


def test_a_perfect_dream_is_the_world():
    real = rollout(Ones(), CountEnv(), seed=0)
    dream = rollout(Ones(), ImaginedEnv(PerfectModel(), start(4)), seed=0)
    assert dream.obs.task == real.obs.task
    assert dream.physics is None
    for a, b in (
        (dream.obs.state, real.obs.state),
        (dream.obs.images["front"], real.obs.images["front"]),
        (dream.action, real.action),
        (dream.reward, real.reward),
        (dream.terminated, real.terminated),
        (dream.success, real.success),
        (dream.valid, real.valid),
        (dream.privileged, real.privileged),
    ):
        torch.testing.assert_close(a, b)


def test_a_dream_goes_on_where_the_context_ended():
    real = rollout(Ones(), CountEnv(), seed=0)
    dream = rollout(Ones(), ImaginedEnv(PerfectModel(), real.rows(0, 3)), seed=0)
    torch.testing.assert_close(dream.obs.state, real.obs.state[:, 2:])


def test_contexts_may_differ_in_length():
    real = rollout(Ones(), CountEnv(), seed=0)
    assert len(set(real.length.tolist())) > 1
    env = ImaginedEnv(PerfectModel(), real)
    obs, info = env.reset(seed=0)
    assert obs["state"][:, 0].tolist() == [5.0] * 4
    assert info["success"].tolist() == [True] * 4


def test_a_finished_dream_stands_still():
    env = ImaginedEnv(PerfectModel(), start(4))
    obs, _ = env.reset(seed=0)
    while not env.step(torch.ones(4, 1).numpy())[2].all():
        pass
    obs, reward, terminated, truncated, info = env.step(torch.ones(4, 1).numpy())
    assert obs["state"][:, 0].tolist() == [5.0] * 4
    assert (obs["images.front"] == 150).all()
    assert reward.tolist() == [0.0] * 4
    assert terminated.all()
    assert not truncated.any()
    assert info["success"].all()
    assert info["privileged"][:, 0].tolist() == [5.0] * 4


def test_a_time_limit_ends_a_dream():
    dream = rollout(Ones(), ImaginedEnv(PerfectModel(), start(4), max_steps=2), seed=0)
    assert dream.length.tolist() == [3] * 4
    assert not dream.terminated.any()


def test_observations_are_in_the_space():
    env = ImaginedEnv(PerfectModel(), start(3))
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert env.observation_space.contains(env.step(torch.ones(3, 1).numpy())[0])
