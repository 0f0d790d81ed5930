"""Our flow matching against diffusers' scheduler and transformers' pi0."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from policies.synthetic import TASKS, flow, make_batch, make_spec, make_statistics
from transformers import PI0Config
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from worldlab import policies, seeding
from worldlab.policies.flow_policy import time_embedding


def test_sampling_is_the_euler_integrator_of_diffusers():
    spec = make_spec()
    policy = policies.create(flow(), spec, make_statistics(), TASKS).eval()
    obs = make_batch(spec).obs.map(lambda x: x[:, 0])
    with torch.inference_mode():
        prefix, facts, _ = policy._read(obs, obs.task)
        ours = policy.head.sample(policy.backbone, prefix, facts, range(8), 3, obs.state.new_zeros(8, 0, 6))
        n = policy.config.euler_steps
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=[1 - i / n for i in range(n)])
        x = seeding.normal(range(8), 3, (policy.config.chunk, 6))[:, None]
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            t = sigma.expand(8, 1)
            x = scheduler.step(policy.head.velocity(prefix, facts, x, t), timestep, x).prev_sample
    torch.testing.assert_close(ours, x[:, 0], rtol=1e-5, atol=1e-5)


def test_times_are_embedded_as_in_pi0():
    config = PI0Config(dit_config={"model_type": "gemma", "hidden_size": 64}, min_period=4e-3, max_period=4.0)
    t = torch.linspace(0, 1, 33)
    torch.testing.assert_close(time_embedding(t, 64), PI0TimestepEmbeddings(config)(t), rtol=0, atol=2e-4)
