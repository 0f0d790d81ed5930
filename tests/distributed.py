"""Trains a small policy as one of several processes; `torchrun tests/distributed.py OUT` (see test_distributed.py)."""

import sys
from dataclasses import replace
from pathlib import Path

from policies.synthetic import HEADS, make_batch, make_policy, make_spec

from worldlab.policies import GroundingConfig
from worldlab.training import FitConfig, create_run, fit
from worldlab.trajectory import Trajectory

BATCH, STEPS = 8, 5


class Parts:
    """Batch i of n processes is part i of the one large batch that a single process is given."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def __getitem__(self, step: int) -> Trajectory:
        large = make_batch(make_spec(), b=BATCH, t=4, seed=step // self.processes)
        part = BATCH // self.processes
        return large.pick(range(part * (step % self.processes), part * (step % self.processes + 1)))


def train(out: Path, processes: int) -> None:
    """A head without noise and without relabelled instructions: nothing is random but the data's order."""
    config = replace(HEADS["l1"], grounding=GroundingConfig(weight=0.0))
    policy = make_policy(config).train()
    run = create_run(out, policy.describe(), "cpu")
    fit(policy, Parts(processes), FitConfig(steps=STEPS, log_every=1, ema=0.5), run, device="cpu", show=False)


if __name__ == "__main__":
    train(Path(sys.argv[1]), 2)
