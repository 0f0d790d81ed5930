"""`--compile`: PyTorch traces what policies compute in training without changing it."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the checks of shapes that tests are under cannot be traced.
COMPARE = """
import torch
from policies.synthetic import HEADS, make_batch, make_policy, make_spec

for head in ("flow", "tokens"):
    policy, batch = make_policy(HEADS[head]).train(), make_batch(make_spec(), b=4, t=4)
    losses = []
    for loss in (policy.loss, torch.compile(policy.loss, backend="eager", dynamic=False)):
        torch.manual_seed(0)
        losses.append(loss(batch)[0])
    torch.testing.assert_close(*losses)
    print(head, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_a_traced_loss_is_the_loss():
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", COMPARE], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    traced = dict(line.split() for line in done.stdout.splitlines())
    assert all(int(graphs) > 0 for graphs in traced.values())
    assert list(traced) == ["flow", "tokens"]
