"""How a policy's chunks become movement: how often it looks again, blending, and actions that compute late.

Each is a `Policy` around a `ChunkPolicy`, so that any policy that plans chunks can be evaluated in every way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.protocols import Policy
from worldlab.trajectory import Observation, Spec


@runtime_checkable
class ChunkPolicy(Protocol):
    """A policy that can tell the whole chunk that it plans, not only what it would execute of it."""

    @property
    def spec(self) -> Spec:
        """The contract it was made for."""
        ...

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that it would execute."""
        ...

    @property
    def supports_rtc(self) -> bool:
        """Whether what it plans goes on from committed actions, as real-time chunking needs."""
        ...

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        ...

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next actions of each episode."""
        ...

    def plan(self, obs: Observation, committed: Float[Tensor, "b c a"] | None = None) -> Float[Tensor, "b k a"]:
        """The whole chunk of each episode, beginning with what is committed."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How to execute chunks; the default is the policy's own way."""

    execute: int | None = None
    """Actions executed before looking again; None leaves it to the policy."""
    ensemble: float | None = None
    """Look at every step and blend what all plans say about it, the i-th oldest weighing exp(-ensemble * i): temporal
    ensembling of ACT (Zhao et al. 2023), where it is 0.01. None does not blend."""
    delay: int = 0
    """Control steps that a plan takes to compute, on a clock of control steps, so that results do not depend on the
    machine. Meanwhile the previous plan is executed."""
    rtc: bool = True
    """Whether the policy is told what will be executed meanwhile (real-time chunking). Otherwise, and where it cannot
    make use of that, the new plan simply takes over where it has got to."""

    @property
    def own_way(self) -> bool:
        """Whether nothing was asked for."""
        return self == ExecutionConfig(rtc=self.rtc)


class Execution:
    """A policy whose chunks are executed as asked for."""

    def __init__(self, policy: ChunkPolicy, config: ExecutionConfig) -> None:
        """Nothing is computed before the first `act`.

        Raises:
            UsageError: a number makes no sense, two ways exclude each other, or a plan would take longer to compute
                than what is executed of the one before.
        """
        if config.ensemble is not None and (config.execute not in (None, 1) or config.delay):
            raise UsageError(
                "ensembling looks again at every step and at once; --execute and --delay do not go with it."
            )
        if config.delay < 0 or (config.execute is not None and config.execute < 1):
            raise UsageError(
                f"--delay must be at least 0 and --execute at least 1; got {config.delay}, {config.execute}."
            )
        self.n_action_steps = config.execute or policy.n_action_steps
        if config.delay > self.n_action_steps:
            raise UsageError(
                f"a plan that takes {config.delay} steps to compute is not there when the next is begun after "
                f"{self.n_action_steps}; give --execute {config.delay} or more."
            )
        self.policy, self.config = policy, config
        self.rtc = config.rtc and policy.supports_rtc
        self._plans: list[Float[Tensor, "b k a"]] = []

    @property
    def spec(self) -> Spec:
        """The policy's."""
        return self.policy.spec

    def describe(self) -> list[str]:
        """How it executes, where that was asked for: NAME=VALUE."""
        config = self.config
        asked = {"execute": config.execute, "ensemble": config.ensemble, "delay": config.delay or None}
        named = [f"{name}={value:g}" for name, value in asked.items() if value is not None]
        return named if self.rtc or not config.delay else [*named, "naive"]

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self._plans = []
        self.policy.reset(seeds)

    def act(self, obs: Observation) -> Float[Tensor, "b m a"]:
        """The next actions of each episode.

        Raises:
            UsageError: the policy's chunks are shorter than what is to be executed of them.
        """
        return self._blended(obs) if self.config.ensemble is not None else self._chunked(obs)

    def _blended(self, obs: Observation) -> Float[Tensor, "b 1 a"]:
        """The weighted mean of what every plan that reaches to this step says about it."""
        self._plans.append(self.policy.plan(obs))
        self._plans = self._plans[-self._plans[-1].shape[1] :]
        said = torch.stack([plan[:, age] for age, plan in enumerate(reversed(self._plans))][::-1], 1)
        assert self.config.ensemble is not None
        weight = torch.exp(-self.config.ensemble * torch.arange(said.shape[1])).to(said)
        return (said * (weight / weight.sum())[:, None]).sum(1, keepdim=True)

    def _chunked(self, obs: Observation) -> Float[Tensor, "b m a"]:
        """The first actions of a new plan, which begins with what is left of the previous one while it computes."""
        delay, execute = self.config.delay, self.n_action_steps
        meanwhile = self._plans[-1][:, execute : execute + delay] if self._plans and delay else None
        plan = self.policy.plan(obs, meanwhile if self.rtc else None)
        if execute + delay > plan.shape[1]:
            raise UsageError(
                f"the policy plans {plan.shape[1]} actions, too few to execute {execute} and compute for {delay} more."
            )
        if meanwhile is not None:
            plan = torch.cat([meanwhile, plan[:, delay:]], 1)
        self._plans = [plan]
        return plan[:, :execute]


def execute(policy: Policy, config: ExecutionConfig, name: str = "the policy") -> Execution:
    """A policy whose chunks are executed as asked for.

    Raises:
        UsageError: it does not plan chunks, or the numbers make no sense.
    """
    if not isinstance(policy, ChunkPolicy):
        raise UsageError(
            f"{name} plans no chunks, so there is no other way of executing them; leave these options out."
        )
    return Execution(policy, config)
