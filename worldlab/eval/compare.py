"""Which of two policies succeeds more often or earns more, on the same seeds, and whether that could be chance."""

from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Literal

from worldlab.errors import UsageError
from worldlab.eval.rates import (
    Interval,
    mcnemar_mid_p,
    paired_difference,
    permutation_interval,
    permutation_p,
    readable,
)
from worldlab.eval.success import SuccessResult
from worldlab.runs import Json, to_json

type Criterion = Literal["success", "return"]


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same starts: in how many both, one or neither succeeded, and what they earned."""

    names: tuple[str, str]
    """What a and b are called in the verdict."""
    both: int
    """Starts from which both succeeded."""
    only_a: int
    """Starts from which a alone succeeded."""
    only_b: int
    """Starts from which b alone succeeded."""
    neither: int
    """Starts from which neither succeeded."""
    seed: int
    """Of the first start."""
    returns: tuple[tuple[float, float], ...]
    """Undiscounted, of a and of b, in the order of the seeds."""
    by: Criterion
    """What the verdict is about."""

    @property
    def n(self) -> int:
        """Number of starts."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Rate of a minus rate of b."""
        return (self.only_a - self.only_b) / self.n

    @property
    def interval(self) -> Interval:
        """95 % interval of the difference (Newcombe's method 10 for paired data)."""
        return paired_difference(self.both, self.only_a, self.only_b, self.neither)

    @property
    def p(self) -> float:
        """McNemar's two-sided mid-p."""
        return mcnemar_mid_p(self.only_a, self.only_b)

    @property
    def mean_returns(self) -> tuple[float, float]:
        """Mean undiscounted return of a and of b."""
        return mean(a for a, _ in self.returns), mean(b for _, b in self.returns)

    @property
    def return_difference(self) -> float:
        """Mean return of a minus that of b."""
        return mean(self._differences)

    @cached_property
    def return_interval(self) -> Interval | None:
        """95 % interval of the difference, by the permutation test; None below six starts and for equal differences."""
        return permutation_interval(self._differences)

    @cached_property
    def return_p(self) -> float:
        """Two-sided p-value of the paired permutation test of the mean returns."""
        return permutation_p(self._differences)

    @property
    def verdict(self) -> str:
        """What the test says, in a sentence about these two policies and no more."""
        return self._on_success() if self.by == "success" else self._on_returns()

    @property
    def _differences(self) -> list[float]:
        return [a - b for a, b in self.returns]

    def _on_success(self) -> str:
        a, b = self.names
        counts = f"{a} {self.both + self.only_a} and {b} {self.both + self.only_b} of {self.n}"
        low, high = (100 * x for x in self.interval)
        evidence = f"difference {100 * self.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        evidence += f", McNemar's mid-p {self.p:.2g}"
        if self.p >= 0.05:
            return f"No difference is shown between {a} and {b}: on the same starts, {counts} succeed ({evidence})."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        return f"{better} succeeds more often than {worse}: on the same starts, {counts} succeed ({evidence})."

    def _on_returns(self) -> str:
        sign, (a, b), (earned_a, earned_b) = 1, self.names, self.mean_returns
        told = f"No difference in return is shown between {a} and {b}"
        if self.return_p < 0.05:
            if self.return_difference < 0:
                sign, a, b, earned_a, earned_b = -1, b, a, earned_b, earned_a
            told = f"{a} earns more than {b}"
        limits = "no interval"
        if self.return_interval is not None:
            low, high = sorted(sign * x for x in self.return_interval)
            limits = f"95 % interval {readable(low, '+')} to {readable(high, '+')}"
        return (
            f"{told}: on the same {self.n} starts, mean return {readable(earned_a)} against {readable(earned_b)} "
            f"(difference {readable(sign * self.return_difference, '+')}, {limits}, "
            f"paired permutation p {self.return_p:.2g})."
        )

    def to_json(self) -> dict[str, Json]:
        """Everything, flat."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "n": self.n,
            "seed": self.seed,
            "both": self.both,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "neither": self.neither,
            "difference": self.difference,
            "interval": list(self.interval),
            "mid_p": self.p,
            "mean_return_a": self.mean_returns[0],
            "mean_return_b": self.mean_returns[1],
            "return_difference": self.return_difference,
            "return_interval": to_json(self.return_interval),
            "permutation_p": self.return_p,
            "by": self.by,
            "verdict": self.verdict,
        }


def compare(
    a: SuccessResult, b: SuccessResult, names: tuple[str, str] = ("a", "b"), by: Criterion = "success"
) -> Comparison:
    """Compare two policies that were evaluated on the same seeds of the same environment.

    The verdict is about success, or about returns where `by` asks for it or nobody succeeded, so that success cannot
    tell. It is a statement about these two trained policies; for two recipes, train several seeds of each
    (`rates.over_training_seeds`).

    Raises:
        UsageError: the seeds differ.
    """
    if a.n != b.n:
        raise UsageError(f"a comparison needs the same episodes: {names[0]} has {a.n}, {names[1]} has {b.n}.")
    for i, (x, y) in enumerate(zip(a.episodes, b.episodes, strict=True)):
        if x.seed != y.seed:
            raise UsageError(
                f"a comparison needs the same seeds: episode {i} has {x.seed} in {names[0]} and {y.seed} in {names[1]}."
            )
    pairs = [(x.success, y.success) for x, y in zip(a.episodes, b.episodes, strict=True)]
    return Comparison(
        names=names,
        both=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
        neither=pairs.count((False, False)),
        seed=a.seed,
        returns=tuple((x.total_reward, y.total_reward) for x, y in zip(a.episodes, b.episodes, strict=True)),
        by=by if a.successes or b.successes else "return",
    )
