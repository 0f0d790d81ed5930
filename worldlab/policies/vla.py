"""A vision-language-action policy: the trunk reads images and instruction once, a head writes a chunk of actions.

Only the head differs between policies; scaling, grounding, the labels and the noise are the same code for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab.normalize import QuantileScale, Standardize, Statistics
from worldlab.policies.backbone import Backbone, BackboneConfig, Prefix
from worldlab.policies.chunks import Chunks, check_company, check_execute
from worldlab.policies.grounding import Grounding, GroundingConfig, Labels, Pointing
from worldlab.policies.head import Head, Noise
from worldlab.runs import Json, described
from worldlab.trajectory import Observation, Spec, Trajectory

STATE_BINS = 256
"""Numbers that the joint positions in a prompt are rounded to."""


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
    """Joint targets are predicted as mean velocities from the present position in units of this many rad/s. Bins end at
    1, which the fastest demonstrations exceed (1.3 on Lift, 1.4 on Push). None predicts the targets themselves, as is
    done for other kinds of action."""
    direct: bool = True
    """Whether the tokens that become actions are told the facts (joint positions, point) at their entrance too. The
    published models leave it to attention, which takes a small model longer to learn."""
    state_in_prompt: bool = False
    """Whether the trunk reads the joint positions too, as numbers from 0 to 255 after the instruction (pi0.5)."""


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
        check_execute(config.execute, config.chunk)
        self.config, self.kind, self.statistics = config, kind, statistics
        self.spec = replace(spec, cameras={name: spec.cameras[name] for name in backbone.cameras})
        self.backbone, self.head = backbone, head
        self.scale_state, self.scale_prompt = Standardize(statistics.state), QuantileScale(statistics.state)
        self.chunks = Chunks(spec, statistics, config.chunk, config.pace)
        self.labels = Labels(spec, config.grounding.camera, config.grounding.at)
        self.grounding = None
        if config.grounding.weight > 0:
            points = len(config.grounding.at)
            self.grounding = Grounding(backbone.width, backbone.map_width, backbone.centres, points)
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def describe(self) -> dict[str, Json]:
        """What config.json needs, so that `worldlab.policies.load` can build the module again."""
        own = described(self.kind, model=self.config, spec=self.spec, statistics=self.statistics)
        return own | {"backbone": self.backbone.describe(), "head": self.head.describe()}

    def read(self, obs: Observation, task: Sequence[str]) -> tuple[Prefix, list[Tensor], Tensor | None]:
        """The prefix, the facts for the head, and where the grounding points (log-probabilities)."""
        notes = self.state_notes(obs.state) if self.config.state_in_prompt else None
        prefix = self.backbone(obs.images, task, notes)
        facts, logp = [self.scale_state(obs.state)], None
        if self.grounding is not None:
            logp = self.grounding(prefix.words, prefix.spoken, prefix.map)
            facts.append(2 * self.grounding.point(logp).flatten(1) - 1)
        return prefix, facts, logp

    def state_notes(self, state: Float[Tensor, "b s"]) -> list[str]:
        """Joint positions as text: [q01, q99] of the data in 256 steps."""
        bins = ((self.scale_prompt(state) + 1) / 2 * STATE_BINS).long().clamp(0, STATE_BINS - 1)
        return [f"state: {' '.join(map(str, row))}" for row in bins.tolist()]

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Imitate the window's chunk from its first observation.

        The window must be about actions: observations for its first row alone, and valid rows only where there is an
        action (an episode's last row has none); this is what `Windows(store, length=chunk, observed=1)` gives.

        Raises:
            UsageError: the windows are shorter than a chunk, or hold observations of later rows.
        """
        self.chunks.check(batch)
        obs = batch.obs.map(lambda x: x[:, 0])
        labels = self._labels(batch, obs)
        prefix, facts, logp = self.read(obs, labels.task if labels else obs.task)
        action, real = self.chunks.targets(batch)
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
        return replace(labels, known=labels.known & batch.valid[:, :1])

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are executed before looking again."""
        return self.config.execute

    @property
    def supports_rtc(self) -> bool:
        """Whether its head goes on from committed actions."""
        return self.head.supports_rtc

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
        rest is sampled given them, if the head can (`supports_rtc`): what real-time chunking is for (Black, Galliker
        and Levine 2025, arXiv:2506.07339), though without their guidance towards the rest of the previous chunk. At
        most a whole chunk is taken from them.

        On a CPU every episode is computed alone: the kernels there round a row differently depending on the rows beside
        it, and an episode must not depend on its company. On other devices the batch is computed at once, and rows
        agree up to rounding.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        check_company(obs, len(self._seeds))
        device = self.scale_state.mean.device
        known = self.chunks.committed(committed, obs.state.to(device))
        together = 1 if device.type == "cpu" else len(obs.task)
        chunks: list[Tensor] = []
        for start in range(0, len(obs.task), together):
            rows = slice(start, start + together)
            part = replace(obs.map(lambda x, rows=rows: x[rows].to(device)), task=obs.task[rows])
            prefix, facts, _ = self.read(part, part.task)
            given = self.chunks.scaled(known[rows], part.state)
            noise = Noise(self._seeds[rows], self._step)
            chunk = self.head.sample(self.backbone, prefix, facts, noise, given)
            chunks.append(self.chunks.complete(self.chunks.unscaled(chunk, part.state), known[rows]))
        self._step += self.config.execute
        return torch.cat(chunks)


def note_examples(state: int) -> list[str]:
    """Every number that can stand in a prompt, in notes of `state` numbers, the longest among them."""
    numbers = range(STATE_BINS + state)
    rows = [[str(min(i, STATE_BINS - 1)) for i in numbers[start : start + state]] for start in range(0, 256, state)]
    return [f"state: {' '.join(row)}" for row in rows]
