"""`worldlab imagine`, and the ten lines of docs/imagining.md, on a small store of pushes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from worldlab import datasets, dynamics, envs
from worldlab.errors import UsageError
from worldlab.imagining import imagine
from worldlab.rollout import rollout
from worldlab.runs import Run

DOCS = Path(__file__).parent.parent / "docs" / "imagining.md"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with data/push.zarr and runs/push-model, whose model knows nothing yet."""
    folder = tmp_path_factory.mktemp("lab")
    env = envs.make("worldlab/Push-v0", n=4)
    about = {"env": "worldlab/Push-v0", "size": 64}
    with datasets.EpisodeStore.create(folder / "data" / "push.zarr", env.contract, about) as store:
        store.append(rollout(env.expert(), env, seed=0, max_steps=30), range(4))
        statistics = datasets.statistics(store)
    torch.manual_seed(0)
    model = dynamics.create(dynamics.StateModelConfig(width=16), env.contract, statistics)
    about = {"data": str(folder / "data" / "push.zarr"), "env": "worldlab/Push-v0", "episodes": 4, "held_out": [0, 2]}
    Run.create(folder / "runs" / "push-model", model.describe() | about).save(model.state_dict())
    return folder


def test_the_ten_lines_of_the_docs_run(lab, monkeypatch, capsys):
    monkeypatch.chdir(lab)
    block = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 10
    exec(compile(block, str(DOCS), "exec"), {})
    assert "(" in capsys.readouterr().out
    page = (lab / "runs" / "push-model" / "imagine.html").read_text()
    assert "What would have happened?" in page
    assert (lab / "runs" / "push-model" / "imagine.mp4").stat().st_size > 1000


def test_branches_are_told_by_name_by_policy_and_by_file(lab, tmp_path):
    np.save(tmp_path / "left.npy", np.zeros((3, 6), np.float32))
    ways = ("zero", "shuffled", "expert", str(tmp_path / "left.npy"))
    run = lab / "runs" / "push-model"
    outcome = imagine(run, lab / "data" / "push.zarr", horizon=2, branches=ways, starts=2, device="cpu")
    values = json.loads((run / "imagine.json").read_text())
    assert values["kinds"] == ["recorded", *ways]
    assert values["effect_error"] == outcome.values["effect_error"]
    assert set(values["effect_error_by_kind"]) == set(ways)
    # The file's actions are zeros, as the branch `zero` is.
    assert values["effect_error_by_kind"]["zero"] == values["effect_error_by_kind"][ways[-1]]
    for name in ("effect_error", "state_error_cm", "psnr", "ssim", "reward_error", "rank_correlation", "spread_skill"):
        assert set(values[name]) == set(values[f"{name}_interval"]) == set(values[f"{name}_n"]) == {"1", "2"}
    assert not values["probed"]


def test_actions_that_cannot_be_read_are_refused(lab, tmp_path):
    (tmp_path / "bad.npy").write_text("no actions")
    np.save(tmp_path / "flat.npy", np.zeros(6))
    for name, sentence in (
        ("bad.npy", "could not read"),
        ("flat.npy", "one row a step"),
        ("none.npy", "could not read"),
    ):
        with pytest.raises(UsageError, match=sentence):
            imagine(lab / "runs" / "push-model", lab / "data" / "push.zarr", branches=(str(tmp_path / name),))
