"""Diffusion as in Diffusion Policy (Chi et al. 2023): trained as a DDPM, sampled by DDIM, on pi0's action expert.

The noise schedules and the sampler are diffusers'. Only the objective and the sampler differ from the flow head.
"""

# pyright: reportArgumentType=false
# diffusers declares times as IntTensor, which no tensor is to a type checker.

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.policies.action_expert import ActionExpert
from worldlab.policies.backbone import Backbone, Prefix
from worldlab.policies.head import Facts, Head, Interface, Noise, masked_mean
from worldlab.policies.vla import VLAConfig


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(VLAConfig):
    """A denoising-diffusion action expert."""

    kind: Literal["diffusion"] = "diffusion"
    """Tells the heads apart in a run."""
    width: int = 64
    """Width of the action expert; its depth and heads are the language model's."""
    draws: int = 6
    """Noise draws for each observation of a training batch; they share one prefix."""
    levels: int = 100
    """Noise levels of the DDPM."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """What the expert predicts: the noise (Diffusion Policy), the chunk, or the velocity of Salimans and Ho (2022)."""
    ddim_steps: int = 10
    """Denoising steps of a sample."""


class DiffusionHead(Head):
    """Denoises a chunk step by step."""

    def __init__(self, config: DiffusionConfig, backbone: Backbone, interface: Interface) -> None:
        """Set up the expert beside the trunk, and the schedules."""
        super().__init__()
        self.config, self.chunk = config, (interface.steps, interface.actions)
        self.expert = ActionExpert(backbone.language.config, config.width, interface)
        # Without signal at the last level, as a sample begins (Lin et al. 2023, arXiv:2305.08891); noise alone cannot
        # be predicted from there.
        blank = config.prediction != "epsilon"
        self.noising = DDPMScheduler(
            config.levels,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=config.prediction,
            rescale_betas_zero_snr=blank,
        )
        self.denoising = DDIMScheduler(
            config.levels,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=config.prediction,
            rescale_betas_zero_snr=blank,
            clip_sample_range=1.5,
            timestep_spacing="trailing",
        )

    def _levels(self, t: Tensor, like: Float[Tensor, "b n k a"]) -> Float[Tensor, "b n k"]:
        """Diffusion steps (b, n) as times in (0, 1]."""
        return ((t + 1) / self.config.levels).to(like)[..., None].expand(like.shape[:3])

    def loss(
        self,
        backbone: Backbone,
        prefix: Prefix,
        facts: Facts,
        action: Float[Tensor, "b k a"],
        real: Bool[Tensor, "b k"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Squared error of the prediction over real steps, the level drawn uniformly."""
        b, n, k = len(action), self.config.draws, action.shape[1]
        clean = action[:, None].expand(-1, n, -1, -1)
        noise = torch.randn_like(clean)
        t = torch.randint(self.config.levels, (b, n), device=action.device)
        x = self.noising.add_noise(clean.flatten(0, 1), noise.flatten(0, 1), t.flatten()).unflatten(0, (b, n))
        if self.config.prediction == "epsilon":
            wanted = noise
        elif self.config.prediction == "sample":
            wanted = clean
        else:
            wanted = self.noising.get_velocity(clean.flatten(0, 1), noise.flatten(0, 1), t.flatten())
            wanted = wanted.unflatten(0, (b, n))
        told = self.expert(self.expert.read(prefix, facts, k), x, self._levels(t, x)).float()
        loss = masked_mean((told - wanted).square().mean(-1), real[:, None].expand(-1, n, -1))
        return loss, {"diffusion": loss}

    def sample(
        self, backbone: Backbone, prefix: Prefix, facts: Facts, noise: Noise, committed: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b k a"]:
        """DDIM from noise to a chunk; what is committed is kept by inpainting at each level's noise."""
        context = self.expert.read(prefix, facts, self.chunk[0])
        start = noise.normal(*self.chunk).to(facts[0])
        self.denoising.set_timesteps(self.config.ddim_steps)
        x, c = start, committed.shape[1]
        for step in self.denoising.timesteps:
            if c:
                x = torch.cat([self.denoising.add_noise(committed, start[:, :c], step[None]), x[:, c:]], 1)
            told = self.expert(context, x[:, None], self._levels(step.expand(len(x), 1), x[:, None]))[:, 0]
            x = self.denoising.step(told, int(step), x, return_dict=False)[0]
        return torch.cat([committed, x[:, c:]], 1)
