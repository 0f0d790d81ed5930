"""Mean returns and their paired comparison: laws, brute force, and what a verdict says of them."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from worldlab import workbench
from worldlab.conditions import EvalConditions
from worldlab.errors import UsageError
from worldlab.eval.compare import compare
from worldlab.eval.rates import mean_interval, permutation_interval, permutation_p
from worldlab.eval.success import Episode, SuccessResult


def result(returns, successes=(), seed=0):
    """A policy that earned `returns`, and succeeded in the episodes of those numbers."""
    episodes = tuple(
        Episode(seed + i, "swing up", i in successes, 1000, 1.0 if i in successes else None, float(x), 0.1)
        for i, x in enumerate(returns)
    )
    return SuccessResult(episodes, latency_ms=1.0, num_envs=1)


def brute_force_p(differences):
    """The definition: in what share of all 2^n ways to swap a with b is the mean at least as far from 0 as it was?"""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    sums, seen = signs @ np.array(differences), sum(differences)
    return float((np.abs(sums) >= abs(seen)).mean())


# Sums of these are exact, so that ties are ties.
wholes = st.integers(-1000, 1000).map(float)


@given(st.lists(wholes, min_size=1, max_size=10))
@settings(deadline=None, max_examples=60)
def test_for_few_pairs_the_p_value_is_that_of_all_swaps(differences):
    assert permutation_p(differences) == pytest.approx(brute_force_p(differences))


def test_the_p_value_agrees_with_a_published_example():
    # Darwin's maize as analysed by Fisher (The Design of Experiments, 1935, section 21), in eighths of an inch: 863 of
    # 2^15 sign patterns reach a sum as large as that seen, in either direction 1726.
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert brute_force_p(darwin) == 1726 / 2**15
    assert permutation_p([float(d) for d in darwin]) == 1726 / 2**15


@pytest.mark.parametrize("n", [14, 16, 60])
def test_the_p_value_agrees_with_scipy(n):
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    theirs = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=2**17,
        batch=10_000,
        rng=np.random.default_rng(1),
    )
    assert permutation_p(differences.tolist()) == pytest.approx(theirs.pvalue, abs=1e-12 if n == 14 else 0.006)


@given(st.lists(st.integers(-(10**6), 10**6).map(lambda x: x / 1024), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_neither_the_sign_nor_the_unit_of_the_differences_matters(differences):
    p = permutation_p(differences)
    assert 0 < p <= 1
    assert permutation_p([-d for d in differences]) == p
    assert permutation_p([4 * d for d in differences]) == p


def test_rounding_is_no_evidence():
    for differences in ([4, 1, 3, 3, 1, 4, -5, 5, 7, 2], [1, 2, 3, -6, 1, 2, 3, 4]):
        exact = permutation_p([float(d) for d in differences])
        assert {permutation_p([d * unit for d in differences]) for unit in (0.1, 0.3, 1e-6, 7e5)} == {exact}


@pytest.mark.parametrize("n", [8, 30])
def test_the_p_value_is_uniform_where_a_and_b_are_interchangeable(n):
    # Returns as a swing-up has them: it works or it does not. Exactly or by sampling, p <= x about x of the time.
    rng = np.random.default_rng(n)
    ps = []
    for _ in range(300):
        a, b = np.where(rng.random((2, n)) < 0.2, rng.normal(100, 40, (2, n)), rng.normal(850, 30, (2, n)))
        ps.append(permutation_p((a - b).tolist()))
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    assert np.mean(np.array(ps) < 0.05) < 0.08


def test_a_p_value_is_never_nought_and_a_tie_is_no_evidence():
    assert 0 < permutation_p([100.0] * 100) < 0.001
    assert permutation_p([0.0] * 10) == permutation_p([0.0] * 100) == 1
    assert permutation_p([5.0]) == 1


@given(st.lists(wholes, min_size=2, max_size=24).filter(lambda x: len(set(x)) > 1), wholes)
@settings(deadline=None, max_examples=60)
def test_the_interval_of_a_difference_holds_what_the_test_would_not_reject(differences, value):
    interval = permutation_interval(differences)
    assert (interval is None) == (len(differences) < 6)
    low, high = interval or (-np.inf, np.inf)
    assert min(differences) <= high
    assert max(differences) >= low
    for d in (value, 0.0, np.median(differences)):
        assert (low <= d <= high) == (permutation_p([x - d for x in differences]) >= 0.05)


def test_the_interval_of_a_difference_is_that_of_normal_theory_where_returns_are_normal():
    rng = np.random.default_rng(0)
    for n in (15, 100):
        differences = rng.normal(50, 100, n).tolist()
        assert permutation_interval(differences) == pytest.approx(mean_interval(differences), abs=600 / n)


def test_there_is_no_interval_of_a_difference_that_is_always_the_same():
    assert permutation_interval([100.0] * 30) is None


@pytest.mark.parametrize("n", [8, 30])
def test_the_interval_of_a_difference_covers_it(n):
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(300):
        # The difference of two alike, moved by 70, is symmetric and has three modes.
        a, b = np.where(rng.random((2, n)) < 0.2, rng.normal(100, 40, (2, n)), rng.normal(850, 30, (2, n)))
        low, high = permutation_interval((a - b + 70).tolist()) or (0, 0)
        covered += low <= 70 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.035)


def coverage(draw, mean, n, repeats=2000):
    intervals = [mean_interval(draw(n).tolist()) for _ in range(repeats)]
    return sum(i is not None and i[0] <= mean <= i[1] for i in intervals) / repeats


@pytest.mark.parametrize("n", [2, 10, 100])
def test_the_interval_of_a_mean_covers_it_95_times_in_100(n):
    rng = np.random.default_rng(n)
    assert coverage(lambda n: rng.normal(700, 80, n), 700, n) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("n", "least"), [(10, 0.87), (30, 0.92), (100, 0.93)])
def test_the_interval_still_holds_for_returns_that_are_far_from_normal(n, least):
    rng = np.random.default_rng(n)

    def falls(n):
        return np.where(rng.random(n) < 0.2, rng.normal(100, 40, n), rng.normal(850, 30, n))

    assert least < coverage(falls, 0.2 * 100 + 0.8 * 850, n) < 0.97


def test_the_interval_agrees_with_a_published_example():
    # Student 1908 (Biometrika 6:1), hours of sleep gained by two drugs. The t interval of the differences is textbook.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    gained = [b - a for a, b in zip(first, second, strict=True)]
    assert mean_interval(gained) == pytest.approx((0.7001142, 2.4598858))  # R: t.test(extra ~ group, paired = TRUE)


@pytest.mark.parametrize("values", [[731.0], [0.0] * 10, [0.1] * 3])
def test_there_is_no_interval_where_nothing_says_how_much_returns_vary(values):
    assert mean_interval(values) is None


@given(st.lists(wholes, min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1))
def test_the_interval_moves_with_its_values(values):
    interval, moved = mean_interval(values), mean_interval([x + 100 for x in values])
    assert interval is not None
    assert moved == pytest.approx((interval[0] + 100, interval[1] + 100))
    assert interval[0] < np.mean(values) < interval[1]
    assert mean_interval([-x for x in values]) == pytest.approx((-interval[1], -interval[0]))


def test_a_result_has_its_mean_return_with_an_interval():
    returns = [700, 720, 690, 814]
    found = result(returns)
    assert found.mean_return == 731
    low, high = stats.ttest_1samp(returns, 0).confidence_interval(0.95)
    summary = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert summary["mean_return"] == 731
    assert summary["return_interval"] == pytest.approx([low, high])
    assert json.loads(json.dumps(result([731]).to_json()))["return_interval"] is None


def test_where_nobody_succeeds_the_verdict_is_about_returns():
    good, bad = [731, 700, 745, 760, 719, 735, 728, 730], [402, 500, 310, 420, 388, 397, 411, 388]
    table = compare(result(good), result(bad), ("swing", "hang"))
    assert table.by == "return"
    assert table.verdict == (
        "swing earns more than hang: on the same 8 starts, mean return 731 against 402 "
        f"(difference +329, 95 % interval +{table.return_interval[0]:.0f} to +{table.return_interval[1]:.0f}, "
        "paired permutation p 0.0078)."
    )
    assert compare(result(bad), result(good), ("hang", "swing")).verdict == table.verdict
    few = compare(result(good[:3]), result(bad[:3]), ("swing", "hang"))  # p can be no less than 2 / 2^3
    assert few.verdict.startswith(
        "No difference in return is shown between swing and hang: on the same 3 starts, mean return 725 against 404 "
    )
    assert few.verdict.endswith("paired permutation p 0.25).")


def test_a_policy_does_not_differ_from_itself():
    same = compare(result([731, 402]), result([731, 402]), ("x", "y"))
    assert same.return_p == 1
    assert same.verdict == (
        "No difference in return is shown between x and y: on the same 2 starts, mean return 566 against 566 "
        "(difference +0, no interval, paired permutation p 1)."
    )


def test_where_success_tells_the_verdict_is_about_success():
    table = compare(result([1] * 20, range(20)), result([900] * 20))
    assert table.by == "success"
    assert table.verdict.startswith("a succeeds more often than b: on the same starts, a 20 and b 0 of 20 succeed")
    assert "return" not in table.verdict
    assert table.to_json()["return_difference"] == -899


def test_where_success_is_not_defined_the_verdict_is_about_returns():
    table = compare(result([800, 900], [0]), result([800, 902], [0, 1]), by="return")
    assert table.verdict.startswith("No difference in return is shown between a and b")


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=40)
def test_swapping_a_and_b_flips_the_signs_of_returns_and_nothing_else(pairs):
    a, b = (result(returns) for returns in zip(*pairs, strict=True))
    one, other = compare(a, b).to_json(), compare(b, a).to_json()
    assert one["return_difference"] == -other["return_difference"]
    assert one["permutation_p"] == other["permutation_p"]
    assert (one["mean_return_a"], one["mean_return_b"]) == (other["mean_return_b"], other["mean_return_a"])
    if one["return_interval"] is None:
        assert other["return_interval"] is None
    else:
        assert one["return_interval"] == pytest.approx([-x for x in reversed(other["return_interval"])])
    json.dumps(one, allow_nan=False)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (result([700, 720, 690, 814]), "mean return 731 [641, 821], 0/4 = 0% [0%, 49%]"),
        (result([0.25, 0.5]), "mean return 0.375 [-1.21, 1.96], 0/2 = 0% [0%, 66%]"),
        (result([0] * 600, range(600)), "mean return 0 [no interval], 600/600 = 100.0% [99.4%, 100.0%]"),
        (result([731], [0]), "mean return 731 [no interval], 1/1 = 100% [21%, 100%]"),
    ],
)
def test_the_last_line_of_an_evaluation_says_what_was_earned(found, text):
    assert workbench.rate_text(found, returns=True) == text
    assert text.endswith(workbench.rate_text(found))


def test_the_suite_is_evaluated_by_returns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sparse = "dm_control/cartpole-balance_sparse-v0"  # whose every episode begins with a step at full reward
    told = workbench.evaluate("random", sparse, 1, controls=False, device="cpu")
    assert told.line.startswith(f"mean return {told.values['mean_return']:.0f} [no interval], 1/1 = 100%")
    assert told.values["return_interval"] is None
    verdict = workbench.compare("random", "random", sparse, 1, device="cpu")
    assert verdict.line.startswith("No difference in return is shown between random and random")
    assert verdict.values["by"] == "return"


def test_returns_are_told_where_neither_a_policy_nor_its_controls_succeed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = workbench.evaluate("random", "worldlab/Lift-v0", 1, controls=False, device="cpu")
    beside = workbench.evaluate("random", "worldlab/Lift-v0", 1, device="cpu")
    assert alone.line.startswith("mean return ")
    assert beside.line.startswith("0/1 = 0%")  # the expert lifts the cube, so success tells


def test_an_evaluation_says_for_how_long_success_had_to_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at_once, held = (
        workbench.evaluate("expert", "worldlab/Reach-v0", 1, controls=False, conditions=EvalConditions(hold=hold))
        for hold in (0, 4)
    )
    assert (at_once.values["hold"], held.values["hold"]) == (0, 4)
    assert held.line.endswith("hold4_n1_seed0")
    waited = held.values["median_time_to_success"] - at_once.values["median_time_to_success"]
    assert waited == pytest.approx(0.4)


@pytest.mark.parametrize(("env", "hold"), [("worldlab/Reach-v0", -1), ("CartPole-v1", 3)])
def test_success_that_cannot_be_made_to_hold_is_refused(env, hold):
    with pytest.raises(UsageError, match="hold"):
        EvalConditions(hold=hold).world(env, 1, 64)
