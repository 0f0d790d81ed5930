"""What the simulator says of the future is what happens."""

import pytest
import torch

from worldlab import envs
from worldlab.dynamics import CEM, Planner, Simulator, ToZone
from worldlab.errors import UsageError
from worldlab.eval.counterfactual import counterfactual
from worldlab.players import load
from worldlab.protocols import WorldModel
from worldlab.rollout import rollout
from worldlab.trajectory import Trajectory


class Store(list):
    spec = envs.make("Push", cameras=()).contract


@pytest.fixture(scope="module")
def env():
    return envs.make("Push", 3, cameras=(), threads=1)


@pytest.fixture(scope="module")
def episodes(env) -> Trajectory:
    """The first steps of three disturbed experts, all of them valid."""
    return rollout(env.expert(noise=1.0), env, seed=0, max_steps=12)


@pytest.fixture(scope="module")
def model(env):
    return Simulator(env.spare(2))  # fewer than dreams


def test_dreams_are_what_happened(model, episodes):
    assert isinstance(model, WorldModel)
    dream, end = model.imagine(model.observe(episodes.rows(0, 5)), episodes.action[:, 4:-1])
    for ours, theirs in (
        (dream.obs.state, episodes.obs.state[:, 5:]),
        (dream.privileged, episodes.privileged[:, 5:]),
        (dream.reward, episodes.reward[:, 4:-1]),
        (dream.success, episodes.success[:, 4:-1]),
        (end, episodes.physics[:, -1]),
    ):
        assert torch.equal(ours, theirs)


def test_two_dreams_in_a_row_are_one(model, episodes):
    belief, action = model.observe(episodes.rows(0, 3)), episodes.action[:, 2:-1]
    whole, end = model.imagine(belief, action)
    first, middle = model.imagine(belief, action[:, :4])
    second, last = model.imagine(middle, action[:, 4:])
    assert torch.equal(torch.cat([first.privileged, second.privileged], 1), whole.privileged)
    assert torch.equal(last, end)


def test_the_truth_has_no_effect_error(model, episodes, env):
    store = Store(episodes.episode(i) for i in range(3))
    result = counterfactual(model, store, env, branches=4, horizon=5, starts=3)
    assert set(result["effect_error"].value.values()) == {0.0}


def test_a_perfect_model_that_sees_badly_is_off_by_its_sight_and_by_what_contact_makes_of_it(model, episodes, env):
    store = Store(episodes.episode(i) for i in range(3))
    result = counterfactual(model, store, env, branches=("hold",), horizon=1, starts=64)
    there = [i for i, name in enumerate(store.spec.privileged) if name.endswith(".present")]
    cubes = torch.stack([episode.privileged[0, there] for episode in store])
    share = cubes.sum() / (cubes.sum() + len(cubes))  # the gripper is where it is
    rayleigh = (torch.pi / 2) ** 0.5 * 100 * result.sight
    assert result["state_error_cm_perfect_model"].value[1] == pytest.approx(float(share * rayleigh), rel=0.15)
    assert 0 < result["effect_error_perfect_model"].value[1] < 0.5
    assert result["effect_error"].value[1] == 0


def test_a_planner_that_knows_the_truth_gets_what_it_wants(env):
    planner = Planner(Simulator(env.spare(96)), CEM(horizon=6, candidates=32, iterations=2), ToZone(Store.spec), env)
    done = rollout(planner, env, seed=0, max_steps=6)
    wanted = ToZone(Store.spec)
    before, after = (wanted(done.rows(t, t + 1)) for t in (0, 6))
    assert (after > before + 0.02).all()


def test_only_what_can_be_restored_is_a_model_of_itself(env, episodes):
    with pytest.raises(UsageError, match="was not recorded"):
        Simulator(env.spare(1)).observe(Trajectory(**{**vars(episodes), "physics": None}))
    with pytest.raises(UsageError, match="only the tasks of worldlab"):
        load("plan:simulator", envs.make("dm_control/cartpole-swingup-v0", 1, size=None))
