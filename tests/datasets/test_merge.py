import dataclasses
from pathlib import Path

import pytest
import zarr
from episodes import SPEC, assert_equal, random_trajectory

from worldlab.datasets import EpisodeStore, merge
from worldlab.errors import UsageError

LARGE = dataclasses.replace(SPEC, cameras={"front": (96, 96)})


def part(path, seed, actions=(3, 6), spec=LARGE, physics=5):
    store = EpisodeStore.create(path, spec, {"seed": seed})
    episodes = random_trajectory(list(actions), seed=seed, spec=spec, physics=physics)
    store.append(episodes, range(10 * seed, 10 * seed + len(actions)))
    return store, [episodes.episode(i) for i in range(len(actions))]


@pytest.fixture
def parts(tmp_path):
    return [part(tmp_path / f"{i}.zarr", seed=i) for i in (1, 2, 3)]


def test_all_episodes_follow_in_order_and_appending_goes_on(parts, tmp_path):
    (whole, first), *others = parts
    merge(whole, [store for store, _ in others])
    more = random_trajectory([4], seed=9, spec=LARGE)
    whole.append(more, [90])
    for store in (whole, EpisodeStore(whole.path)):
        want = [*first, *others[0][1], *others[1][1], more.episode(0)]
        assert len(store) == len(want)
        for got, episode in zip(store, want, strict=True):
            assert_equal(got, episode)
        assert store.seeds.tolist() == [10, 11, 20, 21, 30, 31, 90]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["1.zarr"]
    start, stop = whole.starts[3], whole.starts[3] + whole.lengths[3]
    read = zarr.open_group(whole.path, mode="r")["images/front"][start:stop]
    assert (read == others[0][1][1].obs.images["front"].numpy()).all()


def test_files_are_moved_and_not_copied(parts):
    (whole, _), (second, _), _ = parts
    inode = (Path(second.path) / "images/front/c/0/0/0/0").stat().st_ino
    merge(whole, [second])
    assert inode in [f.stat().st_ino for f in Path(whole.path).rglob("images/front/c/*/0/0/0")]


def test_episodes_can_be_chosen_and_ordered(parts, tmp_path):
    whole = EpisodeStore.create(tmp_path / "whole.zarr", LARGE, {})
    merge(whole, [store for store, _ in parts], [(2, 1), (0, 0), (1, 1)])
    assert whole.seeds.tolist() == [31, 10, 21]
    for got, want in zip(whole, (parts[2][1][1], parts[0][1][0], parts[1][1][1]), strict=True):
        assert_equal(got, want)


def test_what_was_merged_can_be_merged_again(parts, tmp_path):
    (a, first), (b, second), (c, third) = parts
    merge(b, [c])
    merge(a, [b])
    for got, want in zip(EpisodeStore(a.path), [*first, *second, *third], strict=True):
        assert_equal(got, want)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"spec": dataclasses.replace(LARGE, fps=5)}, "disagree on fps"),
        ({"physics": 0}, "has other columns than"),
        ({"spec": dataclasses.replace(LARGE, cameras={"top": (96, 96)})}, "disagree on cameras"),
    ],
)
def test_parts_of_another_kind_are_refused_and_kept(parts, tmp_path, other, sentence):
    whole, first = parts[0]
    stranger, episodes = part(tmp_path / "stranger.zarr", seed=5, **other)
    with pytest.raises(UsageError, match=sentence):
        merge(whole, [stranger])
    assert len(EpisodeStore(whole.path)) == len(first)
    assert len(EpisodeStore(stranger.path)) == len(episodes)


def test_a_part_that_is_being_written_is_refused(parts):
    (whole, _), (busy, _), _ = parts
    with pytest.raises(UsageError, match="being written by another writer"):
        merge(whole, [EpisodeStore(busy.path)])


def test_none_of_the_episodes_is_none(parts):
    (whole, first), (other, _), _ = parts
    merge(whole, [other], [])
    assert len(whole) == len(first)
