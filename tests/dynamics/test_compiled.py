"""`--compile` of a world model: the same losses and gradients, a step of the recurrence compiled once for all rows."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the checks of shapes that tests are under cannot be traced.
COMPARE = """
import torch
from contracts.test_world_models import TABLE_SPEC, statistics, table_episodes
from worldlab import compiling, dynamics

torch._inductor.config.fallback_random = True  # random numbers as without the compiler
data, found = table_episodes(4, 6), []
for compiled in (False, True):
    torch.manual_seed(0)
    config = dynamics.RSSMConfig(size="tiny", sees="state", carry_state=True)
    model = dynamics.create(config, TABLE_SPEC, statistics(data)).train()
    if compiled:
        compiling.compile_parts(model.compiles, torch.device("cpu"))
    torch.manual_seed(1)
    loss, _ = model.loss(data)
    loss.backward()
    found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"loss": loss.detach()})
torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
graphs = [torch._dynamo.utils.counters["stats"]["unique_graphs"]]
model.loss(data)[0].backward()
print(*graphs, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_compiled_a_world_model_learns_the_same():
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", COMPARE], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, again = map(int, done.stdout.split())
    assert again == first < 2 * 6  # not for every row
