"""How far a policy's actions are from the demonstrator's, without acting: a number in the units of actions.

Unlike a loss it can be compared between heads; unlike the accuracy of tokens it is measured free running. It does not
foretell success: small errors that always point the same way are worse than larger ones that do not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import median
from time import perf_counter

from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.protocols import Policy
from worldlab.trajectory import Trajectory


@dataclass(frozen=True)
class ActionError:
    """Mean absolute error over dimensions and executed steps."""

    mean: float
    """In action units (radians for joint targets)."""
    half_width: float
    """Of the 95 % interval over the windows (normal approximation)."""
    n: int
    """Windows."""


def action_error(
    policy: Policy, windows: Trajectory, action: Float[Tensor, "b k a"], real: Bool[Tensor, "b k"], seed: int = 0
) -> ActionError:
    """The error of what the policy would execute from each window's first observation.

    Args:
        policy: `act` is called once, for windows.valid.shape[0] episodes that begin.
        windows: observations for the first row at least.
        action: what the demonstrator would have done.
        real: which of it counts.
        seed: of the first window's noise.
    """
    obs = windows.obs.map(lambda x: x[:, 0])
    policy.reset([seed + i for i in range(len(real))])
    chunk = policy.act(obs).cpu()
    k = min(chunk.shape[1], action.shape[1])
    counted = real[:, :k]
    error = (chunk[:, :k] - action[:, :k]).abs().mean(-1)
    rows = ((error * counted).sum(1) / counted.sum(1).clamp(min=1))[counted.any(1)]
    spread = float(rows.std()) if len(rows) > 1 else 0.0
    return ActionError(float(rows.mean()), 1.96 * spread / sqrt(max(len(rows), 1)), len(rows))


def median_latency_ms(
    policy: Policy, windows: Trajectory, calls: int = 20, clock: Callable[[], float] = perf_counter
) -> float:
    """Median time of one plan for one observation, by a clock in seconds, after two calls to warm up."""
    obs = windows.pick([0]).obs.map(lambda x: x[:, 0])
    policy.reset([0])
    times: list[float] = []
    for _ in range(calls + 2):
        start = clock()
        policy.act(obs).cpu()
        times.append(1000 * (clock() - start))
    return median(times[2:])
