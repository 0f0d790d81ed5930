"""LeRobot's own programs look at, edit and train on what worldlab exports, and worldlab takes what they make."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from episodes import columns

from worldlab import envs, policies
from worldlab.datasets import EpisodeStore, statistics
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.datasets.lerobot_import import import_dataset
from worldlab.policies import BackboneConfig, FlowConfig, TokenConfig
from worldlab.policies.lerobot_policy import export_policy
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


SMALL = BackboneConfig(width=32, layers=1, heads=2)
HEADS = {"flow": FlowConfig(backbone=SMALL, width=16), "tokens": TokenConfig(backbone=SMALL, bins=32)}


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """The exported dataset, an exported policy for each head, and what LeRobot's programs made of them."""
    out = tmp_path_factory.mktemp("programs")
    export_dataset(store, out / "set", show=False)
    for head, config in HEADS.items():
        torch.manual_seed(0)
        export_policy(policies.create(config, store.spec, statistics(store), store.tasks), out / head)
    edit = f"lerobot-edit-dataset --repo_id=me/set --root={out}/set"
    roots = f"['{out}/split/a','{out}/split/b']"
    act = (
        "--policy.type=act --policy.pretrained_backbone_weights=null --policy.dim_model=32 --policy.n_heads=2"
        " --policy.dim_feedforward=64 --policy.n_encoder_layers=1 --policy.n_vae_encoder_layers=1"
        " --policy.chunk_size=8 --policy.n_action_steps=8"
    )
    train = (
        f"lerobot-train --dataset.repo_id=me/set --dataset.root={out}/set --num_workers=0 --env_eval_freq=0"
        " --wandb.enable=false --policy.device=cpu --policy.push_to_hub=false"
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
        f"{train} {act} --steps=3 --save_freq=3 --batch_size=2 --output_dir={out}/act",
        *(
            f"{train} --policy.path={out}/{head} --steps=12 --save_freq=12 --log_freq=1 --batch_size=8"
            f" --output_dir={out}/tuned-{head}"
            for head in HEADS
        ),
        f"lerobot-eval --policy.path={out}/tuned-tokens/checkpoints/last/pretrained_model --policy.use_amp=true"
        f" --env.type=worldlab --env.task=Reach-v0 --eval.n_episodes=2 --eval.batch_size=2"
        f" --output_dir={out}/tokens-eval",
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
    (out / "log.txt").write_text(done.stdout + done.stderr)
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
            else:
                assert torch.equal(after, before[column]), column


def test_worldlab_evaluates_the_act_that_lerobot_trained(folder):
    assert json.loads((folder / "eval.json").read_text())["n"] == 2


def test_lerobot_fine_tunes_what_worldlab_exported(folder):
    """Either head: its loss on four demonstrations falls, and what LeRobot saves is a policy again."""
    losses = [float(loss) for loss in re.findall(r" loss:([0-9.]+)", (folder / "log.txt").read_text())]
    for head, of_head in zip(HEADS, (losses[-24:-12], losses[-12:]), strict=True):
        assert sum(of_head[-4:]) < sum(of_head[:4]), (head, of_head)
        tuned = policies.load(f"lerobot:{folder}/tuned-{head}/checkpoints/last/pretrained_model")
        untuned = policies.load(f"lerobot:{folder}/{head}")
        env = envs.make("worldlab/Reach-v0", n=2)
        moved = [rollout(policy, env, 0, max_steps=3).action for policy in (tuned, untuned)]
        assert moved[0].isfinite().all()
        assert not torch.equal(*moved)


def test_lerobot_evaluates_the_tokens_that_it_tuned(folder):
    metrics = json.loads((folder / "tokens-eval" / "eval_info.json").read_text())["overall"]
    assert metrics["n_episodes"] == 2
