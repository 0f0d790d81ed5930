"""Writers that are killed, and writers that meet."""

import multiprocessing
import random
import time

import pytest
import writer
from episodes import SPEC, assert_equal, random_trajectory

from worldlab.datasets import EpisodeStore, merge
from worldlab.errors import UsageError


def start(function, *arguments):
    """A process to be killed; started from one that has done the slow imports. Returns when it has begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worldlab.datasets", "writer"])
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(*arguments, theirs), daemon=True)
    process.start()
    assert ours.recv() == "begun"
    return process


def test_the_second_writer_is_told_and_a_dead_one_blocks_nobody(tmp_path):
    first = start(writer.write_until_killed, tmp_path / "x.zarr")
    store = EpisodeStore(tmp_path / "x.zarr")
    with pytest.raises(UsageError, match="being written by another writer"):
        store.append(random_trajectory([3]), [0])
    first.kill()
    first.join()
    store.append(random_trajectory([3]), [7])
    assert store.seeds[-1] == 7
    second = EpisodeStore(store.path)
    with pytest.raises(UsageError, match="being written by another writer"):
        second.append(random_trajectory([3]), [0])
    store.close()
    second.append(random_trajectory([3]), [8])
    assert EpisodeStore(store.path).seeds[-2:].tolist() == [7, 8]


@pytest.mark.slow
def test_a_writer_killed_at_any_of_a_hundred_moments_loses_no_committed_episode(tmp_path):
    path, chance, committed = tmp_path / "x.zarr", random.Random(0), 0
    in_shard = in_metadata = 0
    for _ in range(100):
        process = start(writer.write_until_killed, path)
        time.sleep(chance.uniform(0.0, 0.06))
        process.kill()
        process.join()
        left = [str(file.relative_to(path)) for file in path.rglob("*.partial")]
        in_shard += any("/c/" in file for file in left)
        in_metadata += any("zarr.json" in file for file in left)
        store = EpisodeStore(path)
        assert len(store) >= committed + 2
        for k in range(max(0, committed - 2), len(store)):
            assert_equal(store[k], writer.batch(k - k % 2).episode(k % 2))
        committed = len(store)
    assert in_shard > 5
    assert in_metadata > 5
    for k, episode in enumerate(store):
        assert_equal(episode, writer.batch(k - k % 2).episode(k % 2))
    store.append(random_trajectory([2]), [0])
    assert not list(path.rglob("*.partial"))


def parts_of(path, seed):
    """Two parts of three episodes each."""
    parts = []
    for i in range(2):
        with EpisodeStore.create(path / f"part{i}.zarr", SPEC, {}) as part:
            part.append(random_trajectory([4, 7, 2], seed=seed + i), range(3 * i, 3 * i + 3))
        parts.append(part)
    return parts


@pytest.mark.slow
def test_a_merge_killed_at_any_moment_loses_and_repeats_no_episode(tmp_path):
    chance, after_commit, longest = random.Random(1), 0, 0.0
    for trial in range(30):
        folder = tmp_path / str(trial)
        folder.mkdir()
        parts_of(folder, seed=10)
        EpisodeStore.create(folder / "whole.zarr", SPEC, {})
        process = start(writer.merge_parts, folder)
        if trial == 0:  # this one may finish
            begun = time.perf_counter()
            process.join()
            longest = 1.2 * (time.perf_counter() - begun)
        time.sleep(chance.uniform(0.0, longest))
        process.kill()
        process.join()
        store = EpisodeStore(folder / "whole.zarr")
        assert len(store) in (0, 6)
        left = [EpisodeStore(p) for p in sorted(folder.glob("part*.zarr")) if (p / "zarr.json").is_file()]
        after_commit += len(store) == 6
        merge(store, left)
        assert store.seeds.tolist() == list(range(6))
        for k, episode in enumerate(store):
            assert_equal(episode, random_trajectory([4, 7, 2], seed=10 + k // 3).episode(k % 3))
    assert 0 < after_commit < 30
