"""Success rates, mean returns and their differences, with intervals that hold for few episodes.

Rates, at 0 and at 1 too, as recommended by Fagerland, Lydersen and Laake (Statistical Analysis of Contingency Tables,
2017, chapters 2 and 8): Wilson's interval for one, McNemar's mid-p test and Newcombe's interval for two on the same
seeds. Returns: Student's t-interval for one mean, the permutation test of signs and its interval for two on the same
seeds.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

type Interval = tuple[float, float]

LEVEL = 0.95
"""Confidence of every interval."""

MANY = 500
"""Episodes beyond which a rate is printed with a decimal."""

FLIPS = 2**15 - 1
"""Most patterns of signs that a permutation test tries beside the one seen: all there are up to 15 pairs."""


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


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's t-interval of a mean return.

    Not a bootstrap: its intervals are too narrow for few episodes (Hesterberg 2015, Am. Stat. 69:371; measured in
    docs/evaluation.md), and no better for many. The t-interval too is too narrow where a rare disaster, which 10
    episodes may not show, decides the mean.

    Returns:
        None where nothing says how much the values vary: for a single one, and where all are equal. A width of zero
        would claim certainty; ten returns of 0 do not say that the eleventh is 0.
    """
    from scipy import stats  # a second to import

    if min(values) == max(values):
        return None
    low, high = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    return float(low), float(high)


def permutation_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of no difference in mean return, from the differences on the same seeds.

    Fisher's permutation test for pairs (The Design of Experiments, 1935, section 21): were it chance which of the two
    policies earned which of a start's two returns, every difference could as well have had the other sign. In what
    share of all 2^n patterns of signs is the mean at least as far from 0? Up to 15 pairs all are counted. Beyond, they
    are drawn, always the same for the same n, and the pattern seen counts as one of them, so that p is never 0 (Phipson
    and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39). Below six pairs p cannot fall under 0.05.

    It is exact whatever the distribution of returns, which a t-test is not: they have limits and often two modes. It is
    about the mean, which is what is reported; Wilcoxon's signed ranks are not, and take the rare fall that costs a
    whole return for one rank among many. Where the policies differ in more than the mean it holds for many starts
    (Romano 1990, J. Am. Stat. Assoc. 85:686).
    """
    means = _flipped_means(differences)
    # A flip of what is 0 or less on average leaves the mean as high as it was or higher; and the other way round.
    # What is nothing but for rounding is nothing, or p would depend on the unit of returns.
    nothing = 1e-9 * max(map(abs, differences), default=0.0)
    fewer = min((means <= nothing).sum(), (means >= -nothing).sum())
    return min(1.0, float(2 * (1 + fewer) / (1 + len(means))))


def permutation_interval(differences: Sequence[float]) -> Interval | None:
    """Interval of the difference in mean return: every value that `permutation_p` would not reject.

    With that value taken off every difference, the test counts the flips whose own mean lies beyond it, so the limits
    are quantiles of the means of subsets (Hartigan 1969, J. Am. Stat. Assoc. 64:1303).

    Returns:
        None for fewer than six pairs, of which the test can reject nothing, and where all differences are equal.
    """
    means = np.sort(_flipped_means(differences))
    beyond = ceil((1 - LEVEL) / 2 * (1 + len(means))) - 1
    if beyond == 0 or min(differences) == max(differences):
        return None
    return float(means[beyond - 1]), float(means[-beyond])


def _flipped_means(differences: Sequence[float]) -> NDArray[np.float64]:
    """The mean of what each pattern of signs flips, without the pattern that flips nothing."""
    n = len(differences)
    if 2**n - 1 <= FLIPS:
        flipped = np.arange(1, 2**n)[:, None] >> np.arange(n) & 1
    else:
        flipped = np.random.default_rng(0).integers(0, 2, (FLIPS, n), np.int8)
        flipped = flipped[flipped.any(1)]
    return flipped @ np.asarray(differences, np.float64) / flipped.sum(1)


def readable(value: float, sign: Literal["", "+"] = "") -> str:
    """A return for a person: whole from 100 on, three digits below."""
    return f"{value:{sign}.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


def share(rate: float, n: int) -> str:
    """A rate of n episodes, or a limit of one, for a person: of many with a decimal, or intervals would lose width."""
    return f"{rate:.{0 if n <= MANY else 1}%}"


def over_training_seeds(successes: Sequence[int], n: Sequence[int]) -> Interval:
    """Interval of a recipe's success rate: Student's t of the training seeds' rates, joined with Wilson's of them all.

    Pooling all episodes would leave out how much training varies, and a bootstrap of three seeds knows too little of it
    (docs/evaluation.md has how often either holds the truth). Trainings that agree would leave the t-interval no width.

    Args:
        successes: of the policy of each training seed.
        n: its episodes.
    """
    low, high = wilson(sum(successes), sum(n))
    if (seeds := mean_interval([k / m for k, m in zip(successes, n, strict=True)])) is not None:
        low, high = min(low, max(seeds[0], 0.0)), max(high, min(seeds[1], 1.0))
    return low, high
