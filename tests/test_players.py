"""Planners are policies by name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones
from contracts.test_world_models import statistics
from policies.synthetic import HEADS, STATE_ONLY, make_policy

from worldlab import datasets, dynamics, envs, players
from worldlab.errors import UsageError
from worldlab.policies import RandomPolicy
from worldlab.rollout import observation, rollout
from worldlab.runs import Run


class Seen(CountEnv):
    """Can be looked at."""

    def observe(self):
        return self._obs(), self._info()


@pytest.fixture
def run(tmp_path):
    data = rollout(Ones(), CountEnv(), seed=0, max_steps=3)
    torch.manual_seed(0)
    model = dynamics.create(dynamics.StateModelConfig(width=16), COUNT_SPEC, statistics(data))
    run = Run.create(tmp_path / "model", model.describe())
    run.save(model.state_dict())
    return run.path


def test_a_planner_is_named_by_its_run(run):
    env = Seen()
    planner = players.load(f"plan:{run}", env)
    assert isinstance(planner, dynamics.Planner)
    assert isinstance(planner.search, dynamics.CEM)
    assert isinstance(players.load(f"plan.mppi:{run}", env).search, dynamics.MPPI)
    assert rollout(planner, env, seed=0, max_steps=2).action.shape == (4, 3, 1)


def test_other_names_are_those_of_policies():
    assert isinstance(players.load("random", CountEnv()), RandomPolicy)


def test_what_cannot_be_planned_is_refused(run):
    with pytest.raises(UsageError, match=r"unknown way to plan 'mpi'\. Did you mean 'mppi'"):
        players.load(f"plan.mpi:{run}", CountEnv())
    with pytest.raises(UsageError, match="gripper, objects and a zone"):
        players.load(f"plan.zone:{run}", CountEnv())
    with pytest.raises(UsageError, match="no run at 'nowhere'"):
        players.load("plan:nowhere", CountEnv())
    with pytest.raises(UsageError, match="privileged state"):  # nobody tells the model what it must know
        rollout(players.load(f"plan:{run}", CountEnv()), CountEnv(), seed=0, max_steps=1)


def test_results_are_kept_with_the_run():
    assert players.run_folder("plan.mppi:runs/x") == (Path("runs/x"), "plan.mppi")
    assert players.run_folder("lerobot:out") == (Path("out"), "")
    assert players.run_folder("runs/x") == (Path("runs/x"), "")


def test_who_looks_at_nothing_is_drawn_nothing(tmp_path):
    policy = make_policy(STATE_ONLY)
    run = Run.create(tmp_path / "blind", policy.describe())
    assert players.image_size(str(run.path)) is None
    run = Run.create(tmp_path / "seeing", make_policy(HEADS["flow"]).describe())
    assert players.image_size(str(run.path)) == (32, 32)


def test_what_was_recorded_is_done_again_from_the_same_starts(tmp_path):
    wave = rollout(RandomPolicy(COUNT_SPEC), CountEnv(), seed=20, max_steps=5)
    with datasets.EpisodeStore.create(str(tmp_path / "x.zarr"), COUNT_SPEC, {}) as store:
        store.append(wave, [20, 21, 22, 23])
    name = f"recorded:{tmp_path}/x.zarr"
    again = rollout(players.load(name, CountEnv(2)), CountEnv(2), seed=21, max_steps=5)
    assert torch.equal(again.action, wave.action[1:3])
    assert torch.equal(again.reward, wave.reward[1:3])
    assert players.image_size(name) is None
    assert players.run_folder(name) == (tmp_path, "recorded.x")
    assert (players.num_envs_for(name, 3, 4), players.num_envs_for("random", 3, 4)) == (2, 3)  # all waves are full
    recorded = players.load(name, CountEnv(2))
    recorded.reset([22, 23])  # once all is done the last action is held
    seen = observation(CountEnv(2).reset(seed=22)[0], ("", ""))
    whole = recorded.act(seen)
    assert torch.equal(recorded.act(seen), whole[:, -1:])
    with pytest.raises(UsageError, match="no episode of seed 24; it holds 4, from seed 20 to 23"):
        rollout(players.load(name, CountEnv()), CountEnv(), seed=21)


def test_a_model_of_two_control_steps_plans_every_second(tmp_path):
    env = envs.make("dm_control/pendulum-swingup-v0", n=2, size=None)
    small = dynamics.RSSMConfig(size="tiny", sees="state", carry_state=True)
    data = rollout(RandomPolicy(env.contract), env, seed=0, max_steps=3)
    known = statistics(replace(data, privileged=torch.zeros(2, 4, 1)))
    model = dynamics.create(dynamics.DreamerConfig(world=small, repeat=2), env.contract, known)
    Run.create(tmp_path / "run", model.describe()).save(model.state_dict())
    done = rollout(players.load(f"plan:{tmp_path / 'run'}", env), env, seed=0, max_steps=4).action
    assert torch.equal(done[:, 0], done[:, 1])
    assert not torch.equal(done[:, 1], done[:, 2])
    with pytest.raises(UsageError, match="disagree"):
        players.load(f"plan:{tmp_path / 'run'}", envs.make("dm_control/cartpole-swingup-v0", size=None))
