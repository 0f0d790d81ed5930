"""LeRobot's own programs look at, edit and train on what worldlab exports, and worldlab takes what they make."""

import json
import os
import subprocess
import sys

import pytest
import torch
from episodes import columns

from worldlab import envs
from worldlab.datasets import EpisodeStore
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.datasets.lerobot_import import import_dataset
from worldlab.rollout import rollout

pytestmark = pytest.mark.slow

PROGRAMS = """
import json, sys
from importlib.metadata import entry_points
programs = {entry.name: entry for entry in entry_points(group="console_scripts")}
for sys.argv in json.loads(sys.stdin.read()):
    programs[sys.argv[0]].load()()
"""
"""Runs installed programs one after another in one process: each would take 10 s to import LeRobot."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four demonstrations of the arm."""
    env = envs.make("worldlab/Reach-v0", n=4)
    with EpisodeStore.create(tmp_path_factory.mktemp("reach") / "reach.zarr", env.contract, {"env": "Reach"}) as store:
        store.append(rollout(env.expert(), env, 0), [0, 1, 2, 3])
    return store


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """The exported dataset, and what LeRobot's programs made of it."""
    out = tmp_path_factory.mktemp("programs")
    export_dataset(store, out / "set", show=False)
    edit = f"lerobot-edit-dataset --repo_id=me/set --root={out}/set"
    roots = f"['{out}/split/a','{out}/split/b']"
    act = (
        "--policy.type=act --policy.pretrained_backbone_weights=null --policy.dim_model=32 --policy.n_heads=2"
        " --policy.dim_feedforward=64 --policy.n_encoder_layers=1 --policy.n_vae_encoder_layers=1"
        " --policy.chunk_size=8 --policy.n_action_steps=8 --policy.device=cpu --policy.push_to_hub=false"
    )
    programs = [
        f"lerobot-dataset-viz --repo-id=me/set --root={out}/set --episode-index=1 --save=1 --output-dir={out}"
        " --num-workers=0",
        f"{edit} --operation.type=info --operation.show_features=true",
        f'{edit} --new_root={out}/split --operation.type=split --operation.splits={{"a":[0,1,2],"b":[3]}}',
        f"lerobot-edit-dataset --new_repo_id=me/merged --new_root={out}/merged --operation.type=merge"
        f" --operation.repo_ids=['me/a','me/b'] --operation.roots={roots}",
        f"{edit} --new_repo_id=me/fewer --new_root={out}/fewer --operation.type=delete_episodes"
        " --operation.episode_indices=[1]",
        f"lerobot-train --dataset.repo_id=me/set --dataset.root={out}/set {act} --steps=3 --save_freq=3 --batch_size=2"
        f" --num_workers=0 --env_eval_freq=0 --wandb.enable=false --output_dir={out}/act",
        f"worldlab eval lerobot:{out}/act/checkpoints/000003/pretrained_model --env=worldlab/Reach-v0 --episodes=2"
        " --no-controls --json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS],
        input=json.dumps([program.split() for program in programs]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Repository ID" in done.stdout + done.stderr
    (out / "eval.json").write_text(done.stdout.splitlines()[-1])
    return out


def test_lerobot_shows_an_episode(folder):
    (recording,) = folder.glob("*.rrd")
    assert recording.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "kept"),
    [("split/a", [0, 1, 2]), ("split/b", [3]), ("merged", [0, 1, 2, 3]), ("fewer", [0, 2, 3])],
)
def test_what_lerobot_edited_comes_back(store, folder, tmp_path, name, kept):
    import_dataset(folder / name, tmp_path / "back.zarr", show=False)
    back = EpisodeStore(tmp_path / "back.zarr")
    assert len(back) == len(kept)
    for i, theirs in zip(kept, back, strict=True):
        ours = store[i].rows(0, len(store[i].valid) - 1)
        assert theirs.obs.task == ours.obs.task
        before = columns(ours)
        for column, after in columns(theirs.rows(0, len(ours.valid))).items():
            if column.startswith("images"):
                assert (after.int() - before[column].int()).abs().max() <= 4
            elif column == "action":
                assert (after - before[column]).abs().max() < 2**-20
            else:
                assert torch.equal(after, before[column]), column


def test_worldlab_evaluates_the_act_that_lerobot_trained(folder):
    assert json.loads((folder / "eval.json").read_text())["n"] == 2
