"""Laws of the one training loop."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from worldlab.errors import UsageError
from worldlab.runs import Run, provenance
from worldlab.training import FitConfig, fit, pick_device
from worldlab.trajectory import Observation, Trajectory


class Linear(nn.Module):
    """Predicts actions from noisy states: the smallest module whose loss draws random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def loss(self, batch):
        state = batch.obs.state + 0.1 * torch.randn_like(batch.obs.state)
        loss = (self.layer(state) - batch.action).square().mean()
        return loss, {"error": loss.sqrt()}


class Noise:
    """Batch i is a pure function of i; the action is a fixed linear function of the state."""

    def __getitem__(self, step):
        state = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(step))
        action = state @ torch.tensor([[1.0, 0], [0, 1], [2, 2]])
        no = torch.zeros(4, 5, dtype=torch.bool)
        return Trajectory(Observation({}, state, ("",) * 4), action, torch.zeros(4, 5), no, no, ~no)


def train(path, *, resume=False, on_step=None, **config):
    run = Run.open(path) if resume else Run.create(path, {"kind": "linear"})
    settings = {"steps": 60, "checkpoint_seconds": 0.0, "ema": 0.9, "log_every": 10, **config}
    model = Linear()
    fit(model, Noise(), FitConfig(**settings), run, device="cpu", resume=resume, show=False, on_step=on_step)
    return load_file(run.path / "model.safetensors")


def test_training_reduces_the_loss_and_says_so(tmp_path):
    train(tmp_path / "run", steps=400, learning_rate=0.03, ema=None)
    lines = Run.open(tmp_path / "run").read_log()
    assert lines[-1]["finished"]
    assert lines[-2]["error"] < 0.5 * lines[0]["error"]
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_same_seed_same_bits(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    other = train(tmp_path / "c", seed=1)
    assert torch.equal(first["layer.weight"], second["layer.weight"])
    assert not torch.equal(first["layer.weight"], other["layer.weight"])


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole")
    killed = tmp_path / "killed"
    # The child trains slowly, so that SIGKILL finds it somewhere in the middle.
    code = f"import sys, time; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_training as t; "
    code += f"t.train({str(killed)!r}, on_step=lambda step: time.sleep(0.05))"
    child = subprocess.Popen([sys.executable, "-c", code])
    checkpoint = killed / "checkpoint" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    assert not (killed / "model.safetensors").exists()
    resumed = train(killed, resume=True)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.parametrize("left", [3, 0])
def test_whoever_is_resumed_near_the_end_says_the_loss_of_the_last_step(tmp_path, left):
    def kill(step):
        if step == 60 - left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", on_step=kill, log_every=50)
    train(tmp_path / "killed", resume=True, log_every=50)
    train(tmp_path / "each", log_every=1)
    killed, each = (Run.open(tmp_path / name).read_log() for name in ("killed", "each"))
    assert [line["step"] for line in killed] == [1, 50, 60, 60]
    assert killed[-1]["loss"] == killed[-2]["loss"] == each[-1]["loss"] == each[-2]["loss"]


def test_the_averaged_weights_are_the_saved_ones(tmp_path):
    last, averaged = train(tmp_path / "last", ema=None), train(tmp_path / "averaged", ema=0.9)
    assert not torch.equal(last["layer.weight"], averaged["layer.weight"])


def test_one_process_trains_in_one_precision_after_another(tmp_path):
    rough = train(tmp_path / "bf16", precision="bf16")
    fine = train(tmp_path / "fp32", precision="no")
    assert not torch.equal(rough["layer.weight"], fine["layer.weight"])
    torch.testing.assert_close(rough, fine, atol=0.05, rtol=0)


def by_the_tracer_alone(monkeypatch, backend):
    """What is traced goes to `backend` instead of Inductor."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda of, **_: compile_(of, backend=backend, dynamic=False))


def test_what_pytorch_traces_learns_the_same(tmp_path, monkeypatch):
    by_the_tracer_alone(monkeypatch, "eager")
    plain, traced = (train(tmp_path / str(how), compile=how) for how in (False, True))
    torch.testing.assert_close(traced, plain)


def test_what_cannot_be_compiled_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no compiler here")

    by_the_tracer_alone(monkeypatch, fail)
    with pytest.raises(UsageError, match=r"no compiler here.*--compile"):
        train(tmp_path / "run", compile=True)


def test_minutes_are_a_budget_too(tmp_path):
    start = time.monotonic()
    train(tmp_path / "run", steps=None, minutes=0.02)
    assert 1.0 < time.monotonic() - start < 30


def test_minutes_of_the_process_do_not_pass_while_it_waits(tmp_path):
    pauses = []

    def wait(step: int) -> None:
        pauses.append(0.04)
        time.sleep(pauses[-1])

    train(tmp_path / "run", steps=None, minutes=0.3 / 60, clock="process", on_step=wait)
    assert sum(pauses) > 2 * 0.3


MINUTES = [{"steps": None, "minutes": minutes} for minutes in (0.0, math.nan, math.inf)]


@pytest.mark.parametrize("budget", [{"steps": None}, {"steps": 0}, {"steps": -3}, *MINUTES])
def test_no_budget_is_refused(tmp_path, budget):
    with pytest.raises(UsageError, match="budget"):
        train(tmp_path / "run", **budget)


def test_what_has_finished_is_not_trained_over(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(UsageError, match="finished"):
        train(tmp_path / "run", resume=True)


def test_divergence_is_said(tmp_path):
    with pytest.raises(UsageError, match="diverged"):
        train(tmp_path / "run", learning_rate=1e30, clip=1e30, steps=200)


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path):
    run = Run.create(tmp_path / "run", {"kind": "linear"})
    run.log({"step": 1})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "sec')
    assert [line["step"] for line in run.read_log()] == [1]
    for step in (40, 60):
        run.log({"step": step})
    assert [line["step"] for line in run.read_log()] == [1, 40, 60]


def test_weights_that_are_cut_off_are_said_to_be(tmp_path):
    train(tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UsageError, match="cannot be read"):
        Run.open(tmp_path / "run").load_into(Linear())


def test_a_machine_without_git_records_no_commit(monkeypatch):
    assert provenance(0)["commit"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance(0)["commit"] is None


def test_diverged_weights_are_never_written(tmp_path, monkeypatch):
    # A loss of zero whose gradient is none, so that only what is written tells.
    monkeypatch.setattr(Linear, "loss", lambda self, _: ((0 * self.layer.weight).sum().sqrt(), {}))
    for name, seconds in (("finish", 1e9), ("checkpoint", 0.0)):
        with pytest.raises(UsageError, match="is not finite"):
            train(tmp_path / name, checkpoint_seconds=seconds, steps=1)
        assert not (tmp_path / name / "model.safetensors").exists()


def test_the_rate_warms_up_and_decays():
    config = FitConfig(steps=100, warmup=0.1, learning_rate=1.0)
    assert config.rate(0.0) == pytest.approx(0.01)
    assert config.rate(0.1) == pytest.approx(1.0)
    assert config.rate(1.0) == pytest.approx(0.01)
    rates = [config.rate(0.1 + 0.009 * i) for i in range(100)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(UsageError, match="--device cuda"):
        pick_device("cuda")
