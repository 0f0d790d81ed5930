"""A baseline that sees nothing: an MLP from the joint positions to a chunk. What it achieves, no camera explains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab.normalize import Standardize, Statistics
from worldlab.policies.chunks import Chunks, check_company, check_execute
from worldlab.policies.head import masked_mean
from worldlab.runs import Json, described
from worldlab.trajectory import Observation, Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class StateOnlyConfig:
    """The MLP."""

    kind: Literal["state-only"] = "state-only"
    """Tells the policies apart in a run."""
    width: int = 256
    """Width of its hidden layers."""
    layers: int = 3
    """Its hidden layers."""
    chunk: int = 8
    """Actions predicted at once."""
    execute: int = 4
    """Actions executed before looking again."""
    pace: float | None = 1.2
    """See `VLAConfig`."""


class StateOnlyPolicy(nn.Module):
    """Regresses the chunk on the joint positions alone, by mean absolute error."""

    def __init__(self, config: StateOnlyConfig, spec: Spec, statistics: Statistics) -> None:
        """`spec` is that of the data, with its privileged columns.

        Raises:
            UsageError: more actions are to be executed than predicted.
        """
        super().__init__()
        check_execute(config.execute, config.chunk)
        self.config, self.statistics = config, statistics
        self.spec = replace(spec, cameras={})
        self.scale_state = Standardize(statistics.state)
        self.chunks = Chunks(spec, statistics, config.chunk, config.pace)
        sizes = [len(spec.state), *[config.width] * config.layers]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(config.width, config.chunk * len(spec.action)))
        self._episodes = 0

    def describe(self) -> dict[str, Json]:
        """What config.json needs, so that `worldlab.policies.load` can build the module again."""
        return described(self.config.kind, model=self.config, spec=self.spec, statistics=self.statistics)

    def forward(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b k a"]:
        """The scaled chunk."""
        return self.layers(self.scale_state(state)).unflatten(-1, (self.config.chunk, -1)).float()

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean absolute error over real steps; see `VLA.loss`."""
        self.chunks.check(batch)
        action, real = self.chunks.targets(batch)
        loss = masked_mean((self(batch.obs.state[:, 0]) - action).abs().mean(-1), real)
        return loss, {"l1": loss}

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are executed before looking again."""
        return self.config.execute

    @property
    def supports_rtc(self) -> bool:
        """It does not look at what is committed."""
        return False

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed; nothing is random."""
        self._episodes = len(seeds)

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next `execute` actions of each episode, in environment units.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        return self.plan(obs)[:, : self.config.execute]

    @torch.inference_mode()
    def plan(self, obs: Observation, committed: Float[Tensor, "b c a"] | None = None) -> Float[Tensor, "b k a"]:
        """The whole chunk of each episode; what is committed comes first.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        check_company(obs, self._episodes)
        state = obs.state.to(self.scale_state.mean)
        chunk = torch.cat([self.chunks.unscaled(self(row[None]), row[None]) for row in state])
        return self.chunks.complete(chunk, self.chunks.committed(committed, state))
