"""LeRobot's own policies, trained by worldlab on the same windows: ACT and Diffusion Policy, to hold the heads against.

Network, loss and sampler are LeRobot's; targets, masks and evaluation are those of every other policy here. Neither
has a language model: which of the data's instructions is given stands in LeRobot's `observation.environment_state`,
one-hot, as multi-task versions of either have it. LeRobot takes 10 s to import; nothing here does so before a policy is
built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldlab import seeding
from worldlab.errors import UsageError
from worldlab.normalize import Standardize, Statistics
from worldlab.policies.chunks import Chunks, check_company, check_execute
from worldlab.runs import Json, described
from worldlab.trajectory import Observation, Spec, Trajectory

if TYPE_CHECKING:
    from lerobot.policies.pretrained import PreTrainedPolicy

_STATE, _IMAGE, _TASK = "observation.state", "observation.images.", "observation.environment_state"


@dataclass(frozen=True, kw_only=True)
class LeRobotConfig:
    """A LeRobot policy small enough for a CPU, from scratch (its ResNet would come from a hub)."""

    kind: Literal["lerobot"] = "lerobot"
    """Tells the policies apart in a run."""
    family: Literal["act", "diffusion"] = "act"
    """Which of LeRobot's policies."""
    cameras: tuple[str, ...] | None = None
    """Cameras to look through; None takes all that the data has."""
    width: int = 128
    """Of ACT's transformer, and of Diffusion Policy's first layer of its U-Net, whose second is twice as wide."""
    chunk: int = 8
    """Actions predicted at once; Diffusion Policy needs a multiple of 4."""
    execute: int = 4
    """Actions executed before looking again."""
    pace: float | None = 1.2
    """See `VLAConfig`."""
    ddim_steps: int = 10
    """Denoising steps of Diffusion Policy."""


class LeRobotBaseline(nn.Module):
    """A `Policy` and a `Trainable` around a `PreTrainedPolicy`."""

    def __init__(self, config: LeRobotConfig, spec: Spec, statistics: Statistics, tasks: Sequence[str] = ()) -> None:
        """`spec` is that of the data, with its privileged columns; `tasks` are the instructions that it tells apart.

        Raises:
            UsageError: a camera is missing, or the sizes do not fit each other.
        """
        super().__init__()
        check_execute(config.execute, config.chunk)
        names = tuple(spec.cameras) if config.cameras is None else config.cameras
        if missing := [name for name in names if name not in spec.cameras]:
            raise UsageError(f"the data has no camera '{missing[0]}'; it has {', '.join(spec.cameras) or 'none'}.")
        if config.family == "diffusion" and config.chunk % 4:
            raise UsageError(f"LeRobot's Diffusion Policy needs a chunk that is a multiple of 4, not {config.chunk}.")
        self.config, self.statistics, self.tasks = config, statistics, {task: i for i, task in enumerate(tasks)}
        self.spec = replace(spec, cameras={name: spec.cameras[name] for name in names})
        self.scale_state = Standardize(statistics.state)
        self.chunks = Chunks(spec, statistics, config.chunk, config.pace)
        self.policy = _build(config, self.spec, len(self.tasks))
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def describe(self) -> dict[str, Json]:
        """What config.json needs, so that `worldlab.policies.load` can build the module again."""
        tasks = list(self.tasks)
        return described(self.config.kind, model=self.config, spec=self.spec, statistics=self.statistics, tasks=tasks)

    def _batch(self, obs: Observation) -> dict[str, Tensor]:
        """LeRobot's keys, normalised as its pre-processor would."""
        seen = {f"{_IMAGE}{name}": obs.images[name].movedim(-1, -3).float() / 127.5 - 1 for name in self.spec.cameras}
        facts = {_STATE: self.scale_state(obs.state)}
        if self.tasks:
            which = torch.tensor([self.tasks.get(task, -1) for task in obs.task])
            facts[_TASK] = (which[:, None] == torch.arange(len(self.tasks))).to(obs.state)
        if self.config.family == "diffusion":  # whose observations have a time axis
            facts = {name: fact[:, None] for name, fact in facts.items()}
        return seen | facts

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """LeRobot's own loss over the steps that are real; see `VLA.loss`."""
        self.chunks.check(batch)
        action, real = self.chunks.targets(batch)
        given = self._batch(batch.obs.map(lambda x: x[:, 0])) | {"action": action, "action_is_pad": ~real}
        loss: Tensor = self.policy.forward(given)[0]
        return loss, {self.config.family: loss}

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are executed before looking again."""
        return self.config.execute

    @property
    def supports_rtc(self) -> bool:
        """Neither looks at what is committed."""
        return False

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
        """The whole chunk of each episode; what is committed comes first. Every episode is computed alone.

        Raises:
            UsageError: there are not as many observations as episodes.
        """
        check_company(obs, len(self._seeds))
        device = self.scale_state.mean.device
        rows: list[Tensor] = []
        seen = self._batch(obs.map(lambda x: x.to(device)))
        for i, seed in enumerate(self._seeds):
            row = {name: x[i : i + 1] for name, x in seen.items()}
            noise: Mapping[str, Tensor] = {}
            if self.config.family == "diffusion":
                noise = {"noise": seeding.normal([seed], self._step, (self.config.chunk, len(self.spec.action)))}
            rows.append(self.policy.predict_action_chunk(row, **{k: v.to(device) for k, v in noise.items()}))
        self._step += self.config.execute
        state = obs.state.to(device)
        return self.chunks.complete(
            self.chunks.unscaled(torch.cat(rows), state), self.chunks.committed(committed, state)
        )


def _build(config: LeRobotConfig, spec: Spec, tasks: int) -> "PreTrainedPolicy":
    """The policy with fresh weights, which tells so many instructions apart."""
    from lerobot.configs import FeatureType, PolicyFeature

    inputs = {f"{_IMAGE}{n}": PolicyFeature(FeatureType.VISUAL, (3, *size)) for n, size in spec.cameras.items()}
    inputs[_STATE] = PolicyFeature(FeatureType.STATE, (len(spec.state),))
    if tasks:
        inputs[_TASK] = PolicyFeature(FeatureType.ENV, (tasks,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (len(spec.action),))}
    if config.family == "act":
        from lerobot.policies.act.configuration_act import ACTConfig
        from lerobot.policies.act.modeling_act import ACTPolicy

        return ACTPolicy(
            ACTConfig(
                input_features=inputs,
                output_features=outputs,
                device="cpu",
                chunk_size=config.chunk,
                n_action_steps=config.execute,
                pretrained_backbone_weights=None,
                dim_model=config.width,
                dim_feedforward=4 * config.width,
                n_heads=4,
            )
        )
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    return DiffusionPolicy(
        DiffusionConfig(
            input_features=inputs,
            output_features=outputs,
            device="cpu",
            n_obs_steps=1,
            horizon=config.chunk,
            n_action_steps=config.chunk,
            pretrained_backbone_weights=None,
            use_group_norm=True,
            down_dims=(config.width, 2 * config.width),
            noise_scheduler_type="DDIM",
            num_inference_steps=config.ddim_steps,
            do_mask_loss_for_padding=True,
            clip_sample_range=1.5,
        )
    )
