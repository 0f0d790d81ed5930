"""Counting success: laws of the number and of its controls."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones

from worldlab.errors import UsageError
from worldlab.eval.compare import compare
from worldlab.eval.controls import BlankImage, WrongInstruction, controls
from worldlab.eval.success import success
from worldlab.rollout import rollout
from worldlab.seeding import normal


class Wanderer:
    """Adds noise that is keyed by the episode's seed and the step, two actions at a time."""

    spec = COUNT_SPEC

    def reset(self, seeds):
        self.seeds, self.step = seeds, 0

    def act(self, obs):
        self.step += 1
        return 0.4 + normal(self.seeds, self.step, (2, 1))


def test_episodes_do_not_depend_on_how_many_run_beside_them():
    results = [success(Wanderer(), CountEnv(n), episodes=40, seed=7) for n in (1, 4, 32)]
    assert results[0] == results[1] == results[2]
    assert len({"\n".join(r.lines()) for r in results}) == 1
    assert 0 < results[0].successes < 40
    assert [e.seed for e in results[0].episodes] == list(range(7, 47))


def test_the_numbers_are_those_of_the_episodes():
    seen = []
    result = success(Ones(), CountEnv(4), episodes=6, seed=0, on_episode=lambda e, t: seen.append((e, t)))
    assert [e for e, _ in seen] == list(result.episodes)
    for e, t in seen:
        start = float(t.obs.state[0, 0])
        assert e.task == f"count to five from {int(start)}"
        assert e.success
        assert e.steps == 5 - start == len(t.valid) - 1
        assert e.time_to_success == pytest.approx((5 - start) / COUNT_SPEC.fps)
        assert e.total_reward == sum(range(int(start) + 1, 6))
        assert e.roughness == 0
    summary = json.loads(json.dumps(result.to_json()))
    assert summary["successes"] == summary["n"] == 6
    assert summary["rate"] == summary["interval"][1] == 1
    assert summary["interval"][0] == pytest.approx(0.6097, abs=1e-4)  # Wilson, 6 of 6
    assert summary["latency_ms"] > 0
    assert [json.loads(line)["seed"] for line in result.lines()] == list(range(6))


def test_a_policy_that_fails_has_no_time_to_success():
    class Zero(Ones):
        def act(self, obs):
            return torch.zeros(len(obs.state), 1, 1)

    result = success(Zero(), CountEnv(2), episodes=3)
    assert result.successes == 0
    assert result.median_time_to_success is None
    assert {e.steps for e in result.episodes} == {12}
    json.dumps(result.to_json(), allow_nan=False)


def test_a_policy_for_another_environment_is_refused():
    class Foreign(Ones):
        spec = dataclasses.replace(COUNT_SPEC, fps=30)

    with pytest.raises(UsageError, match="fps: policy 30, environment 10"):
        success(Foreign(), CountEnv())


def test_no_episodes_are_refused():
    with pytest.raises(UsageError, match="at least 1"):
        success(Ones(), CountEnv(), episodes=0)


class Lazy(Ones):
    """Adds one only where the start is two."""

    def act(self, obs):
        return (obs.state >= 2).float()[:, None]


def test_compare_counts_pairs_and_says_no_more_than_the_test():
    always, lazy = success(Ones(), CountEnv(8), 40), success(Lazy(), CountEnv(8), 40)
    table = compare(always, lazy, ("ones", "lazy"))
    assert (table.both, table.only_a, table.only_b, table.neither) == (lazy.successes, 40 - lazy.successes, 0, 0)
    assert table.p < 0.05
    assert table.verdict.startswith("ones succeeds more often than lazy")
    mirrored = compare(lazy, always, ("lazy", "ones"))
    assert mirrored.difference == -table.difference
    assert mirrored.verdict.startswith("ones succeeds more often than lazy")
    same = compare(lazy, lazy)
    assert same.difference == 0
    assert same.verdict.startswith("No difference is shown")
    assert json.loads(json.dumps(table.to_json()))["mid_p"] == table.p


def test_compare_refuses_other_seeds():
    a = success(Ones(), CountEnv(), 4, seed=0)
    with pytest.raises(UsageError, match="episode 0 has 0 in a and 1 in b"):
        compare(a, success(Ones(), CountEnv(), 4, seed=1))
    with pytest.raises(UsageError, match="a has 4, b has 3"):
        compare(a, success(Ones(), CountEnv(), 3, seed=0))


COLOURS = ("red", "green", "blue")
COLOUR_SPEC = dataclasses.replace(COUNT_SPEC, privileged=tuple(f"{c}_cube.present" for c in COLOURS))


class ColourEnv(CountEnv):
    """A counter that goes up for "red" and down for any other colour; two of three colours are in each scene."""

    def __init__(self, n=4):
        super().__init__(n)
        self.contract = COLOUR_SPEC

    def reset(self, *, seed=None, options=None):
        absent = np.arange(seed, seed + self.num_envs) % 2  # red or green is missing
        self.named = [COLOURS[1 - a] for a in absent]
        self.present = np.array([[a != 0, a != 1, True] for a in absent], np.float32)
        return super().reset(seed=seed)

    def step(self, actions):
        sign = np.array([1.0 if c == "red" else -1.0 for c in self.named], np.float32)[:, None]
        return super().step(actions * sign)

    def _info(self):
        task = tuple(f"put the {c} cube on the blue cube, not on the {c} one" for c in self.named)
        return super()._info() | {"privileged": self.present, "task": task}


class Listener(Ones):
    """Adds one when told "red" first, subtracts one when told another colour."""

    def act(self, obs):
        told = [next(w for w in t.split() if w in COLOURS) for t in obs.task]
        return torch.tensor([[[1.0 if c == "red" else -1.0]] for c in told])


def test_the_wrong_instruction_swaps_the_named_cube_with_another_that_is_there():
    together = rollout(Listener(), WrongInstruction(ColourEnv(6)), seed=0).obs.task
    assert together[:2] == (
        "put the blue cube on the green cube, not on the blue one",
        "put the blue cube on the red cube, not on the blue one",
    )
    alone = [rollout(Listener(), WrongInstruction(ColourEnv(1)), seed=i).obs.task[0] for i in range(6)]
    assert list(together) == alone


def test_success_is_judged_by_the_true_instruction():
    policy, env = Listener(), ColourEnv(4)
    results = {name: success(*pair, episodes=10) for name, pair in controls(policy, env).items()}
    assert success(policy, env, episodes=10).rate == results["blank_image"].rate == 1
    # Where red was named, blue is now asked for, and the listener goes the wrong way.
    wrong = results["wrong_instruction"]
    assert [e.success for e in wrong.episodes] == [
        e.task.startswith("put the blue cube on the green") for e in wrong.episodes
    ]


def test_a_blank_image_hides_the_camera_and_nothing_else():
    seen = []

    class Eye(Ones):
        def act(self, obs):
            seen.append(obs)
            return super().act(obs)

    env = CountEnv(2)
    rollout(BlankImage(Eye()), env, seed=0)
    assert all((o.images["front"] == 128).all() for o in seen)
    assert seen[0].images["front"].shape == (2, 8, 8, 3)
    assert torch.equal(seen[0].state, rollout(Ones(), env, seed=0).obs.state[:, 0])


def test_without_coloured_cubes_there_is_no_wrong_instruction():
    assert set(controls(Ones(), CountEnv())) == {"blank_image"}
    unseen = CountEnv()
    unseen.contract = dataclasses.replace(COUNT_SPEC, cameras={})
    assert not controls(Ones(), unseen)
    with pytest.raises(UsageError, match="coloured cubes"):
        WrongInstruction(CountEnv())
