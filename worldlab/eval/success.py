"""How often a policy succeeds, counted so that the number can be trusted."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from time import perf_counter
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.eval.rates import Interval, mean_interval, wilson
from worldlab.protocols import Environment, Policy
from worldlab.rollout import rollout
from worldlab.runs import Json, to_json
from worldlab.trajectory import Observation, Spec, Trajectory


@runtime_checkable
class Specified(Protocol):
    """A policy that says what it needs of an environment."""

    @property
    def spec(self) -> Spec:
        """The contract it was made for."""
        ...


@dataclass(frozen=True)
class Episode:
    """What became of one episode; a pure function of the policy, the environment and the seed."""

    seed: int
    """Of the environment's start and of the policy's noise."""
    task: str
    """The instruction that the policy was given."""
    success: bool
    """The environment's own verdict."""
    steps: int
    """Actions taken."""
    time_to_success: float | None
    """Seconds until success at the environment's control rate; None where there was none."""
    total_reward: float
    """Undiscounted return."""
    roughness: float | None
    """Mean absolute second difference of the actions, in action units (radians for joint targets); lower is smoother.
    None below three actions."""


@dataclass(frozen=True)
class SuccessResult:
    """The episodes of one policy in one environment. Equality is that of the episodes, not of the machine's speed."""

    episodes: tuple[Episode, ...]
    """In the order of their seeds."""
    latency_ms: float = field(compare=False)
    """Median wall time of one call of the policy, for `num_envs` observations at once."""
    num_envs: int = field(compare=False)
    """How many episodes ran side by side."""

    @property
    def seed(self) -> int:
        """Of the first episode; the others follow one by one."""
        return self.episodes[0].seed

    @property
    def n(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def successes(self) -> int:
        """Number of episodes that succeeded."""
        return sum(e.success for e in self.episodes)

    @property
    def rate(self) -> float:
        """Share of episodes that succeeded."""
        return self.successes / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the rate, over starts and policy noise (not over training seeds)."""
        return wilson(self.successes, self.n)

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return mean(e.total_reward for e in self.episodes)

    @property
    def return_interval(self) -> Interval | None:
        """95 % t-interval of the mean return, over starts and policy noise; None for one episode or equal returns."""
        return mean_interval([e.total_reward for e in self.episodes])

    @property
    def median_time_to_success(self) -> float | None:
        """Seconds, over the episodes that succeeded; None if none did."""
        times = [e.time_to_success for e in self.episodes if e.time_to_success is not None]
        return median(times) if times else None

    @property
    def roughness(self) -> float | None:
        """Mean over the episodes that have one; see `Episode.roughness`."""
        values = [e.roughness for e in self.episodes if e.roughness is not None]
        return mean(values) if values else None

    def lines(self) -> Iterator[str]:
        """One JSON object per episode, reproducible byte for byte."""
        return (json.dumps(asdict(e)) for e in self.episodes)

    def to_json(self) -> dict[str, Json]:
        """The summary, flat."""
        return {
            "successes": self.successes,
            "n": self.n,
            "rate": self.rate,
            "interval": list(self.interval),
            "seed": self.seed,
            "median_time_to_success": self.median_time_to_success,
            "mean_return": self.mean_return,
            "return_interval": to_json(self.return_interval),
            "roughness": self.roughness,
            "latency_ms": self.latency_ms,
            "num_envs": self.num_envs,
        }


class _Timed:
    """A policy with a stopwatch."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.milliseconds: list[float] = []

    def reset(self, seeds: Sequence[int]) -> None:
        self.policy.reset(seeds)

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        start = perf_counter()
        chunk = self.policy.act(obs).cpu()  # the copy waits for an accelerator to finish
        self.milliseconds.append(1000 * (perf_counter() - start))
        return chunk


def _episode(trajectory: Trajectory, seed: int, fps: int) -> Episode:
    action = trajectory.action[:-1]
    succeeded = trajectory.success.nonzero()
    return Episode(
        seed=seed,
        task=trajectory.obs.task[0],
        success=len(succeeded) > 0,
        steps=len(action),
        time_to_success=(int(succeeded[0]) + 1) / fps if len(succeeded) else None,
        total_reward=float(trajectory.reward.sum()),
        roughness=float(action.diff(n=2, dim=0).abs().mean()) if len(action) > 2 else None,
    )


def check_fit(policy: Policy, env: Environment) -> None:
    """Raise `UsageError` where a policy says that it was made for another environment."""
    if isinstance(policy, Specified):
        policy.spec.check(env.contract)


def success(
    policy: Policy,
    env: Environment,
    episodes: int = 100,
    seed: int = 0,
    on_episode: Callable[[Episode, Trajectory], None] | None = None,
) -> SuccessResult:
    """Run a policy from the starts `seed`, `seed + 1`, … and count how often it succeeds.

    The episodes run in waves of `env.num_envs` side by side, which changes the time it takes and nothing else.

    Args:
        policy: its `spec`, if it has one, is checked against the environment's contract first.
        env: lockstep, real or imagined; it alone judges success.
        episodes: how many.
        seed: of the first start.
        on_episode: called with each episode's record and its trajectory, leading axes (t,), once its wave is over: for
            progress and for videos.

    Raises:
        UsageError: the policy and the environment disagree, or `episodes` is not positive.
    """
    if episodes < 1:
        raise UsageError(f"cannot evaluate {episodes} episodes; needed at least 1.")
    check_fit(policy, env)
    timed = _Timed(policy)
    records: list[Episode] = []
    while len(records) < episodes:
        first = seed + len(records)
        wave = rollout(timed, env, first)
        for i in range(min(env.num_envs, episodes - len(records))):
            trajectory = wave.episode(i)
            records.append(_episode(trajectory, first + i, env.contract.fps))
            if on_episode is not None:
                on_episode(records[-1], trajectory)
    return SuccessResult(tuple(records), median(timed.milliseconds), env.num_envs)
