"""What goes through PyTorch's compiler computes what it did before: `--compile`, `compiled:RUN`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TRACED = """
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

ACTING = """
import torch
from dataclasses import replace
from policies.synthetic import HEADS, make_batch, make_policy, make_spec
from worldlab.policies.compiled import compiled

def plan(policy, seeds):
    obs = make_batch(make_spec(), b=3).obs.map(lambda x: x[:, 0])
    policy.reset(seeds)
    obs = replace(obs, task=obs.task[:3])
    return torch.stack([policy.plan(obs), policy.plan(obs, torch.zeros(3, 1, 6))])

policy = make_policy(HEADS["flow"])
before = plan(policy, range(3))
fast = compiled(policy, torch.float32)
print("compiled", torch._dynamo.utils.counters["stats"]["unique_graphs"])
torch.testing.assert_close(plan(fast, range(3)), before, rtol=1e-4, atol=1e-4)
assert torch.equal(plan(policy, range(3)), before)
print("afterwards", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""

REFUSED = """
import torch
from policies.synthetic import HEADS, make_policy
from worldlab.errors import UsageError
from worldlab.policies.compiled import compiled

torch._inductor.config.cpp.cxx = ("no-such-compiler",)
try:
    compiled(make_policy(HEADS["l1"]))
except UsageError as error:
    print("refused", str(error).count("act with lean:RUN"))
"""


def ran(code: str) -> dict[str, int]:
    """What it printed. In a process of its own: the checks of shapes that tests are under cannot be traced."""
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: int(count) for name, count in (line.split() for line in done.stdout.splitlines())}


def test_a_traced_loss_is_the_loss():
    graphs = ran(TRACED)
    assert list(graphs) == ["flow", "tokens"]
    assert all(graphs.values())


def test_compiled_a_policy_plans_the_same_and_is_compiled_once():
    graphs = ran(ACTING)
    assert graphs["compiled"] >= 4
    assert graphs["afterwards"] == graphs["compiled"]


def test_without_a_compiler_there_is_a_sentence():
    assert ran(REFUSED) == {"refused": 1}
