import subprocess
import sys

import numpy as np
import pytest
import torch
from episodes import SPEC, assert_equal, columns, random_trajectory

from worldlab.datasets import EpisodeStore, Windows, buffers, merge
from worldlab.datasets.columns import Column
from worldlab.errors import UsageError


def expected(store, length, observed, pad):
    """Every window that should exist, by (episode, first row), cut out of the episodes one by one."""
    windows = {}
    for e, episode in enumerate(store):
        rows = len(episode.valid) - (observed < length)
        for t in range(len(episode.valid) - 1):
            if pad or t + length <= rows:
                windows[e, t] = episode.rows(t, min(t + length, rows))
    return windows


@pytest.mark.parametrize(
    ("length", "observed", "cache_bytes"),
    [(1, None, 1 << 30), (3, None, 0), (4, 1, 3000), (4, 3, 1 << 30), (8, None, 1 << 30), (8, 1, 1 << 30)],
)
@pytest.mark.parametrize("pad", [True, False])
def test_an_epoch_is_every_window_once_and_none_crosses_an_episode(store, length, observed, pad, cache_bytes):
    want = expected(store, length, observed or length, pad)
    windows = Windows(store, length, batch=1, seed=4, observed=observed, pad=pad, cache_bytes=cache_bytes)
    assert windows.count == len(want)
    found = {}
    for step in range(windows.count):
        got = windows[step]
        key = next(k for k, w in want.items() if torch.equal(w.action[0], got.action[0, 0]))
        found[key] = got
    assert found.keys() == want.keys()
    for key, window in want.items():
        got = found[key]
        n = len(window.valid)
        assert got.valid[0].tolist() == [True] * n + [False] * (length - n)
        assert got.obs.task == store[key[0]].obs.task
        for name, x in columns(window).items():
            rows = (observed or length) if name == "state" or "images" in name else length
            y = columns(got)[name][0]
            assert len(y) == rows
            assert torch.equal(y[:n], x[:rows]), name
            assert not y[n:].any(), name


def test_a_batch_depends_on_seed_and_step_alone(store):
    windows = Windows(store, length=4, batch=5, seed=1)
    later = windows[11]
    assert_equal(Windows(store, length=4, batch=5, seed=1)[11], later)
    assert_equal(next(b for i, b in enumerate(windows) if i == 11), later)
    assert not torch.equal(Windows(store, length=4, batch=5, seed=2)[11].action, later.action)


def test_batches_run_on_over_the_end_of_an_epoch(store):
    whole = Windows(store, length=2, batch=38, seed=3)
    assert whole.count == 38
    small = Windows(store, length=2, batch=5, seed=3)
    first_two_epochs = torch.cat([whole[0].action, whole[1].action])
    assert torch.equal(torch.cat([small[i].action for i in range(16)])[:76], first_two_epochs)
    assert not torch.equal(whole[0].action, whole[1].action)


def test_held_out_episodes_stay_out(store):
    held_out = Windows(store, length=4, batch=64, episodes=[1, 4])
    assert held_out.count == 1 + 20
    rows = torch.cat([store[1].action[:1], store[4].action[:20]])
    assert {tuple(r) for r in held_out[0].action[:, 0].tolist()} == {tuple(r) for r in rows.tolist()}


def test_what_gives_no_window_is_refused(store, tmp_path):
    for arguments, sentence in [
        ({"length": 0}, "0 < observed <= length"),
        ({"length": 4, "observed": 5}, "0 < observed <= length"),
        ({"length": 30, "pad": False}, "none of the 6 episodes used holds 30 rows"),
        ({"episodes": [9]}, "there are 6"),
        ({"episodes": []}, "none of the 0 episodes"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            Windows(store, **arguments)
    with pytest.raises(UsageError, match="none of the 0"):
        Windows(EpisodeStore.create(tmp_path / "empty.zarr", SPEC, {}))


@pytest.mark.parametrize("length", [2, 3])
def test_windows_about_actions_hold_an_action_a_stride(store, length):
    windows = Windows(store, length=length, batch=1, observed=1, stride=4)
    left = [len(episode.valid) - 1 - t for episode in store for t in range(0, len(episode.valid) - 1, 4)]
    assert windows.count == len(left)
    held = sum(min(length, len(range(0, actions, 4))) for actions in left)  # actions that begin within a window
    assert sum(int(windows[i].valid.sum()) for i in range(windows.count)) == held


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("pad", [True, False])
def test_a_stride_takes_steps_at_which_actions_are_held_as_one(store, cache_bytes, pad):
    windows = Windows(store, length=3, batch=1, stride=4, seed=2, pad=pad, cache_bytes=cache_bytes)
    found = [windows[i] for i in range(windows.count)]
    wanted = [
        (coarse.rows(t, t + 3), t + 3 >= len(coarse.valid))
        for coarse in (episode.strided(4) for episode in store)
        for t in range(len(coarse.valid) - (1 if pad else 2))
        if pad or t + 3 <= len(coarse.valid)
    ]
    assert len(found) == len(wanted)
    assert any((len(episode.valid) - 1) % 4 for episode in store)  # some end before a stride is over
    for want, last in wanted:
        got = next(w for w in found if torch.equal(w.action[0, 0], want.action[0]))
        n = len(want.valid)
        assert got.valid[0].tolist() == [True] * n + [False] * (3 - n)
        assert torch.equal(got.obs.state[0, :n], want.obs.state)
        assert torch.equal(got.obs.images["front"][0, :n], want.obs.images["front"])
        assert not got.obs.images["front"][0, n:].any()
        acted = n - 1 if last else n
        assert torch.equal(got.action[0, :acted], want.action[:acted])
        torch.testing.assert_close(got.reward[0, :acted], want.reward[:acted])
        assert torch.equal(got.success[0, :acted], want.success[:acted])
        assert torch.equal(got.terminated[0, :acted], want.terminated[:acted])


def test_ten_million_frames_open_at_once_and_in_little_memory(tmp_path):
    """A synthetic index of 100,000 episodes; in a process of its own, whose memory is its own."""
    with EpisodeStore.create(tmp_path / "x.zarr", SPEC, {}) as store:
        store.append(random_trajectory([99]), [0])
        table = np.zeros((99_999, 4), np.int64)
        table[:, 0], table[:, 1] = 100 * np.arange(1, 100_000), 100
        store.commit({}, table, store.tasks, 100 * 100_000)
        content = {}
        for layout in store.layouts:
            content |= Column(store.files, layout).resized(10_000_000)
        store.files.write(content)
    code = """
import resource, sys, time, zarr
from worldlab.datasets import EpisodeStore, Windows

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, begun = peak(), time.process_time()
windows = Windows(EpisodeStore(sys.argv[1]))
opened, used = time.process_time() - begun, peak() - before
order = windows._order(0)
print(windows.count, opened, used, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.zarr")], capture_output=True, text=True, check=True
    )
    count, seconds, megabytes, with_order = map(float, done.stdout.split())
    assert count == 99 * 100_000
    assert seconds < 1
    assert megabytes < 100
    assert with_order < 100


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_memory_is_used_again_but_never_while_any_part_of_a_batch_is_held(store, cache_bytes, monkeypatch):
    monkeypatch.setattr(buffers, "_WORTH_KEEPING", 0)
    windows = Windows(store, length=3, batch=4, cache_bytes=cache_bytes)
    fresh = [Windows(store, length=3, batch=4, cache_bytes=cache_bytes)[i] for i in range(12)]
    held = [windows[i].obs.images["front"][1:, 0] for i in range(4)]
    array = windows[4].action.numpy()
    for i in range(5, 12):
        assert_equal(windows[i], fresh[i])
    for i, part in enumerate(held):
        assert torch.equal(part, fresh[i].obs.images["front"][1:, 0])
    assert (array == fresh[4].action.numpy()).all()
    places = {windows[i].obs.images["front"].data_ptr() for i in range(12)}
    assert len(places) <= 3


def test_unused_rows_between_episodes_are_never_seen(tmp_path):
    """Episodes of merged parts do not lie side by side."""
    stores = [EpisodeStore.create(tmp_path / f"{name}.zarr", SPEC, {}) for name in ("whole", "a", "b")]
    episodes = random_trajectory([5, 9, 4], seed=3)
    stores[1].append(episodes.pick([0, 1]), [0, 1])
    stores[2].append(episodes.pick([2]), [2])
    merge(stores[0], stores[1:])
    whole = stores[0]
    assert whole.starts[2] > whole.starts[1] + whole.lengths[1]
    for cache_bytes in (0, 1 << 30):
        windows = Windows(whole, length=3, batch=1, cache_bytes=cache_bytes)
        assert windows.count == 5 + 9 + 4
        seen = torch.cat([windows[i].action[:, 0] for i in range(windows.count)])
        want = torch.cat([e.action[:-1] for e in whole])
        assert torch.equal(seen[seen[:, 0].argsort()], want[want[:, 0].argsort()])
