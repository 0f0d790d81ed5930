"""No byte of a store can change without somebody noticing, and what is lost is named."""

import dataclasses
import random
from pathlib import Path

import pytest
from episodes import SPEC, random_trajectory

from worldlab.datasets import EpisodeStore
from worldlab.errors import UsageError

LARGE = dataclasses.replace(SPEC, cameras={"front": (96, 96)})
"""Of its images four fit into a chunk."""


@pytest.fixture
def path(tmp_path):
    with EpisodeStore.create(tmp_path / "x.zarr", LARGE, {}) as store:
        store.append(random_trajectory([9, 5, 12], spec=LARGE), [0, 1, 2])  # rows 0-9, 10-15, 16-28
    return Path(store.path)


def flip(file: Path, position: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_array_chunk_and_episode_of_a_flipped_byte_are_named(path):
    store = EpisodeStore(path)
    offset = int(store._columns["images/front"]._table(0)[1][3, 0])
    flip(path / "images/front/c/0/0/0/0", offset + 1000)
    store = EpisodeStore(path)
    store[0]
    store[2]
    with pytest.raises(UsageError) as error:
        store[1]
    assert str(error.value) == (
        f"'{path}' is damaged: its column 'images/front' lost chunk 3 (rows 12 to 15), which does not match its "
        "checksum; hit: episode 1. Restore it from a copy, or collect those episodes again."
    )


def test_every_flipped_bit_is_noticed(path):
    files = [f for f in path.rglob("*") if f.is_file() and f != path / "images" / "zarr.json"]
    assert len(files) == 1 + 2 * 9
    chance = random.Random(0)
    for file in files * 16:
        content = file.read_bytes()
        position = chance.randrange(len(content))
        flip(file, position, chance.randrange(8))
        with pytest.raises(UsageError) as error:
            list(EpisodeStore(path))
        assert "\n" not in str(error.value)
        file.write_bytes(content)
    assert len(list(EpisodeStore(path))) == 3


def test_every_missing_file_is_noticed(path):
    for file in path.rglob("*"):
        if file.is_file() and file != path / "images" / "zarr.json":
            hidden = file.rename(file.with_name("hidden"))
            with pytest.raises(UsageError):
                list(EpisodeStore(path))
            hidden.rename(file)


def test_a_chunk_that_was_never_written_is_not_zeros(path):
    store = EpisodeStore(path)
    column = store._columns["images/front"]
    with pytest.raises(UsageError, match=r"lost chunk 20 \(rows 80 to 83\), which was never written"):
        store.fill("images/front", [(80, column.read(0, 1))])
