"""Laws of the tasks: no start succeeds, cubes are apart, words name what is there, and the reward leads to success."""

import numpy as np
import pytest
from seen import seen

from worldlab import envs
from worldlab.envs.tasks import NAMES, TASKS


@pytest.fixture(scope="module", params=list(TASKS))
def starts(request):
    env = envs.make(request.param, 500, cameras=(), threads=1)
    _, info = env.reset(seed=0)
    return env, info


def test_no_start_already_succeeds(starts):
    env, info = starts
    assert not info["success"].any()
    assert env.objective.reward(env.situation).max() < 0.9


def test_two_to_four_cubes_lie_apart_and_within_reach(starts):
    env, _ = starts
    situation = env.situation
    counts = situation.present.sum(1)
    assert set(counts) == {2, 3, 4}
    for cubes, present in zip(situation.cubes, situation.present, strict=True):
        spots = cubes[present, :2]
        gaps = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + np.eye(len(spots))
        assert gaps.min() > 0.06
        assert np.linalg.norm(spots, axis=1).max() < 0.28


def test_the_instruction_names_what_is_there_and_only_that(starts):
    env, info = starts
    situation = env.situation
    phrases = set()
    for task, goal, present in zip(info["task"], situation.goal, situation.present, strict=True):
        named = [colour for colour in task.split() if colour in NAMES]
        assert named == [NAMES[i] for i in goal if i >= 0]
        assert all(present[NAMES.index(colour)] for colour in named)
        phrases.add(" ".join(word for word in task.split() if word not in NAMES))
    assert len(phrases) >= 3


def test_the_reward_leads_to_success(starts):
    env, _ = starts
    small = envs.make(env.objective.name, 8, cameras=(), threads=1)
    small.reset(seed=0)
    policy = small.expert()
    first = small.objective.reward(small.situation)
    for _ in range(small.objective.limit):
        _, reward, terminated, _, info = small.step(policy.act(seen(small))[:, 0].numpy())
        assert ((reward >= 0) & (reward <= 1)).all()
        np.testing.assert_array_equal(reward == 1, info["success"])
    assert (reward > first).all()
    assert terminated.all()
