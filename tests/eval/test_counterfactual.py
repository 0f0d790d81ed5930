"""A perfect model errs by nothing, one that ignores actions errs by exactly one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones, PerfectModel
from scipy import stats

from worldlab.errors import UsageError
from worldlab.eval.branches import actions_of, choose_starts, kinds_of
from worldlab.eval.branching import follow
from worldlab.eval.counterfactual import counterfactual
from worldlab.eval.pooling import Pooled
from worldlab.eval.positions import Compared
from worldlab.rollout import rollout
from worldlab.seeding import generator as seeded


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
    for name in ("effect_error", "effect_error_object", "state_error_cm", "object_error_cm", "state_error_sd"):
        assert list(r[name].value) == [1, 2, 5, 10]
        assert max(r[name].value.values()) < 1e-4
    for name in ("reward_error", "regret"):
        assert max(r[name].value.values()) < 1e-4
    for name in ("ssim", "rank_correlation"):
        np.testing.assert_allclose(list(r[name].value.values()), 1, atol=1e-5)
        assert np.isnan(list(r[name].interval.values())).all()  # at its end, and no episode says by how much it varies
    assert set(r["psnr"].value.values()) == {np.inf}
    for beside in ("recorded", "copy_last", "dataset_mean"):
        assert min(r[f"state_error_cm_{beside}"].value.values()) > 1
        assert min(r[f"reward_error_{beside}"].value.values()) > 0.01
        assert max(r[f"psnr_{beside}"].value.values()) < 45
    assert min(r["regret_random"].value.values()) > 0


def test_a_model_that_ignores_actions_scores_exactly_one(store):
    r = measure(Deaf(), store)
    for name in ("effect_error", "effect_error_object", "effect_error_recorded", "copy_last"):
        assert set(r[name].value.values()) == {1.0}
    assert r["effect_error"].interval == dict.fromkeys([1, 2, 5, 10], (1.0, 1.0))
    # All branches are one to it: it cannot rank them, and chooses blindly.
    assert set(r["rank_correlation"].value.values()) == {0.0}
    assert r["regret"] == r["regret_random"]


def test_half_the_effect_is_half_an_error(store):
    r = measure(Half(), store)
    np.testing.assert_allclose(list(r["effect_error"].value.values()), 0.5, atol=1e-4)
    assert set(r["effect_error_recorded"].value.values()) == {1.0}


class Blind(CountEnv):
    """Tells of no positions, as other people's environments do."""

    def __init__(self, n):
        super().__init__(n)
        self.contract = replace(COUNT_SPEC, privileged=())

    def _info(self):
        return {name: value for name, value in super()._info().items() if name != "privileged"}


def test_where_nobody_knows_positions_the_state_is_compared():
    known = rollout(Shaky(), Blind(6), seed=0)
    store = Store(replace(known.episode(i), privileged=None) for i in range(6))
    store.spec = replace(COUNT_SPEC, privileged=())
    for model, error in ((PerfectModel(), 0), (Half(), 0.5), (Deaf(), 1)):
        model.spec = store.spec
        r = counterfactual(model, store, Blind(5), branches=6, horizon=10, starts=8)
        assert r.compared == "state"
        np.testing.assert_allclose(list(r["effect_error"].value.values()), error, atol=1e-4)
        assert not any("object" in name or "_cm" in name for name in r.measures)
        assert {"state_error_sd", "state_error_sd_copy_last", "reward_error", "psnr", "regret"} <= set(r.measures)


def test_a_state_is_compared_in_its_own_deviations():
    compared = Compared((), torch.tensor([0.5, 0.0, 4.0]))  # what never changes is left out
    assert compared.standard(torch.tensor([1.0, 7.0, 2.0])).tolist() == [2.0, 0.0, 0.5]


def test_branches_that_ended_do_not_count(store):
    r = measure(PerfectModel(), store, horizon=20)
    assert r.n == 8 * 5
    assert r.n_by_horizon[1] == 40
    # CountEnv stands still after 12 steps while the perfect model counts on.
    assert r.n_by_horizon[20] == 0
    assert np.isnan(r["effect_error"].value[20])
    assert r.to_json()["effect_error"]["20"] is None
    assert max(r["effect_error"].value[h] for h in (1, 2, 5, 10)) < 1e-4


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
    assert values["effect_error_n"] == values["n_by_horizon"]
    assert (values["n"], values["branches"], values["starts"]) == (8 * 5, 6, 8)
    assert values["kinds"] == ["recorded", "hold", "shuffled", "perturbed", "random", "shuffled"]
    assert "examples" not in values


def test_examples_show_the_truth_above_the_dream(store):
    example = measure(PerfectModel(), store).examples[0]
    frames = example.frames()
    assert frames.shape == (10, 24, 6 * 8, 3)
    assert np.array_equal(frames[:, :8], frames[:, 8:16])
    assert not frames[:, 16:].any()
    assert example.kinds == ("recorded", "hold", "shuffled", "perturbed", "random", "shuffled")


def test_the_recorded_branch_is_what_was_done(store):
    starts = choose_starts(store, range(6), 8, 4, seed=0)
    for i, start in enumerate(starts):
        actions = actions_of(i, starts, kinds_of(5), 4, COUNT_SPEC, seed=0)
        torch.testing.assert_close(
            actions[0, : len(start.actions) - start.row], start.actions[start.row : start.row + 4]
        )
        assert (actions.abs() <= 1).all()
        assert not actions[1].any()


def test_joint_targets_go_on_from_where_they_are(store):
    spec = replace(COUNT_SPEC, control="joint_position")
    starts = choose_starts(store, range(6), 8, 4, seed=0)
    for i, start in enumerate(starts):
        actions = actions_of(i, starts, kinds_of(5), 4, spec, seed=0)
        present = start.actions[start.row - 1] if start.row else start.context.obs.state[-1].clamp(-1, 1)
        assert (actions[1] == present).all()
        torch.testing.assert_close(actions[2, 0], present)


class Seen(CountEnv):
    """Can be looked at after it is restored."""

    def observe(self):
        return self._obs(), self._info()


def test_branches_may_be_named_told_or_acted(store):
    told = torch.linspace(-1, 1, 12)[:, None]
    others = {"told": told, "ones": Ones()}
    r = counterfactual(PerfectModel(), store, Seen(5), branches=("zero", "told", "ones"), others=others, horizon=5)
    assert r.kinds == ("recorded", "zero", "told", "ones")
    assert set(r.effect_error_by_kind) == {"zero", "told", "ones"}
    assert max(r["effect_error"].value.values()) < 1e-4


def test_a_policy_branches_from_what_it_sees(store):
    class Mirror(Ones):
        def act(self, obs):
            return -obs.state[:, None] / 10

    starts = choose_starts(store, range(6), 7, 4, seed=0)
    actions = follow(Seen(3), starts, Mirror(), 4, seed=0)
    begun = torch.stack([s.context.obs.state[-1] for s in starts])
    torch.testing.assert_close(actions[:, 0], -begun / 10)
    torch.testing.assert_close(actions[:, 1], -(begun + actions[:, 0]) / 10)


class Unsure(PerfectModel):
    """Adds noise to what it knows."""

    def imagine(self, belief, action, generator=None):
        dream, end = super().imagine(belief, action, generator)
        noise = torch.zeros_like(dream.privileged)
        if generator is not None:
            noise = torch.randn(dream.privileged.shape, generator=generator)
        return replace(dream, privileged=dream.privileged + noise), end


def test_a_model_that_knows_its_doubt_has_as_much_spread_as_error(store):
    class Biased(PerfectModel):
        def imagine(self, belief, action, generator=None):
            # The truth is drawn from the same distribution as the samples: off by one draw of the noise.
            dream, end = super().imagine(belief, action, generator)
            shift = torch.randn(dream.privileged.shape, generator=seeded(len(action), int(1000 * belief[0, 0])))
            return replace(dream, privileged=dream.privileged + shift), end

    class Calibrated(Biased):
        def imagine(self, belief, action, generator=None):
            dream, end = super().imagine(belief, action, generator)
            noise = torch.randn(dream.privileged.shape, generator=generator)
            return replace(dream, privileged=dream.privileged + noise), end

    def spread_skill(model):
        return list(measure(model, store, starts=16, horizon=5)["spread_skill"].value.values())

    np.testing.assert_allclose(spread_skill(Calibrated()), 1, atol=0.15)
    assert set(spread_skill(Biased())) == {0.0}  # sure of itself, and wrong
    assert min(spread_skill(Unsure())) > 1.5  # its mean is right


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
    with pytest.raises(UsageError, match="unknown way to branch 'shufled'"):
        counterfactual(PerfectModel(), store, CountEnv(), branches=("shufled",))
    with pytest.raises(UsageError, match="cannot be looked at"):
        counterfactual(PerfectModel(), store, CountEnv(), branches=("ones",), others={"ones": Ones()})
    with pytest.raises(UsageError, match="at least 20 rows of 1"):
        counterfactual(PerfectModel(), store, CountEnv(), branches=("few",), others={"few": torch.zeros(3, 1)})
    blind = PerfectModel()
    blind.spec = replace(COUNT_SPEC, privileged=())
    with pytest.raises(UsageError, match="not all imagined"):
        counterfactual(blind, store, CountEnv())


def test_moments_of_which_the_time_limit_cut_off_a_branch_are_not_ranked(store):
    result = counterfactual(PerfectModel(), store, CountEnv(), horizon=20, starts=3)
    assert result["rank_correlation"].n[2] > 0
    assert result["rank_correlation"].n[20] == result["regret"].n[20] == 0


def test_moments_of_one_episode_are_not_counted_as_independent():
    twice = torch.arange(1.0, 9.0)[:, None]
    one, same = Pooled(twice, torch.ones_like(twice), torch.ones_like(twice)), [0, 0, 0, 0, 1, 1, 1, 1]
    apart, alike = one.measure(), one.measure(same)
    assert alike.value == apart.value
    assert (apart.episodes, alike.episodes) == ({1: 8}, {1: 2})
    for measure, means in ((apart, twice[:, 0]), (alike, [2.5, 6.5])):  # Student's, of the episodes' means
        low, high = stats.t.interval(0.95, len(means) - 1, 4.5, stats.sem(means))
        assert measure.interval[1] == pytest.approx((max(low, 0), high), abs=1e-3)


@pytest.mark.parametrize("finish", ["mean", "root", "psnr"])
def test_the_interval_covers_from_four_episodes_on(finish):
    g, held, repeats = torch.Generator().manual_seed(0), 0, 300
    of = torch.arange(16) // 4
    truth = Pooled(torch.tensor([[1.0]]), torch.ones(1, 1), torch.ones(1, 1), finish).measure().value[1]
    for _ in range(repeats):
        error = (0.5 * torch.randn(4, generator=g, dtype=torch.float64) - 0.125).exp()[of, None]
        weight = (0.3 * torch.randn(16, 1, generator=g, dtype=torch.float64)).exp()
        limits = (-torch.inf, torch.inf) if finish == "psnr" else (0.0, torch.inf)
        low, high = Pooled(error * weight, weight, weight, finish, limits).measure(of.tolist()).interval[1]
        held += low <= truth <= high
    assert held / repeats > 0.88


def test_one_episode_has_no_interval():
    error = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    counted = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])  # at the second horizon the first start state alone
    measure = Pooled(error * counted, counted, counted).measure([0, 0, 1])
    assert not np.isnan(measure.interval[1]).any()
    assert np.isnan(measure.interval[2]).all()
    assert measure.value[2] == 1.0
