"""Two processes with half a batch each learn what one process learns from the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from distributed import STEPS, train
from safetensors.torch import load_file

from worldlab.errors import UsageError
from worldlab.runs import Run
from worldlab.sharding import shard_as_one

TESTS = Path(__file__).parent


def progress(run: Run):
    return [line for line in run.read_log() if "grad_norm" in line]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path, way):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    program = [TESTS / "distributed.py", tmp_path / "two", way]
    subprocess.run([*command, *program], check=True, env=environment, timeout=200)
    train(tmp_path / "one", 1)
    if way == "fsdp":  # what two processes began, one can end
        train(tmp_path / "killed", 1, resume=True)
    one = Run.open(tmp_path / "one")
    lines, weights = progress(one), load_file(one.path / "model.safetensors")
    assert len(lines) == STEPS
    for other in (Run.open(path) for name in ("two", "killed") if (path := tmp_path / name).exists()):
        for name in ("loss", "grad_norm"):
            assert [line[name] for line in progress(other)] == pytest.approx([line[name] for line in lines], rel=1e-5)
        for name, weight in load_file(other.path / "model.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5, msg=name)


def test_layers_are_not_sharded_one_by_one():
    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    with pytest.raises(UsageError, match="NO_WRAP"):
        shard_as_one(plugin)
