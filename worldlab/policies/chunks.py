"""What a policy predicts: chunks of actions, scaled to about [-1, 1], and which of their steps are worth imitating."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.normalize import QuantileScale, Statistics
from worldlab.trajectory import Observation, Spec, Trajectory

_FOLLOWED = 1e-3
"""An executed action this near the expert's was the expert's, in the units of actions."""


class Chunks(nn.Module):
    """Targets of imitation, and the way back to environment units."""

    def __init__(self, spec: Spec, statistics: Statistics, chunk: int, pace: float | None) -> None:
        """`spec` is that of the data, with its privileged columns; `chunk` and `pace` are those of `VLAConfig`."""
        super().__init__()
        self.scale = QuantileScale(statistics.action)
        self.size, self.fps, self.pace = chunk, spec.fps, pace if spec.joint_targets else None
        self.expert = expert_columns(spec)
        self.low, self.high = spec.low, spec.high

    def scaled(self, action: Float[Tensor, "b k a"], state: Float[Tensor, "b a"]) -> Float[Tensor, "b k a"]:
        """Environment units -> what a head predicts."""
        if self.pace is None:
            return self.scale(action)
        return (action - state[:, None]) / self._reach(action)

    def unscaled(self, chunk: Float[Tensor, "b k a"], state: Float[Tensor, "b a"]) -> Float[Tensor, "b k a"]:
        """The inverse of `scaled`."""
        if self.pace is None:
            return self.scale.invert(chunk)
        return state[:, None] + chunk * self._reach(chunk)

    def complete(self, chunk: Float[Tensor, "b k a"], known: Float[Tensor, "b c a"]) -> Float[Tensor, "b k a"]:
        """A chunk in environment units, beginning with the actions that are known, within the range of actions."""
        whole = torch.cat([known, chunk[:, known.shape[1] :]], 1)
        return whole.clamp(whole.new_tensor(self.low), whole.new_tensor(self.high))

    def committed(
        self, committed: Float[Tensor, "b c a"] | None, state: Float[Tensor, "b _"]
    ) -> Float[Tensor, "b c a"]:
        """What is committed, at most a chunk of it, where the policy computes; nothing if there is nothing."""
        if committed is None:
            return state.new_zeros(len(state), 0, len(self.low))
        return committed[:, : self.size].to(state)

    def _reach(self, chunk: Float[Tensor, "b k a"]) -> Float[Tensor, "k 1"]:
        """How far a joint gets in 1, 2, … steps at the pace, radians."""
        assert self.pace is not None
        return torch.arange(1, chunk.shape[1] + 1).to(chunk)[:, None] * (self.pace / self.fps)

    def check(self, batch: Trajectory) -> None:
        """Raise `UsageError` where the windows are shorter than a chunk, or hold observations of later rows."""
        rows, seen = batch.valid.shape[1], batch.obs.state.shape[1]
        if rows < self.size or seen != 1:
            raise UsageError(
                f"training windows hold {rows} rows and {seen} observation(s); "
                f"this policy needs {self.size} rows and 1 observation."
            )

    def targets(self, batch: Trajectory) -> tuple[Float[Tensor, "b k a"], Bool[Tensor, "b k"]]:
        """The scaled chunk to imitate and which steps of it count; after the last of them its number is held."""
        action, real = labels(batch, self.size, self.expert)
        scaled = self.scaled(action, batch.obs.state[:, 0])
        last = (real.long().sum(-1, keepdim=True) - 1).clamp(min=0)
        held = torch.minimum(torch.arange(self.size, device=real.device), last)
        chunk = scaled.gather(1, held[..., None].expand(-1, -1, scaled.shape[-1]))
        return torch.where(real.any(-1)[:, None, None], chunk, 0.0), real


def labels(batch: Trajectory, k: int, expert: Sequence[int]) -> tuple[Float[Tensor, "b k a"], Bool[Tensor, "b k"]]:
    """The first k actions to imitate, in environment units, and which of them count.

    Where the demonstration was disturbed, the expert's later actions answer the disturbance, which the first
    observation cannot foretell: the chunk ends there.

    Args:
        batch: windows of a store.
        k: at most their length.
        expert: see `expert_columns`.
    """
    action, real = batch.action[:, :k], batch.valid[:, :k]
    if expert and batch.privileged is not None:
        executed, action = action, batch.privileged[:, :k, expert]
        followed = ((executed - action).abs().amax(-1) < _FOLLOWED).long().cumprod(-1)
        real = torch.cat([real[:, :1], real[:, 1:] & (followed[:, :-1] > 0)], 1)
    return action, real


def check_company(obs: Observation, episodes: int) -> None:
    """Raise `UsageError` where there are not as many observations as episodes."""
    if len(obs.task) != episodes:
        raise UsageError(f"the policy was reset for {episodes} episodes, but {len(obs.task)} ask it to act.")


def check_execute(execute: int, chunk: int) -> None:
    """Raise `UsageError` where more actions are to be executed than predicted, or none."""
    if not 1 <= execute <= chunk:
        raise UsageError(f"execute must be 1 to chunk ({chunk}), was {execute}.")


def expert_columns(spec: Spec) -> list[int]:
    """Columns of the expert's clean action, in the order of `spec.action`; empty where there are none."""
    names = [f"expert.{name}" for name in spec.action]
    return [spec.privileged.index(n) for n in names] if all(n in spec.privileged for n in names) else []
