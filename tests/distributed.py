"""Trains a small policy as one of several processes: `torchrun tests/distributed.py OUT WAY`."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import accelerate
from policies.synthetic import HEADS, make_batch, make_policy, make_spec
from torch.distributed.tensor import DTensor

from worldlab.policies import GroundingConfig
from worldlab.runs import Run
from worldlab.sharding import exit_if_distributed
from worldlab.training import Device, FitConfig, create_run, fit
from worldlab.trajectory import Trajectory

BATCH, STEPS, KILLED = 8, 5, 3


class Parts:
    """Batch i of n processes is part i of the one large batch that a single process is given."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def __getitem__(self, step: int) -> Trajectory:
        large = make_batch(make_spec(), b=BATCH, t=4, seed=step // self.processes)
        part = BATCH // self.processes
        return large.pick(range(part * (step % self.processes), part * (step % self.processes + 1)))


def train(
    out: Path, processes: int, device: Device = "cpu", *, resume: bool = False, killed: int | None = None
) -> None:
    """A head without noise and without relabelled instructions: nothing is random but the data's order."""

    def kill(step: int) -> None:
        if step == killed:
            raise KeyboardInterrupt

    config = replace(HEADS["l1"], grounding=GroundingConfig(weight=0.0))
    policy = make_policy(config).train()
    run = Run.open(out) if resume else create_run(out, policy.describe(), device)
    budget = FitConfig(steps=STEPS, log_every=1, ema=0.5, checkpoint_seconds=0.0)
    fit(policy, Parts(processes), budget, run, device=device, show=False, resume=resume, on_step=kill)


class Sharding(accelerate.Accelerator):
    """Shards on a CPU as `accelerate launch --use_fsdp --fsdp_version 2` does, for which accelerate wants GPUs."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.state.distributed_type = accelerate.DistributedType.FSDP
        self.state.fsdp_plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2, cpu_ram_efficient_loading=True
        )

    def prepare(self, *parts):
        model, optimizer = super().prepare(*parts)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        return model, optimizer


def sharded(out: Path) -> None:
    """Each process holds a part of the weights; killed once, and resumed from its checkpoint, which is kept too."""
    with mock.patch("accelerate.Accelerator", Sharding):
        try:
            train(out, 2, killed=KILLED)
        except KeyboardInterrupt:
            if accelerate.PartialState().is_main_process:
                shutil.copytree(out, out.with_name("killed"))
            train(out, 2, resume=True)


if __name__ == "__main__":
    ways = {"ddp": lambda out: train(out, 2), "fsdp": sharded, "cuda": lambda out: train(out, 1, "cuda")}
    ways[sys.argv[2]](Path(sys.argv[1]))
    exit_if_distributed()
