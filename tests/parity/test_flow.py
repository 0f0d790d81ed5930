"""Our flow matching against diffusers' scheduler and transformers' pi0."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from policies.synthetic import HEADS, make_policy, read
from transformers import PI0Config
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from worldlab.policies.action_expert import time_embedding
from worldlab.policies.head import Noise


def test_sampling_is_the_euler_integrator_of_diffusers():
    policy = make_policy(HEADS["flow"])
    with torch.inference_mode():
        prefix, facts = read(policy)
        ours = policy.head.sample(policy.backbone, prefix, facts, Noise(range(8), 3), torch.zeros(8, 0, 6))
        n = policy.config.euler_steps
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=[1 - i / n for i in range(n)])
        x = Noise(range(8), 3).normal(4, 6)[:, None]
        context = policy.head.expert.read(prefix, facts, 4)
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            x = scheduler.step(policy.head.expert(context, x, sigma.expand(8, 1, 4)), timestep, x).prev_sample
    torch.testing.assert_close(ours, x[:, 0], rtol=1e-5, atol=1e-5)


def test_times_are_embedded_as_in_pi0():
    config = PI0Config(dit_config={"model_type": "gemma", "hidden_size": 64}, min_period=4e-3, max_period=4.0)
    t = torch.linspace(0, 1, 33)
    torch.testing.assert_close(time_embedding(t, 64), PI0TimestepEmbeddings(config)(t), rtol=0, atol=2e-4)
