"""A perfect model errs by nothing, one that ignores actions errs by exactly one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, PerfectModel

from worldlab.errors import UsageError
from worldlab.eval.branches import actions_of, choose_starts, kinds_of
from worldlab.eval.counterfactual import counterfactual
from worldlab.rollout import rollout


class Store(list):
    spec = COUNT_SPEC


class Shaky:
    """Adds noise, so that episodes differ."""

    def reset(self, seeds):
        self.seeds, self.step = seeds, 0

    def act(self, obs):
        self.step += 1
        return torch.stack([torch.full((1, 1), ((seed * 7 + self.step * 3) % 10) / 20) for seed in self.seeds])


class Deaf(PerfectModel):
    """Believes that one is always added, whatever is done."""

    def imagine(self, belief, action, generator=None):
        return super().imagine(belief, torch.ones_like(action), generator)


class Half(PerfectModel):
    """Believes that actions have half their effect."""

    def imagine(self, belief, action, generator=None):
        return super().imagine(belief, action / 2, generator)


@pytest.fixture(scope="module")
def store():
    t = rollout(Shaky(), CountEnv(6), seed=0)
    return Store(t.episode(i) for i in range(6))


def measure(model, store, **options):
    return counterfactual(model, store, CountEnv(5), **{"branches": 6, "horizon": 10, "starts": 8, **options})


def test_a_perfect_model_has_no_error(store):
    r = measure(PerfectModel(), store)
    for errors in (r.effect_error, r.effect_error_object, r.state_error_cm, r.object_error_cm):
        assert list(errors) == [1, 2, 5, 10]
        assert max(errors.values()) < 1e-4
    assert min(r.state_error_cm_copy_last.values()) > 1
    assert min(r.state_error_cm_recorded.values()) > 1


def test_a_model_that_ignores_actions_scores_exactly_one(store):
    r = measure(Deaf(), store)
    for errors in (r.effect_error, r.effect_error_object, r.effect_error_recorded, r.copy_last):
        assert set(errors.values()) == {1.0}
    assert r.effect_error_interval == dict.fromkeys([1, 2, 5, 10], (1.0, 1.0))


def test_half_the_effect_is_half_an_error(store):
    r = measure(Half(), store)
    np.testing.assert_allclose(list(r.effect_error.values()), 0.5, atol=1e-4)
    assert set(r.effect_error_recorded.values()) == {1.0}


def test_branches_that_ended_do_not_count(store):
    r = measure(PerfectModel(), store, horizon=20)
    assert r.n == 8 * 5
    assert r.n_by_horizon[1] == 40
    # CountEnv stands still after 12 steps while the perfect model counts on.
    assert r.n_by_horizon[20] == 0
    assert np.isnan(r.effect_error[20])
    assert r.to_json()["effect_error"]["20"] is None
    assert max(r.effect_error[h] for h in (1, 2, 5, 10)) < 1e-4


def test_the_result_depends_on_the_seed_and_not_on_the_number_of_environments(store):
    a = counterfactual(PerfectModel(), store, CountEnv(3), branches=4, horizon=5, starts=5, seed=1)
    b = counterfactual(PerfectModel(), store, CountEnv(7), branches=4, horizon=5, starts=5, seed=1)
    c = counterfactual(PerfectModel(), store, CountEnv(7), branches=4, horizon=5, starts=5, seed=2)
    assert a.to_json() == b.to_json()
    assert torch.equal(a.examples[0].truth, b.examples[0].truth)
    assert a.to_json() != c.to_json()


def test_the_json_is_json(store):
    r = measure(PerfectModel(), store, horizon=3)
    values = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert set(values["effect_error"]) == set(values["copy_last"]) == {"1", "2"}
    assert len(values["effect_error_interval"]["1"]) == 2
    assert "examples" not in values


def test_examples_show_the_truth_above_the_dream(store):
    example = measure(PerfectModel(), store).examples[0]
    frames = example.frames()
    assert frames.shape == (10, 16, 6 * 8, 3)
    assert np.array_equal(frames[:, :8], frames[:, 8:])
    assert example.kinds == ("recorded", "hold", "shuffled", "perturbed", "random", "shuffled")


def test_the_recorded_branch_is_what_was_done(store):
    starts = choose_starts(store, range(6), 8, 4, seed=0)
    for i, start in enumerate(starts):
        actions = actions_of(i, starts, 5, 4, COUNT_SPEC, seed=0)
        torch.testing.assert_close(
            actions[0, : len(start.actions) - start.row], start.actions[start.row : start.row + 4]
        )
        assert (actions.abs() <= 1).all()
        assert not actions[1].any()


def test_joint_targets_go_on_from_where_they_are(store):
    spec = replace(COUNT_SPEC, control="joint_position")
    starts = choose_starts(store, range(6), 8, 4, seed=0)
    for i, start in enumerate(starts):
        actions = actions_of(i, starts, 5, 4, spec, seed=0)
        present = start.actions[start.row - 1] if start.row else start.context.obs.state[-1].clamp(-1, 1)
        assert (actions[1] == present).all()
        torch.testing.assert_close(actions[2, 0], present)


def test_every_branch_has_a_kind():
    assert kinds_of(2) == ("recorded", "hold")
    assert len(kinds_of(8)) == 8


def test_what_cannot_be_compared_is_refused(store):
    with pytest.raises(UsageError, match="no physics"):
        counterfactual(PerfectModel(), Store(replace(e, physics=None) for e in store), CountEnv())
    with pytest.raises(UsageError, match="2 branches"):
        counterfactual(PerfectModel(), store, CountEnv(), branches=1)
    with pytest.raises(UsageError, match="no episodes"):
        counterfactual(PerfectModel(), store, CountEnv(), episodes=[])
    blind = PerfectModel()
    blind.spec = replace(COUNT_SPEC, privileged=())
    with pytest.raises(UsageError, match="not all imagined"):
        counterfactual(blind, store, CountEnv())
