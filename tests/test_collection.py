"""What is collected depends neither on the number of processes nor on one that was killed."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from episodes import assert_equal

from worldlab import envs
from worldlab.collection import CollectConfig, Recorder, collect
from worldlab.datasets import EpisodeStore
from worldlab.datasets.files import LocalFiles
from worldlab.errors import UsageError
from worldlab.rollout import observation
from worldlab.trajectory import stack

pytestmark = pytest.mark.slow

RECIPE = CollectConfig(env="worldlab/Reach-v0", noise=0.7, size=16, n=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Twelve episodes that one process collected."""
    store, kept, _ = collect(RECIPE, f"{tmp_path_factory.mktemp('alone')}/x.zarr", 12, workers=1)
    assert kept >= len(store) == 12
    return store


def test_two_processes_collect_the_same_episodes(alone, tmp_path):
    store, kept, _ = collect(RECIPE, f"{tmp_path}/x.zarr", 12, workers=2)
    assert kept >= 12
    assert store.seeds.tolist() == alone.seeds.tolist()
    for ours, theirs in zip(alone, store, strict=True):
        assert_equal(ours, theirs)


def test_a_part_that_is_being_recorded_is_left_alone(tmp_path):
    path = f"{tmp_path}/x.zarr"
    collect(RECIPE, path, 1, workers=1)
    recorder = Recorder(RECIPE, f"{path}.part0", {"env": RECIPE.env, "hold": 0}, threads=1)
    with pytest.raises(UsageError, match="being written"):
        collect(RECIPE, path, 1, workers=1)
    recorder.close()


def test_what_is_done_is_shown_to_be_left_alone(alone, tmp_path):
    store, _, _ = collect(replace(RECIPE, hold=3), f"{tmp_path}/x.zarr", 2, workers=1)
    assert len(store) == 2
    for episode, brief in zip(store, alone, strict=False):
        assert (episode.reward[-5:-1] == 1).all()
        assert brief.reward[-3] < 1
    with pytest.raises(UsageError, match="is of --hold 3"):
        collect(RECIPE, f"{tmp_path}/x.zarr", 2, workers=1)


def test_a_killed_collection_keeps_what_was_written_and_goes_on(alone, tmp_path):
    path, part = tmp_path / "x.zarr", tmp_path / "x.zarr.part0"
    wanted = ["--episodes", "400", "--noise", "0.7", "--size", "16", "--n", "2", "--workers", "1", "--out", str(path)]
    command = [sys.executable, "-m", "worldlab", "collect", RECIPE.env, *wanted]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (part / "zarr.json").exists() or len(EpisodeStore(part)) == 0:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    written = len(EpisodeStore(part))
    store, kept, _ = collect(RECIPE, str(path), 2, workers=1)
    assert kept >= 2
    assert len(store) == written + 2
    assert len(set(store.seeds.tolist())) == len(store)
    assert not part.exists()
    for ours, theirs in zip(alone, store, strict=False):
        assert_equal(ours, theirs)


def test_what_a_killed_collection_of_something_else_left_joins_no_store(tmp_path):
    path = f"{tmp_path}/x.zarr"
    left = Recorder(RECIPE, f"{path}.part0", {"env": RECIPE.env, "hold": 0}, threads=1)
    left.record(0)
    left.close()
    other = replace(RECIPE, hold=2)
    with pytest.raises(UsageError, match=rf"x.zarr.part0' is what a killed collection of {RECIPE.env} \(--hold 0\)"):
        collect(other, path, 2, workers=1)
    left = len(EpisodeStore(f"{path}.part0"))
    assert left > 0
    assert len(collect(RECIPE, path, 2, workers=1)[0]) == left + 2  # the sentence's first way out


def test_parts_that_were_removed_in_part_are_in_nobodys_way(tmp_path):
    path = f"{tmp_path}/x.zarr"
    collect(RECIPE, path, 2, workers=1)
    (tmp_path / "x.zarr.part0" / "images").mkdir(parents=True)  # begun, or half removed: it has no header
    assert len(collect(RECIPE, path, 2, workers=1)[0]) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["x.zarr"]


def test_an_interrupted_removal_of_parts_costs_no_episodes(tmp_path, monkeypatch):
    path = f"{tmp_path}/x.zarr"
    collect(RECIPE, path, 2, workers=1)
    removed, delete = [], LocalFiles.delete

    def stop(files, first):
        removed.append(files.root)
        if len(removed) == 2:
            raise KeyboardInterrupt
        delete(files, first)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "delete", stop)
        with pytest.raises(KeyboardInterrupt):
            collect(RECIPE, path, 12, workers=2)
    before = len(EpisodeStore(path))
    store, kept, _ = collect(RECIPE, path, 2, workers=2)
    assert kept >= 2
    assert len(store) == before + 2


def test_episodes_without_physics_are_refused_before_more_are_collected(alone, tmp_path):
    with EpisodeStore.create(str(tmp_path / "x.zarr"), alone.spec, {}) as store:
        store.append(stack([replace(alone[0], physics=None)]), [0])
    with pytest.raises(UsageError, match="physics"):
        collect(RECIPE, f"{tmp_path}/x.zarr", 2, workers=1)


def test_whoever_acts_the_expert_says_what_it_would_have_done(alone, tmp_path):
    path = str(tmp_path / "x.zarr")
    collect(replace(RECIPE, policy="random", noise=0.0), path, 2, workers=1)
    store = EpisodeStore(path)
    assert store.spec == alone.spec
    env = envs.make(RECIPE.env, 1, size=RECIPE.size, threads=1)
    expert = env.expert()
    env.reset(seed=int(store.seeds[0]))
    expert.reset([0])
    episode = store[0]
    for t in range(len(episode.action) - 1):
        now = observation(env.observe()[0], ("",))
        assert torch.equal(episode.privileged[t, -6:], expert.act(now)[0, 0])
        env.step(episode.action[t : t + 1].numpy())


def test_episodes_with_other_privileged_columns_are_refused_before_they_are_collected(tmp_path):
    spec = RECIPE.world(1, 1).contract
    unlabelled = replace(spec, privileged=spec.privileged[:-6])
    EpisodeStore.create(str(tmp_path / "x.zarr"), unlabelled, {}).close()
    with pytest.raises(UsageError, match=r"other privileged columns .* \(expert\.elbow_flex\.pos, "):
        collect(RECIPE, str(tmp_path / "x.zarr"), 2, workers=1)
    assert not (tmp_path / "x.zarr.part0").exists()


def test_episodes_of_another_kind_are_refused(alone):
    with pytest.raises(UsageError, match="camera 'front'"):
        collect(CollectConfig(env=RECIPE.env, size=32, n=2), alone.path, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_policy_runs_where_it_is_told_to(tmp_path):
    with pytest.raises(UsageError, match="--device cuda"):
        collect(replace(RECIPE, policy="random", noise=0.0, device="cuda"), f"{tmp_path}/x.zarr", 2, workers=1)


def test_another_task_is_not_mixed_in(alone, tmp_path):
    with pytest.raises(UsageError, match="holds episodes of worldlab/Reach-v0, not worldlab/Lift-v0"):
        collect(replace(RECIPE, env="lift"), alone.path, 2, workers=1)
    store, _, _ = collect(replace(RECIPE, env="reach"), f"{tmp_path}/x.zarr", 2, workers=1)
    assert store.provenance["env"] == "worldlab/Reach-v0"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"policy": "runs/nope", "noise": 0.0}, "runs/nope"), ({"policy": "random"}, "noise disturbs the expert alone")],
)
def test_who_cannot_act_is_told_before_there_is_a_store(tmp_path, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        collect(replace(RECIPE, **change), f"{tmp_path}/x.zarr", 2, workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"n": 0}, {"size": 0}, {"noise": -1.0}, {"noise": float("nan")}], ids=str)
def test_what_cannot_be_collected_begins_no_store(tmp_path, wrong):
    with pytest.raises(UsageError, match="must be finite and at least"):
        collect(replace(RECIPE, **wrong), f"{tmp_path}/x.zarr", 2, workers=1)
    with pytest.raises(UsageError, match="episodes must be finite and at least 1; got 0"):
        collect(RECIPE, f"{tmp_path}/x.zarr", 0, workers=1)
    assert not list(tmp_path.iterdir())
