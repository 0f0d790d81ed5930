"""Laws of the one data type and of the contract."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones
from hypothesis import given, settings
from hypothesis import strategies as st

from worldlab.errors import UsageError
from worldlab.rollout import rollout
from worldlab.trajectory import stack


def test_stacking_single_episodes_undoes_taking_them_apart():
    t = rollout(Ones(), CountEnv(5), seed=0)
    again = stack([t.episode(i) for i in range(5)])
    assert torch.equal(again.valid, t.valid)
    mask = t.valid[..., None]
    assert torch.equal(again.obs.state * mask, t.obs.state * mask)
    assert torch.equal(again.physics * mask, t.physics * mask)
    assert again.obs.task == t.obs.task


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_picking_entries_is_indexing(entries):
    t = rollout(Ones(), CountEnv(4), seed=0)
    part = t.pick(entries)
    for k, i in enumerate(entries):
        assert torch.equal(part.obs.images["front"][k], t.obs.images["front"][i])
        assert part.obs.task[k] == t.obs.task[i]


def test_rows_are_a_slice_of_every_column():
    t = rollout(Ones(), CountEnv(4), seed=0)
    part = t.rows(1, 3)
    assert torch.equal(part.obs.state, t.obs.state[:, 1:3])
    assert torch.equal(part.action, t.action[:, 1:3])
    assert torch.equal(part.privileged, t.privileged[:, 1:3])


def test_a_stride_sums_what_happened_between():
    whole = rollout(Ones(), CountEnv(4), seed=0)
    lengths = set()
    for t in (whole.episode(i) for i in range(4)):
        n = len(t.valid) - 1
        lengths.add(n % 2)
        two, rows = t.strided(2), [*range(0, n, 2), n]
        assert torch.equal(two.obs.state, t.obs.state[rows])
        assert torch.equal(two.physics, t.physics[rows])
        for i, (a, b) in enumerate(pairwise(rows)):
            assert two.reward[i] == t.reward[a:b].sum()
            assert two.success[i] == t.success[a:b].any()
            assert two.terminated[i] == t.terminated[a:b].any()
            assert torch.equal(two.action[i], t.action[a])
        assert two.terminated.any()
        assert not two.action[-1].any()
        assert not two.reward[-1]
        assert torch.equal(t.strided(1).reward, t.reward)
        assert len(t.strided(n + 1).valid) == 2
    assert lengths == {0, 1}  # some end between


def test_a_wrong_shape_is_caught_under_test(env, policy):
    t = rollout(policy, env, seed=0)
    with pytest.raises(Exception, match="reward"):
        dataclasses.replace(t, reward=t.reward[:, :-1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cameras": {"wrist": (8, 8)}}, "front"),
        ({"cameras": {"front": (16, 16)}}, "size of camera"),
        ({"state": ("other",)}, "state"),
        ({"action": ("other",)}, "action"),
        ({"control": "ee_delta"}, "control"),
        ({"fps": 30}, "fps"),
        ({"high": (2.0,)}, "highest action"),
        ({"low": (-2.0,)}, "lowest action"),
    ],
)
def test_the_first_difference_is_named(change, word):
    COUNT_SPEC.check(COUNT_SPEC)
    with pytest.raises(UsageError, match=word):
        COUNT_SPEC.check(dataclasses.replace(COUNT_SPEC, **change))


def test_privileged_columns_are_no_part_of_the_agreement():
    COUNT_SPEC.check(dataclasses.replace(COUNT_SPEC, privileged=()))
