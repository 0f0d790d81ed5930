"""What holds on a CPU holds on a GPU: the same numbers up to rounding, and training that ends in a run that loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contracts.test_world_models import TABLE_SPEC, TRAINED, actions, same, statistics, table_episodes
from policies.synthetic import FUSED, HEADS, STATE_ONLY, make_batch, make_policy, make_spec

from worldlab import dynamics, policies
from worldlab.dynamics.actor_critic import ActorCriticConfig
from worldlab.policies.lean import lean
from worldlab.runs import Run
from worldlab.seeding import generator
from worldlab.training import FitConfig, fit

TESTS = Path(__file__).parent
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
POLICIES = HEADS | FUSED | {"state-only": STATE_ONLY}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in float32, which PyTorch otherwise rounds to ten bits on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Always:
    """The same batch in every step."""

    def __init__(self, batch) -> None:
        self.batch = batch

    def __getitem__(self, _step):
        return self.batch


def trained(model, batch, path):
    run = Run.create(path, model.describe())
    precision = "no" if isinstance(model, dynamics.StateModel) else "bf16"  # as the presets have it
    fit(model, Always(batch), FitConfig(steps=4, log_every=1, precision=precision), run, device="cuda", show=False)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert len([line for line in run.read_log() if "grad_norm" in line]) == 4
    return path


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_acts_as_it_does_on_a_cpu(name):
    policy = make_policy(POLICIES[name])
    obs = make_batch(make_spec(), b=4).obs.map(lambda x: x[:, 0])
    policy.reset(range(4))
    here = policy.act(obs)
    policy.to("cuda").reset(range(4))
    torch.testing.assert_close(policy.act(obs).cpu(), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_trains_and_its_run_loads_anywhere(name, tmp_path):
    path = trained(make_policy(POLICIES[name]).train(), make_batch(make_spec()), tmp_path / "run")
    obs = make_batch(make_spec(), b=4).obs.map(lambda x: x[:, 0])
    for device in ("cpu", "cuda"):
        policy = policies.load(path, device=device)
        policy.reset(range(4))
        assert policy.act(obs).isfinite().all()


def test_a_lean_policy_acts():
    policy = make_policy(HEADS["flow"])
    obs = make_batch(make_spec(), b=4).obs.map(lambda x: x[:, 0])
    policy.to("cuda").reset(range(4))
    fast = lean(policy)
    fast.reset(range(4))
    torch.testing.assert_close(fast.plan(obs), policy.plan(obs), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", TRAINED)
def test_a_world_model_dreams_as_it_does_on_a_cpu(name):
    model, context = TRAINED[name]()
    act = actions(model, 4, 5)
    here, _ = model.imagine(model.observe(context), act, generator(1))
    model.to("cuda")
    there, _ = model.imagine(model.observe(context), act, generator(1))
    same(there.map(lambda x: x.cpu()), here, 1e-3, 1e-3)


@pytest.mark.parametrize(
    "config",
    [
        dynamics.StateModelConfig(width=32),
        dynamics.RSSMConfig(
            size="tiny", carry_state=True, correct=True, overshooting=2, privileged=1.0, slots=True, image_weight=0.1
        ),
        dynamics.RSSMConfig(size="tiny", sees="images", overshooting=2),
        dynamics.DreamerConfig(
            world=dynamics.RSSMConfig(size="tiny", carry_state=True),
            behaviour=ActorCriticConfig(units=16, depth=1, starts=6),
        ),
    ],
    ids=["state", "rssm", "rssm-images", "dreamer"],
)
def test_a_world_model_trains_and_its_run_loads_anywhere(config, tmp_path):
    data = table_episodes(4, 6)
    path = trained(dynamics.create(config, TABLE_SPEC, statistics(data)).train(), data, tmp_path / "run")
    for device in ("cpu", "cuda"):
        model = dynamics.load(path, device)
        dream, _ = model.imagine(model.observe(data), actions(model, 4, 5), generator(1))
        assert dream.obs.state.isfinite().all()


@pytest.mark.slow
def test_accelerate_launch_shards_it(tmp_path):
    """FSDP2 of one process: its tensors are sharded ones, of one part each; two processes share no GPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    options = ["--num_processes", "1", "--fsdp_auto_wrap_policy", "NO_WRAP", "--mixed_precision", "no"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    program = [TESTS / "distributed.py", tmp_path / "sharded", "cuda"]
    subprocess.run([*command, *options, *program], check=True, env=environment, timeout=200)
    subprocess.run([sys.executable, TESTS / "distributed.py", tmp_path / "whole", "cuda"], check=True, env=environment)
    logs = [Run.open(tmp_path / name).read_log() for name in ("whole", "sharded")]
    whole, sharded = ([line["loss"] for line in log if "grad_norm" in line] for log in logs)
    assert sharded == pytest.approx(whole, rel=1e-3)
    policies.load(tmp_path / "sharded")
