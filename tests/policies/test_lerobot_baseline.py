"""LeRobot's ACT and Diffusion Policy, trained on our windows, obey the laws of our own policies."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import TASKS, make_batch, make_policy, make_spec

from worldlab import policies
from worldlab.errors import UsageError
from worldlab.policies import ChunkPolicy, LeRobotConfig
from worldlab.protocols import Trainable
from worldlab.runs import Run

FAMILIES = {
    family: LeRobotConfig(family=family, width=32, chunk=4, execute=2, ddim_steps=2) for family in ("act", "diffusion")
}


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request):
    return make_policy(FAMILIES[request.param], make_spec())


def first(batch, n=None):
    obs = batch.obs.map(lambda x: x[:n, 0])
    return type(obs)(obs.images, obs.state, obs.task[:n])


def test_it_plans_row_by_row_and_comes_back_from_a_run(policy, tmp_path):
    assert isinstance(policy, ChunkPolicy)
    assert isinstance(policy, Trainable)
    obs = first(make_batch(make_spec(), b=4))
    policy.reset(range(4))
    together = policy.act(obs)
    assert together.shape == (4, 2, 6)
    policy.reset(range(2))
    assert torch.equal(policy.act(first(make_batch(make_spec(), b=4), 2)), together[:2])
    run = Run.create(tmp_path / "run", policy.describe())
    run.save(policy.state_dict())
    loaded = policies.load(run.path)
    loaded.reset(range(4))
    assert torch.equal(loaded.act(obs), together)


def test_it_heeds_the_instructions_that_it_knows(policy):
    obs = first(make_batch(make_spec(), b=2), 1)
    other = replace(obs, task=(TASKS[0] if obs.task[0] != TASKS[0] else TASKS[1],))

    def plan(policy, obs):
        policy.reset([0])
        return policy.act(obs)

    assert not torch.equal(plan(policy, obs), plan(policy, other))
    unheard = replace(obs, task=("fetch the red cube",)), replace(obs, task=("fetch the green cube",))
    assert torch.equal(*(plan(policy, said) for said in unheard))


def test_runs_of_absolute_targets_stay_what_they_were():
    before = dict(make_policy(FAMILIES["act"], make_spec()).describe())
    del before["tasks"], before["model"]["pace"]
    loaded = policies.of_description(before)
    assert loaded.chunks.pace is None
    assert not loaded.tasks


def test_padding_is_inert(policy):
    batch = make_batch(make_spec())
    batch.valid[:, 3:] = False

    def loss():
        torch.manual_seed(0)
        return policy.loss(batch)[0]

    clean = loss()
    batch.privileged[:, 3:] += 9
    torch.testing.assert_close(loss(), clean)


def test_its_loss_teaches_every_weight(policy):
    policy.train()
    policy.loss(make_batch(make_spec()))[0].backward()
    policy.eval()
    assert not [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]


def test_what_does_not_fit_is_said():
    with pytest.raises(UsageError, match="multiple of 4, not 6"):
        make_policy(replace(FAMILIES["diffusion"], chunk=6))
    with pytest.raises(UsageError, match="no camera 'top'"):
        make_policy(replace(FAMILIES["act"], cameras=("top",)))
