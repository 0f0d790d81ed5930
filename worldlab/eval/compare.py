"""Which of two policies succeeds more often, on the same seeds, and whether that could be chance."""

from dataclasses import dataclass

from worldlab.errors import UsageError
from worldlab.eval.rates import Interval, mcnemar_mid_p, paired_difference
from worldlab.eval.success import SuccessResult
from worldlab.runs import Json


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same starts: in how many both, one or neither succeeded."""

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
    def verdict(self) -> str:
        """What the test says, in a sentence about these two policies and no more."""
        a, b = self.names
        counts = f"{a} {self.both + self.only_a} and {b} {self.both + self.only_b} of {self.n}"
        low, high = (100 * x for x in self.interval)
        evidence = f"difference {100 * self.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        evidence += f", McNemar's mid-p {self.p:.2g}"
        if self.p >= 0.05:
            return f"No difference is shown between {a} and {b}: on the same starts, {counts} succeed ({evidence})."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        return f"{better} succeeds more often than {worse}: on the same starts, {counts} succeed ({evidence})."

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
            "verdict": self.verdict,
        }


def compare(a: SuccessResult, b: SuccessResult, names: tuple[str, str] = ("a", "b")) -> Comparison:
    """Compare two policies that were evaluated on the same seeds of the same environment.

    It is a statement about these two trained policies; for two recipes, train several seeds of each
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
    )
