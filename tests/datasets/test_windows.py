import numpy as np
import pytest
import torch
from episodes import SPEC, assert_equal, columns

from worldlab.datasets import EpisodeStore, Windows
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


def test_unused_rows_between_episodes_are_never_seen(store):
    """The table, not the order of rows, says where an episode lies."""
    import zarr

    table = zarr.open_array(str(store.path / "episodes"), mode="r+")
    table[2] = table[2] + np.array([2, -2, 0, 0])
    moved = EpisodeStore(store.path)
    assert len(moved[2].valid) == 6
    assert Windows(moved, length=3).count == Windows(store, length=3).count - 2
