"""Laws of variation: severity 0 is the nominal world bit for bit, an episode's world depends on its seed alone."""

import pytest
import torch

from worldlab import envs
from worldlab.errors import UsageError
from worldlab.rollout import rollout


def run(**variation):
    env = envs.make("Push", 2, threads=1, variation=variation)
    return env, rollout(env.expert(), env, seed=0, max_steps=25)


def test_severity_zero_is_nominal():
    _, nominal = run()
    _, zero = run(**dict.fromkeys(envs.variations.names(), 0.0))
    assert torch.equal(nominal.physics, zero.physics)
    assert torch.equal(nominal.obs.images["front"], zero.obs.images["front"])


@pytest.mark.parametrize("knob", ["light", "camera"])
def test_light_and_camera_change_pictures_but_not_physics(knob):
    _, nominal = run()
    _, varied = run(**{knob: 0.5})
    assert torch.equal(nominal.physics, varied.physics)
    assert not torch.equal(nominal.obs.images["front"], varied.obs.images["front"])


@pytest.mark.parametrize("knob", ["mass", "friction"])
def test_mass_and_friction_change_physics(knob):
    _, nominal = run()
    _, varied = run(**{knob: 1.0})
    assert torch.equal(nominal.obs.images["front"][:, 0], varied.obs.images["front"][:, 0])
    assert not torch.equal(nominal.privileged[:, -1], varied.privileged[:, -1])


def test_a_varied_row_replays_bit_for_bit_in_a_fresh_environment():
    severities = dict.fromkeys(envs.variations.names(), 0.7)
    _, recorded = run(**severities)
    env = envs.make("Push", 2, threads=1, variation=severities)
    env.restore(recorded.physics[:, 4], recorded.obs.task)
    for t in range(4, 12):
        raw, _ = env.observe()
        assert torch.equal(env.physics, recorded.physics[:, t])
        assert torch.equal(torch.tensor(raw["images.front"]), recorded.obs.images["front"][:, t])
        env.step(recorded.action[:, t].numpy())


def test_bad_knobs_get_a_sentence():
    with pytest.raises(UsageError, match=r"unknown variation 'lihgt'\. Did you mean 'light'"):
        run(lihgt=0.5)
    with pytest.raises(UsageError, match="severity of variation 'light'"):
        run(light=2.0)
