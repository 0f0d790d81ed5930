"""Success rates and their differences, with intervals that hold at 0, at 1 and for few episodes.

Recommended by Fagerland, Lydersen and Laake (Statistical Analysis of Contingency Tables, 2017, chapters 2 and 8):
Wilson's interval for one rate, McNemar's mid-p test and Newcombe's interval for two rates on the same seeds.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np

type Interval = tuple[float, float]

LEVEL = 0.95
"""Confidence of every interval."""


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a success rate (Wilson 1927; Newcombe 1998, Stat. Med. 17:857, method 3)."""
    from scipy import stats  # a second to import

    low, high = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p value of equal success rates, from the pairs in which just one of the two succeeded.

    Fagerland, Lydersen and Laake 2013 (BMC Med. Res. Methodol. 13:91): twice the one-sided mid-p; 1 for a tie.
    """
    from scipy import stats  # a second to import

    fewer, n = min(only_a, only_b), only_a + only_b
    return float(2 * stats.binom.cdf(fewer - 1, n, 0.5) + stats.binom.pmf(fewer, n, 0.5))


def paired_difference(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """Interval of (rate of a) - (rate of b) on the same n episodes.

    Newcombe 1998 (Stat. Med. 17:2635), method 10: Wilson's limits of either rate, combined under their correlation.
    """
    n = both + only_a + only_b + neither
    a, b = both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, n)
    rate_a, rate_b = a / n, b / n
    covariance = both * neither - only_a * only_b
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    spread = sqrt(a * (n - a) * b * (n - b))
    phi = covariance / spread if spread else 0.0

    def reach(x: float, y: float) -> float:
        return sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    difference = rate_a - rate_b
    return (
        difference - reach(rate_a - low_a, high_b - rate_b),
        difference + reach(high_a - rate_a, rate_b - low_b),
    )


def over_training_seeds(successes: Sequence[int], n: Sequence[int], seed: int = 0, resamples: int = 10_000) -> Interval:
    """Two-level percentile bootstrap of a recipe's success rate: training seeds first, then episodes within each.

    Pooling all episodes would leave out how much training varies. With three seeds the interval is rough, and more
    often too narrow than too wide.

    Args:
        successes: of the policy of each training seed.
        n: its episodes.
        seed: of the resampling.
        resamples: how often.
    """
    rng = np.random.default_rng(seed)
    rates, episodes = np.asarray(successes) / np.asarray(n), np.asarray(n)
    drawn = rng.integers(0, len(rates), (resamples, len(rates)))
    means = (rng.binomial(episodes[drawn], rates[drawn]) / episodes[drawn]).mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
