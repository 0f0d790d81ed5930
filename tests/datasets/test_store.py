import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import COUNT_SPEC, CountEnv, Ones
from episodes import SPEC, assert_equal, random_trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype

from worldlab.datasets import EpisodeStore
from worldlab.datasets.shards import ArrayLayout
from worldlab.errors import UsageError
from worldlab.rollout import rollout


def test_two_writers_in_turn_keep_each_others_episodes(tmp_path):
    first = EpisodeStore.create(tmp_path / "x.zarr", SPEC, {})
    written = [random_trajectory([4], seed=i, spec=SPEC) for i in range(4)]
    first.append(written[0], [0])
    first.close()
    second = EpisodeStore(tmp_path / "x.zarr")
    for i, store, other in ((1, second, first), (2, first, second), (3, second, first)):
        list(other)  # maps files into memory that the other one is about to replace
        store.append(written[i], [i])
        store.close()
    for ours, theirs in zip(EpisodeStore(tmp_path / "x.zarr"), written, strict=True):
        assert_equal(ours, theirs.episode(0))


@settings(max_examples=15, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=3),
    physics=st.integers(0, 6),
    privileged=st.booleans(),
)
def test_what_is_read_is_what_was_written(tmp_path_factory, batches, physics, privileged):
    path = tmp_path_factory.mktemp("s") / "x.zarr"
    spec = SPEC if privileged else dataclasses.replace(SPEC, privileged=())
    written = []
    store = EpisodeStore.create(path, spec, {"command": "here", "seed": 3})
    for k, actions in enumerate(batches):
        batch = random_trajectory(actions, seed=k, spec=spec, physics=physics, privileged=privileged)
        store.append(batch, range(100 * k, 100 * k + len(actions)))
        written += [batch.episode(i) for i in range(len(actions))]
    for opened in (store, EpisodeStore(path)):
        assert len(opened) == len(written)
        for episode, back in zip(written, opened, strict=True):
            assert_equal(episode, back)
        assert opened.seeds.tolist() == [100 * k + i for k, actions in enumerate(batches) for i in range(len(actions))]
        assert opened.spec == spec
        assert opened.provenance == {"command": "here", "seed": 3}
        assert set(opened.tasks) == {e.obs.task[0] for e in written}
    assert_equal(store[-1], written[-1])
    with pytest.raises(IndexError):
        store[len(store)]


def test_a_rollout_is_kept_whole(tmp_path):
    episodes = rollout(Ones(), CountEnv(5), seed=0)
    store = EpisodeStore.create(tmp_path / "count.zarr", COUNT_SPEC, {})
    store.append(episodes, range(5))
    for i in range(5):
        assert_equal(store[i], episodes.episode(i))


def test_seeds_of_different_collections_are_different_spans(tmp_path):
    with EpisodeStore.create(tmp_path / "x.zarr", SPEC) as store:
        assert store.seed_spans() == []
        store.append(random_trajectory([1, 1, 1, 1]), [20_008, 7, 5, 20_009])
        assert store.seed_spans() == [(5, 7), (20_008, 20_009)]


def test_any_zarr_reader_opens_the_columns(store):
    group = zarr.open_group(str(store.path), mode="r")
    episode = store[3]
    start, stop = store.starts[3], store.starts[3] + store.lengths[3]
    assert torch.equal(torch.from_numpy(group["images/front"][start:stop]), episode.obs.images["front"])
    assert group["episodes"][:, 2].tolist() == [10, 11, 12, 13, 14, 15]


def test_images_are_smaller_than_raw(tmp_path):
    t = random_trajectory([200])
    t.obs.images["front"][:] = 7
    store = EpisodeStore.create(tmp_path / "x.zarr", SPEC, {})
    store.append(t, [0])
    size = sum(f.stat().st_size for f in (Path(store.path) / "images" / "front").rglob("*") if f.is_file())
    assert size < 0.1 * t.obs.images["front"].nbytes


def rewrite(path: Path, change) -> None:
    header = path / "zarr.json"
    header.write_text(change(header.read_text()))


def replace_by_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("mine")


def replace_by_zarr(path: Path) -> None:
    shutil.rmtree(path)
    zarr.create_group(str(path))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, "does not exist"),
        (replace_by_folder, "not an episode store"),
        (replace_by_file, "not an episode store"),
        (replace_by_zarr, "not an episode store"),
        (
            lambda path: rewrite(path, lambda text: text.replace('"worldlab_store": 2', '"worldlab_store": 3')),
            "store format 3, and this worldlab reads up to 2",
        ),
        (
            lambda path: rewrite(path, lambda text: text.replace('"worldlab_store": 2', '"worldlab_store": 1')),
            "store format 1, from before the first release",
        ),
        (lambda path: rewrite(path, lambda text: text[:40]), "zarr.json is not readable"),
        (lambda path: rewrite(path, lambda text: text.replace('"rows": 44', '"rows": 45')), "match its checksum"),
        (lambda path: shutil.rmtree(path / "images" / "wrist"), "column 'images/wrist' is missing"),
        (lambda path: shutil.rmtree(path / "episodes"), "column 'episodes' is missing"),
        (
            lambda path: zarr.open_array(str(path / "state"), mode="r+").resize((3, 2)),
            "column 'state' has 3 of 44 rows",
        ),
    ],
)
def test_what_is_no_whole_store_is_refused_in_one_sentence(store, damage, sentence):
    damage(Path(store.path))
    with pytest.raises(UsageError, match=sentence) as error:
        EpisodeStore(store.path)
    assert "\n" not in str(error.value)


def in_double_precision():
    t = random_trajectory([3])
    # As NumPy would make it; the type checks of the tests would not let it be built.
    object.__setattr__(t.obs, "state", t.obs.state.double())
    return t


def without(camera):
    t = random_trajectory([3])
    del t.obs.images[camera]
    return t


@pytest.mark.parametrize(
    ("episodes", "sentence"),
    [
        (without("wrist"), "no 'images/wrist', which the store's Spec names"),
        (random_trajectory([3], spec=dataclasses.replace(SPEC, cameras={"front": (8, 8), "wrist": (4, 4)})), "front"),
        (random_trajectory([3], spec=dataclasses.replace(SPEC, action=("a", "b", "c"))), "'action' has shape .3,."),
        (random_trajectory([3], spec=dataclasses.replace(SPEC, cameras=SPEC.cameras | {"top": (2, 2)})), "images/top"),
        (random_trajectory([3], privileged=False), "no 'privileged'"),
        (random_trajectory([3], physics=0), "no column 'physics'"),
        (in_double_precision(), "'state' has numbers of torch.float64; stores keep torch.float32"),
        (random_trajectory([3], physics=9), r"column 'physics' has shape \(9,\) a row; .* has \(5,\)"),
    ],
)
def test_other_episodes_are_refused_naming_the_first_difference(store, episodes, sentence):
    before = len(store)
    with pytest.raises(UsageError, match=sentence):
        store.append(episodes, [0])
    assert len(EpisodeStore(store.path)) == before


def test_seeds_are_needed_for_every_episode(store):
    with pytest.raises(UsageError, match="2 episodes need as many seeds; 1"):
        store.append(random_trajectory([3, 3]), [0])


def test_create_takes_nobodys_place(store):
    with pytest.raises(UsageError, match="exists already"):
        EpisodeStore.create(store.path, SPEC, {})


def test_a_full_disk_is_one_sentence_and_costs_no_episode(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with EpisodeStore.create(disk / "x.zarr", SPEC, {}) as store:
            store.append(random_trajectory([20]), [0])
            with pytest.raises(
                UsageError, match=r"could not write to .*: No space left on device; its 1 earlier episodes"
            ):
                store.append(random_trajectory([3000], seed=1), [1])
            again = EpisodeStore(store.path)
            assert len(again) == len(store) == 1
            assert_equal(again[0], random_trajectory([20]).episode(0))
            store.append(random_trajectory([10], seed=2), [2])
            assert_equal(EpisodeStore(store.path)[1], random_trajectory([10], seed=2).episode(0))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the store has files of it mapped


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", "float64", "int64"])
def test_arrays_are_described_as_zarr_would(dtype):
    layout = ArrayLayout.of("x", np.zeros((0, 3, 2), dtype))
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=(7, 3, 2),
        dtype=dtype,
        chunks=(layout.chunk, 3, 2),
        shards=(layout.shard, 3, 2),
        filters=None,
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle" if dtype in ("uint8", "bool") else "shuffle"),
            Crc32cCodec(),
        ],
    )
    files = array.metadata.to_buffer_dict(default_buffer_prototype())
    assert json.loads(files["zarr.json"].to_bytes()) == layout.metadata(7)
