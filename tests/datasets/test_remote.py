"""The same store behind URLs: in memory, and on a server that speaks S3."""

import pytest
import zarr
from episodes import SPEC, assert_equal, random_trajectory

from worldlab.datasets import EpisodeStore, Windows, merge, statistics
from worldlab.datasets.files import RemoteLock
from worldlab.errors import UsageError


@pytest.fixture(params=["memory", "s3"])
def url(request, tmp_path):
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_what_is_read_from_a_url_is_what_was_written(url):
    batches = [random_trajectory([3, 1, 7], seed=1), random_trajectory([5, 20], seed=2)]
    store = EpisodeStore.create(f"{url}/x.zarr", SPEC, {"seed": 1})
    store.append(batches[0], [0, 1, 2])
    store.close()
    with EpisodeStore(f"{url}/x.zarr") as store:
        store.append(batches[1], [3, 4])
    opened = EpisodeStore(f"{url}/x.zarr")
    want = [batch.episode(i) for batch in batches for i in range(len(batch.valid))]
    for got, episode in zip(opened, want, strict=True):
        assert_equal(got, episode)
    assert statistics(opened).action.mean == statistics(store).action.mean
    batch = Windows(opened, length=4, batch=8, cache_bytes=0)[3]
    assert_equal(batch, Windows(opened, length=4, batch=8)[3])
    array = zarr.open_array(f"{url}/x.zarr/state", mode="r")
    assert (array[:4] == want[0].obs.state.numpy()).all()


def test_a_reader_sees_what_a_writer_adds_to_the_file_that_it_reads(url):
    writer = EpisodeStore.create(f"{url}/x.zarr", SPEC, {})
    writer.append(random_trajectory([3], seed=1), [0])
    reader = EpisodeStore(f"{url}/x.zarr")
    assert_equal(reader[0], writer[0])
    writer.append(random_trajectory([9], seed=2), [1])
    assert_equal(reader[0], random_trajectory([3], seed=1).episode(0))


def test_parts_in_one_bucket_are_merged(url):
    stores = [EpisodeStore.create(f"{url}/{name}.zarr", SPEC, {}) for name in ("a", "b")]
    for i, store in enumerate(stores):
        store.append(random_trajectory([3, 4], seed=i), [2 * i, 2 * i + 1])
    merge(stores[0], stores[1:])
    assert EpisodeStore(f"{url}/a.zarr").seeds.tolist() == [0, 1, 2, 3]
    assert_equal(stores[0][3], random_trajectory([3, 4], seed=1).episode(1))
    with pytest.raises(UsageError, match="does not exist"):
        EpisodeStore(f"{url}/b.zarr")


def test_the_second_writer_is_told_and_one_that_died_long_ago_blocks_nobody(url, monkeypatch):
    first = EpisodeStore.create(f"{url}/x.zarr", SPEC, {})
    first.append(random_trajectory([3]), [0])
    second = EpisodeStore(f"{url}/x.zarr")
    with pytest.raises(UsageError, match="being written by another writer"):
        second.append(random_trajectory([3]), [1])
    monkeypatch.setattr("worldlab.datasets.files._ABANDONED_SECONDS", 0.0)
    second.append(random_trajectory([3]), [1])
    with pytest.raises(UsageError, match="being written by another writer"):
        first.append(random_trajectory([3]), [2])
    second.close()
    assert not second.files.exists(RemoteLock.NAME)
    assert EpisodeStore(f"{url}/x.zarr").seeds.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("nowhere://x", "'nowhere://x' cannot be reached"), ("memory://none/x.zarr", "the path does not exist")],
)
def test_what_cannot_be_reached_is_one_sentence(path, sentence):
    with pytest.raises(UsageError, match=sentence):
        EpisodeStore(path)
