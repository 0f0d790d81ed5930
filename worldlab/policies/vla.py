"""A vision-language-action policy: the trunk reads images and instruction once, a head writes a chunk of actions.

Only the head differs between policies; scaling, grounding, the labels and the noise are the same code for all.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.normalize import QuantileScale, Standardize, Statistics
from worldlab.policies.backbone import Backbone
from worldlab.policies.backbone_config import BackboneConfig
from worldlab.policies.grounding import Grounding, GroundingConfig, Labels, Pointing
from worldlab.policies.prefix import Prefix
from worldlab.runs import Json, to_json
from worldlab.trajectory import Observation, Spec, Trajectory

_FOLLOWED = 1e-3
"""An executed action this near the expert's was the expert's, in the units of actions."""


@dataclass(frozen=True, kw_only=True)
class VLAConfig:
    """What every head has in common."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The trunk."""
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    """The pointing task; it needs labels that only a simulator has."""
    cameras: tuple[str, ...] | None = None
    """Cameras to look through; None takes all that the data has."""
    chunk: int = 8
    """Actions predicted at once."""
    execute: int = 4
    """Actions executed before looking again."""
    pace: float | None = 1.2
    """Joint targets are predicted as mean velocities from the present position in units of this many rad/s, about the
    fastest that the demonstrations move. None predicts the targets themselves, as is done for other kinds of action."""


class Head(nn.Module):
    """What turns the trunk's prefix and a few facts into a chunk of actions (scaled to about [-1, 1])."""

    @abstractmethod
    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The scalar to minimise over the steps that are real, and what to log."""

    @abstractmethod
    def sample(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Sequence[Float[Tensor, "b _"]],
        seeds: Sequence[int],
        step: int,
        committed: Float[Tensor, "b c a"],
    ) -> Float[Tensor, "b k a"]:
        """A chunk for each row that goes on from the committed actions, its noise keyed by (seed, step)."""


class Facts(nn.ModuleList):
    """Each fact (the joint positions, the point) as one token."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__([nn.Linear(size, width) for size in sizes])

    def forward(self, facts: Sequence[Float[Tensor, "b _"]]) -> Float[Tensor, "b f d"]:
        """One token per fact."""
        return torch.stack([embed(fact) for embed, fact in zip(self, facts, strict=True)], 1)


class VLA(nn.Module):
    """A `Policy` and a `Trainable`. Made by `worldlab.policies.create` and `worldlab.policies.load`."""

    def __init__(
        self, config: VLAConfig, kind: str, spec: Spec, statistics: Statistics, backbone: Backbone, head: Head
    ) -> None:
        """`spec` is that of the data, with its privileged columns; the policy's own holds the cameras it looks through.

        Raises:
            UsageError: more actions are to be executed than predicted.
        """
        super().__init__()
        if not 1 <= config.execute <= config.chunk:
            raise UsageError(f"execute must be 1 to chunk ({config.chunk}), was {config.execute}.")
        self.config, self.kind, self.statistics = config, kind, statistics
        self.spec = replace(spec, cameras={name: spec.cameras[name] for name in backbone.cameras})
        self.backbone, self.head = backbone, head
        self.scale_state, self.scale_action = Standardize(statistics.state), QuantileScale(statistics.action)
        moving = config.pace is not None and spec.control == "joint_position" and spec.state == spec.action
        self.pace = config.pace if moving else None
        self.labels = Labels(spec, config.grounding.camera)
        self.expert = expert_columns(spec)
        self.grounding = None
        if config.grounding.weight > 0:
            self.grounding = Grounding(backbone.width, backbone.map_width, backbone.centres)
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def describe(self) -> dict[str, Json]:
        """What config.json needs, so that `worldlab.policies.load` can build the module again."""
        return {
            "kind": self.kind,
            "model": to_json(self.config),
            "spec": to_json(self.spec),
            "statistics": to_json(self.statistics),
            "backbone": self.backbone.describe(),
        }

    def _read(self, obs: Observation, task: Sequence[str]) -> tuple[Prefix, list[Tensor], Tensor | None]:
        """The prefix, the facts for the head, and where the grounding points (log-probabilities)."""
        prefix = self.backbone(obs.images, task)
        facts, logp = [self.scale_state(obs.state)], None
        if self.grounding is not None:
            logp = self.grounding(prefix.words, prefix.spoken, prefix.map)
            facts.append(2 * self.grounding.point(logp) - 1)
        return prefix, facts, logp

    def _scaled(self, action: Float[Tensor, "b k a"], state: Float[Tensor, "b s"]) -> Float[Tensor, "b k a"]:
        """Environment units -> what the head predicts."""
        if self.pace is None:
            return self.scale_action(action)
        return (action - state[:, None]) / self._reach(action)

    def _unscaled(self, chunk: Float[Tensor, "b k a"], state: Float[Tensor, "b s"]) -> Float[Tensor, "b k a"]:
        """The inverse of `_scaled`."""
        if self.pace is None:
            return self.scale_action.invert(chunk)
        return state[:, None] + chunk * self._reach(chunk)

    def _reach(self, chunk: Float[Tensor, "b k a"]) -> Float[Tensor, "k 1"]:
        """How far a joint gets in 1, 2, … steps at the pace, radians."""
        assert self.pace is not None
        return torch.arange(1, chunk.shape[1] + 1).to(chunk)[:, None] * (self.pace / self.spec.fps)

    def _actions(self, batch: Trajectory) -> tuple[Float[Tensor, "b k a"], Bool[Tensor, "b k"]]:
        """The chunk to imitate and which steps of it count; after the last of them its target is held.

        Where the demonstration was disturbed, the expert's later actions answer the disturbance, which the first
        observation cannot foretell: the chunk ends there.
        """
        k = self.config.chunk
        action, real = batch.action[:, :k], batch.valid[:, :k]
        if self.expert and batch.privileged is not None:
            executed, action = action, batch.privileged[:, :k, self.expert]
            followed = ((executed - action).abs().amax(-1) < _FOLLOWED).long().cumprod(-1)
            real = torch.cat([real[:, :1], real[:, 1:] & (followed[:, :-1] > 0)], 1)
        last = (real.long().sum(-1, keepdim=True) - 1).clamp(min=0)
        held = torch.minimum(torch.arange(k, device=real.device), last)
        chunk = action.gather(1, held[..., None].expand(-1, -1, action.shape[-1]))
        scaled = self._scaled(chunk, batch.obs.state[:, 0])
        return torch.where(real.any(-1)[:, None, None], scaled, 0.0), real

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Imitate the window's chunk from its first observation.

        The window must be about actions: observations for its first row alone, and valid rows only where there is an
        action (an episode's last row has none); this is what `Windows(store, length=chunk, observed=1)` gives.

        Raises:
            UsageError: the windows are shorter than a chunk, or hold observations of later rows.
        """
        rows, seen = batch.valid.shape[1], batch.obs.state.shape[1]
        if rows < self.config.chunk or seen != 1:
            raise UsageError(
                f"training windows hold {rows} rows and {seen} observation(s); "
                f"this policy needs {self.config.chunk} rows and 1 observation."
            )
        obs = batch.obs.map(lambda x: x[:, 0])
        labels = self._labels(batch, obs)
        prefix, facts, logp = self._read(obs, labels.task if labels else obs.task)
        action, real = self._actions(batch)
        if labels is not None:
            real = real & ~labels.changed[:, None]
        loss, metrics = self.head.loss(self.backbone, prefix, facts, action, real)
        if self.grounding is not None and labels is not None and logp is not None:
            pointing, error = self.grounding.loss(logp, labels)
            metrics |= {"pointing": pointing, "pointing_error": error}
            loss = loss + self.config.grounding.weight * pointing
        return loss, metrics

    def _labels(self, batch: Trajectory, obs: Observation) -> Pointing | None:
        """What the instruction names, where the data knows it."""
        if self.grounding is None or batch.privileged is None or not self.labels.colours:
            return None
        labels = self.labels.draw(obs.task, batch.privileged[:, 0], self.config.grounding.relabel)
        return replace(labels, known=labels.known & batch.valid[:, 0])

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self._seeds, self._step = tuple(seeds), 0

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next `execute` actions of each episode, in environment units.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        return self.plan(obs)[:, : self.config.execute]

    @torch.inference_mode()
    def plan(self, obs: Observation, committed: Float[Tensor, "b c a"] | None = None) -> Float[Tensor, "b k a"]:
        """The whole chunk of each episode, in environment units.

        With `committed`, the actions that will be executed while this computes, the chunk begins with them, and the
        rest is sampled given them: real-time chunking (Black, Galliker and Levine 2025, arXiv:2506.07339) by
        inpainting. At most a whole chunk is taken from them.

        On a CPU every episode is computed alone: the kernels there round a row differently depending on the rows beside
        it, and an episode must not depend on its company. On other devices the batch is computed at once, and rows
        agree up to rounding.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        if len(obs.task) != len(self._seeds):
            raise UsageError(
                f"the policy was reset for {len(self._seeds)} episodes, but {len(obs.task)} ask it to act."
            )
        device = self.scale_state.mean.device
        if committed is None:
            committed = obs.state.new_zeros(len(obs.task), 0, len(self.spec.action))
        together = 1 if device.type == "cpu" else len(obs.task)
        chunks: list[Tensor] = []
        for start in range(0, len(obs.task), together):
            rows = slice(start, start + together)
            part = replace(obs.map(lambda x, rows=rows: x[rows].to(device)), task=obs.task[rows])
            prefix, facts, _ = self._read(part, part.task)
            known = committed[rows, : self.config.chunk].to(device)
            given = self._scaled(known, part.state)
            chunk = self.head.sample(self.backbone, prefix, facts, self._seeds[rows], self._step, given)
            chunks.append(torch.cat([known, self._unscaled(chunk, part.state)[:, known.shape[1] :]], 1))
        self._step += self.config.execute
        chunk = torch.cat(chunks)
        return chunk.clamp(chunk.new_tensor(self.spec.low), chunk.new_tensor(self.spec.high))


def expert_columns(spec: Spec) -> list[int]:
    """Columns of the expert's clean action, in the order of `spec.action`; empty where there are none."""
    names = [f"expert.{name}" for name in spec.action]
    return [spec.privileged.index(n) for n in names] if all(n in spec.privileged for n in names) else []
