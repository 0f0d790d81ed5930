"""`worldlab imagine`, and the ten lines of docs/imagining.md, on a small store of pushes."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones

from worldlab import datasets, dynamics, envs, workbench
from worldlab import eval as evaluation
from worldlab.errors import UsageError
from worldlab.imagining import imagine
from worldlab.policies import RandomPolicy
from worldlab.rollout import rollout
from worldlab.runs import Run
from worldlab.trajectory import stack

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


def test_a_policy_that_cannot_act_here_is_refused(lab, monkeypatch):
    policy = Ones()
    policy.spec = COUNT_SPEC
    monkeypatch.setattr("worldlab.imagining.load_policy", lambda *_: policy)
    with pytest.raises(UsageError, match="disagree on"):
        imagine(lab / "runs" / "push-model", lab / "data" / "push.zarr", branches=("runs/other",), device="cpu")


def test_branches_go_on_after_success_where_the_episodes_did(lab, tmp_path, monkeypatch):
    recorded = datasets.EpisodeStore(lab / "data" / "push.zarr")
    with datasets.EpisodeStore.create(tmp_path / "held.zarr", recorded.spec, {**recorded.provenance, "hold": 7}) as s:
        s.append(stack(list(recorded)), range(len(recorded)))
    made, make = [], envs.make
    monkeypatch.setattr("worldlab.imagining.envs.make", lambda *a, **k: made.append(k["hold"]) or make(*a, **k))
    for data in (recorded.path, tmp_path / "held.zarr"):
        imagine(lab / "runs" / "push-model", data, horizon=1, branches=2, starts=1, device="cpu")
    assert made == [0, 7]


def test_a_store_of_another_environment_is_refused(lab, tmp_path):
    with datasets.EpisodeStore.create(tmp_path / "other.zarr", replace(COUNT_SPEC, fps=10), {}) as store:
        store.append(rollout(Ones(), CountEnv(), seed=0, max_steps=5), range(4))
    with pytest.raises(UsageError, match="world model and store disagree on"):
        imagine(lab / "runs" / "push-model", tmp_path / "other.zarr", device="cpu")


def test_actions_that_cannot_be_read_are_refused(lab, tmp_path):
    (tmp_path / "bad.npy").write_text("no actions")
    np.save(tmp_path / "flat.npy", np.zeros(6))
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, a=np.zeros(6))
    for name, sentence in (
        ("bad.npy", "could not read"),
        ("flat.npy", "one row a step"),
        ("none.npy", "could not read"),
        ("several.npy", "no array of numbers"),
    ):
        with pytest.raises(UsageError, match=sentence):
            imagine(lab / "runs" / "push-model", lab / "data" / "push.zarr", branches=(str(tmp_path / name),))


def test_a_dreamer_is_held_against_the_control_suite(tmp_path):
    world = envs.make("dm_control/pendulum-swingup-v0", n=2, size=None)
    with datasets.EpisodeStore.create(
        tmp_path / "s.zarr", world.contract, {"env": "dm_control/pendulum-swingup-v0"}
    ) as s:
        policy = RandomPolicy(world.contract, period=6)
        s.append(rollout(policy, world, seed=0, max_steps=60), range(2))
        statistics = datasets.statistics(s)
    small = dynamics.RSSMConfig(size="tiny", sees="state", carry_state=True)
    torch.manual_seed(0)
    model = dynamics.create(dynamics.DreamerConfig(world=small, repeat=2), world.contract, statistics)
    Run.create(tmp_path / "run", model.describe()).save(model.state_dict())
    ways = ("hold", "shuffled", "random", str(tmp_path / "run"))
    result = imagine(tmp_path / "run", tmp_path / "s.zarr", horizon=5, branches=ways, starts=3, device="cpu").values
    assert result["compared"] == "state"
    assert result["fps"] == world.contract.fps // 2
    assert result["effect_error_n"] == {"1": 12, "2": 12, "5": 12}
    assert result["state_error_sd_copy_last"]["5"] > result["state_error_sd_copy_last"]["1"] > 0
    page = (tmp_path / "run" / "imagine.html").read_text()
    assert "observed state" in page
    assert not (tmp_path / "run" / "imagine.mp4").exists()
    with pytest.raises(UsageError, match="no privileged state"):
        imagine(tmp_path / "run", tmp_path / "s.zarr", starts=2, probe=True, device="cpu")


def test_what_was_experienced_while_learning_is_not_unseen(lab, tmp_path):
    store = datasets.EpisodeStore(lab / "data" / "push.zarr")
    about, seeds = Run.open(lab / "runs" / "push-model").config, store.seeds.tolist()
    for i, (told, unseen) in enumerate(
        (
            ({}, [0, 2]),
            ({"data": "elsewhere", "data_id": store.id}, [0, 2]),  # moved
            ({"data": "elsewhere"}, [0, 1, 2, 3]),  # of a run that does not say from which seeds it learnt
            ({"data": "elsewhere", "seeds": store.seed_spans()}, None),  # another store of the same seeds
            ({"data": "elsewhere", "seeds": [[0, 1], seeds[:2]]}, [2, 3]),
            (
                {"data": "elsewhere", "seeds": [[0, 9]], "env": "worldlab/Reach-v0"},
                [0, 1, 2, 3],
            ),  # whose seeds are other scenes
            ({"episodes": 3}, [0, 2, 3]),  # one was collected since
            ({"episodes": 1, "held_out": [], "online": True}, None),
        )
    ):
        run = Run.create(tmp_path / str(i), {**about, **told})
        if unseen is None:
            with pytest.raises(UsageError, match="trained on every episode"):
                workbench.held_out_episodes(store, run)
        else:
            assert workbench.held_out_episodes(store, run) == unseen


def test_the_episode_numbers_of_robots_are_no_seeds(lab, tmp_path):
    episodes = datasets.EpisodeStore(lab / "data" / "push.zarr")
    with datasets.EpisodeStore.create(tmp_path / "x.zarr", episodes.spec, {"env": "lerobot/so_follower"}) as store:
        store.append(episodes[0].map(lambda x: x[None]), [0])
    about = Run.open(lab / "runs" / "push-model").config
    trained = {"data": "elsewhere", "data_id": "another", "env": "lerobot/so_follower", "seeds": [[0, 49]]}
    run = Run.create(tmp_path / "run", {**about, **trained})
    assert workbench.held_out_episodes(datasets.EpisodeStore(tmp_path / "x.zarr"), run) == [0]


def test_a_probe_is_never_fitted_on_what_it_is_judged_on(lab, tmp_path, monkeypatch):
    """Of a store that the model was not trained on, half is for the probe."""
    trained = lab / "runs" / "push-model"
    run = Run.create(tmp_path / "run", {**Run.open(trained).config, "data": "elsewhere"})
    (run.path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    fitted, judged, counterfactual = [], [], evaluation.counterfactual

    def fit_probe(model, store, episodes, seed):
        fitted.extend(episodes)
        model.probe = SimpleNamespace(n=7)  # it imagines positions by itself
        return model

    def judge(*given, **told):
        judged.extend(told["episodes"])
        return counterfactual(*given, **told)

    monkeypatch.setattr(evaluation, "fit_probe", fit_probe)
    monkeypatch.setattr(evaluation, "counterfactual", judge)
    imagine(run.path, lab / "data" / "push.zarr", horizon=2, starts=2, probe=True, device="cpu")
    assert (fitted, judged) == ([0, 2], [1, 3])
    assert "7 moments of other episodes" in (run.path / "imagine.html").read_text()
