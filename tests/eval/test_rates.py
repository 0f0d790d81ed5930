"""Intervals and tests against published values."""

import numpy as np
import pytest
from scipy import stats

from worldlab.eval.rates import mcnemar_mid_p, over_training_seeds, paired_difference, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_published_table(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2017, chapter 8: Cavo et al. 2012 and Bentur et al. 2009
        ((59, 6, 16, 80), -0.1186, -0.0046),
        ((1, 1, 7, 12), -0.5069, -0.0256),
        # Altman et al. 2000, Statistics with Confidence, table 6.2
        ((14, 5, 0, 22), 0.0115, 0.2265),
    ],
)
def test_the_paired_interval_agrees_with_published_examples(table, low, high):
    assert paired_difference(*table) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("table", [(30, 9, 4, 57), (0, 100, 0, 0), (100, 0, 0, 0), (0, 0, 0, 10), (0, 5, 5, 0)])
def test_the_paired_interval_is_antisymmetric_and_holds_the_estimate(table):
    both, a, b, neither = table
    low, high = paired_difference(both, a, b, neither)
    assert -1 <= low <= (a - b) / sum(table) <= high <= 1
    assert high - low > 0
    assert paired_difference(both, b, a, neither) == pytest.approx((-high, -low))


def test_mid_p_agrees_with_published_examples():
    assert mcnemar_mid_p(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar_mid_p(6, 16) == pytest.approx(0.0347, abs=5e-5)


@pytest.mark.parametrize(("a", "b"), [(0, 3), (2, 9), (10, 11), (40, 20)])
def test_mid_p_is_the_exact_p_less_the_probability_of_what_was_seen(a, b):
    exact = stats.binomtest(a, a + b, 0.5).pvalue
    assert mcnemar_mid_p(a, b) == pytest.approx(exact - stats.binom.pmf(a, a + b, 0.5))
    assert mcnemar_mid_p(a, b) == mcnemar_mid_p(b, a)


def test_a_tie_is_no_evidence():
    assert mcnemar_mid_p(0, 0) == pytest.approx(1)
    assert mcnemar_mid_p(7, 7) == pytest.approx(1)


@pytest.mark.parametrize("discordant", [0.05, 0.2, 0.5])
def test_mid_p_rejects_a_true_null_about_one_time_in_twenty(discordant):
    # Exact, not sampled: the sum over all outcomes of 100 pairs.
    size = 0.0
    for n in range(101):
        k = np.arange(n + 1)
        rejected = np.array([mcnemar_mid_p(min(i, n - i), max(i, n - i)) < 0.05 for i in range(n // 2 + 1)])
        size += stats.binom.pmf(n, 100, discordant) * stats.binom.pmf(k, n, 0.5)[rejected[np.minimum(k, n - k)]].sum()
    assert size <= 0.054  # mid-p is quasi-exact: the most that Fagerland et al. 2013 saw


def test_the_paired_interval_covers():
    rng = np.random.default_rng(0)
    outcomes = rng.multinomial(100, [0.6, 0.15, 0.05, 0.2], 500)
    covered = sum(low <= 0.1 <= high for low, high in (paired_difference(*map(int, row)) for row in outcomes))
    assert 0.92 < covered / 500 < 0.98


def test_policies_that_differ_by_training_seed_make_the_interval_wider():
    alike, unlike = over_training_seeds([85, 85, 85], [100] * 3), over_training_seeds([99, 90, 66], [100] * 3)
    pooled = wilson(255, 300)
    assert unlike[1] - unlike[0] > 2 * (pooled[1] - pooled[0])
    assert alike == pooled
    assert over_training_seeds([9], [10]) == wilson(9, 10)
    rates = np.array([0.85, 0.75, 0.8])
    low, high = over_training_seeds([85, 75, 80], [100] * 3)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, rates.mean(), stats.sem(rates)))


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_the_interval_over_three_training_seeds_covers(spread):
    rng = np.random.default_rng(0)
    truth = np.clip(rng.normal(0.7, spread, (400, 3)), 0, 1)
    intervals = [over_training_seeds(list(map(int, k)), [100] * 3) for k in rng.binomial(100, truth)]
    assert sum(low <= 0.7 <= high for low, high in intervals) / 400 > 0.92


@pytest.mark.parametrize("successes", [0, 100])
def test_trainings_that_agree_at_an_end_are_not_certain(successes):
    assert over_training_seeds([successes] * 3, [100] * 3) == wilson(3 * successes, 300)
