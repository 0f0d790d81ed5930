"""Dreamer: a world model, and a policy that has only ever acted in its dreams (Hafner et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab.dynamics.actor_critic import ActorCritic, ActorCriticConfig
from worldlab.dynamics.filtered import some_of
from worldlab.dynamics.planners import MAX_STEP
from worldlab.dynamics.rssm import RSSM
from worldlab.dynamics.rssm_config import RSSMConfig
from worldlab.normalize import Statistics
from worldlab.runs import Json, described
from worldlab.seeding import normal, uniform
from worldlab.trajectory import Observation, Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class DreamerConfig:
    """`Dreamer`."""

    kind: Literal["dreamer"] = "dreamer"
    """Names the model in a run."""
    world: RSSMConfig = field(default_factory=RSSMConfig)
    """The world model."""
    behaviour: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """Actor and critic."""
    repeat: int = 1
    """Control steps for which an action is repeated, which is one step of the model."""


class Dreamer(nn.Module):
    """An RSSM with an actor and a critic, which learn together: the model from data, the other two from its dreams.

    As a `Policy` it acts by the mean of its distribution; with `explore` it draws. Where actions are joint targets, the
    actor says how far each joint should move from where it is, at most 0.12 rad a step, as planners do.
    """

    def __init__(self, config: DreamerConfig, spec: Spec, statistics: Statistics) -> None:
        """`spec` and `statistics` are those of the data.

        Raises:
            UsageError: a camera does not exist, or what the belief should carry is not seen.
        """
        super().__init__()
        self.config, self.statistics, self._data_spec = config, statistics, spec
        # A step of the model is `repeat` control steps.
        self.world = RSSM(config.world, replace(spec, fps=spec.fps // config.repeat), statistics)
        self.behaviour = ActorCritic(config.behaviour, self.world.width, len(spec.action))
        self.explore = False
        """Whether actions are drawn."""
        self.register_buffer("low", torch.tensor(spec.low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.high), persistent=False)
        self.reset(())

    low: Tensor
    high: Tensor

    @property
    def spec(self) -> Spec:
        """What it needs to see, and the range of its actions."""
        return replace(self.world.spec, fps=self._data_spec.fps)

    def describe(self) -> dict[str, Json]:
        """Everything that `load` needs except the weights."""
        return described(self.config.kind, model=self.config, spec=self._data_spec, statistics=self.statistics)

    # Training

    @property
    def compiles(self) -> list[tuple[nn.Module, str]]:
        """Those of the world model, and what actor and critic learn from dreams; dreaming itself gains nothing."""
        return [*self.world.compiles, (self.behaviour, "losses")]

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """World model, actor and critic, whose gradients do not meet: beliefs are given to the latter two without.

        Raises:
            UsageError: the windows are too short.
        """
        losses, filtered = self.world.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        before = torch.cat([torch.zeros_like(batch.terminated[:, :1]), batch.terminated[:, :-1]], 1)
        some = some_of((batch.valid & ~before).flatten(), self.config.behaviour.starts)
        with torch.no_grad():
            dream = self.behaviour.dream(self.world, filtered.belief.detach().flatten(0, 1)[some], self.action)
        learnt = self.behaviour.losses(dream)
        told = {
            "imagined_reward": dream.reward.mean(),
            "deviation": self.behaviour.distribution(dream.features[:, 0]).stddev.mean(),
            "return_range": self.behaviour.scale.high - self.behaviour.scale.low,
        }
        return total + learnt["actor"] + learnt["critic"], losses | learnt | told

    def action(self, belief: Float[Tensor, "b d"], move: Float[Tensor, "b a"]) -> Float[Tensor, "b a"]:
        """A move in -1..1 in environment units."""
        if self.world.carried and self.world.body.servo:
            return torch.clamp(self.world.proprioception(belief) + MAX_STEP * move, self.low, self.high)
        return self.low + (move + 1) / 2 * (self.high - self.low)

    # A policy

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed, having seen nothing."""
        self._seeds, self._step = tuple(seeds), 0
        self._belief: Tensor | None = None
        self._action = self.low

    @torch.no_grad()
    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next action of each episode, `repeat` times."""
        device, n = self.low.device, len(self._seeds)
        # On a CPU the last bits of a row depend on the rows beside it.
        together = 1 if device.type == "cpu" else n
        obs = obs.to(device)
        seen = uniform(self._seeds, 2 * self._step, (self.world.size.stoch,)).to(device)
        drawn = normal(self._seeds, 2 * self._step + 1, (len(self.low),)).to(device)
        parts = [self._act(obs, seen, drawn, slice(i, i + together)) for i in range(0, n, together)]
        self._belief, self._action = (torch.cat(column) for column in zip(*parts, strict=True))
        self._step += 1
        return self._action[:, None].expand(-1, self.config.repeat, -1)

    def _act(self, obs: Observation, seen: Tensor, drawn: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Beliefs and actions of some of the episodes."""
        now = obs.map(lambda x: x[rows])
        if self._belief is None:
            belief = self.world.begin(now, seen[rows])
        else:
            belief = self.world.update(self._belief[rows], self._action[rows], now, seen[rows])
        chosen = self.behaviour.distribution(self.world.features(belief))
        move = chosen.mean + chosen.stddev * drawn[rows] if self.explore else chosen.mean
        return belief, self.action(belief, move.clamp(-1, 1))
