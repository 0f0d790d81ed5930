"""Two processes with half a batch each learn what one process learns from the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed import STEPS, train
from safetensors.torch import load_file

from worldlab.runs import Run

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path, way):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    program = [TESTS / "distributed.py", tmp_path / "two", way]
    subprocess.run([*command, *program], check=True, env=environment, timeout=200)
    train(tmp_path / "one", 1)
    one, two = (Run.open(tmp_path / name) for name in ("one", "two"))
    lines = [[line for line in run.read_log() if "grad_norm" in line] for run in (one, two)]
    assert len(lines[0]) == STEPS
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in lines[1]] == pytest.approx([line[name] for line in lines[0]], rel=1e-5)
    weights, other = (load_file(run.path / "model.safetensors") for run in (one, two))
    for name, weight in weights.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-5, msg=name)
