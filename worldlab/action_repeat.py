"""Policies and models of different pace: a step of a world model may be several control steps of an environment."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from worldlab.protocols import Policy
from worldlab.trajectory import Observation, Spec


def action_repeat_of(slow: Spec, fast: Spec) -> int:
    """Control steps of `fast` that are one step of `slow`; at least 1."""
    return max(1, round(fast.fps / slow.fps))


class _Paced:
    """Another policy, whose actions are of another pace than the environment's steps."""

    def __init__(self, policy: Policy, repeat: int) -> None:
        """`repeat` control steps of the environment are one step of the slower of the two."""
        self.policy, self.repeat = policy, repeat

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self.policy.reset(seeds)


class ActionRepeat(_Paced):
    """Another policy, each of whose actions is repeated for some control steps."""

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The actions of the other, `repeat` times each."""
        return self.policy.act(obs).repeat_interleave(self.repeat, 1)


class ActionSubsample(_Paced):
    """Another policy, of whose actions every `repeat`-th is taken, where the environment repeats each for so long."""

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """Every `repeat`-th action of the other's chunk."""
        return self.policy.act(obs)[:, :: self.repeat]
