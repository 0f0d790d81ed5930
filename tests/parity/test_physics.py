"""The batched environment is MuJoCo: its states are those of a plain loop over `mj_step`."""

import mujoco
import numpy as np
import pytest
import torch

from worldlab import envs
from worldlab.rollout import rollout

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION


@pytest.mark.parametrize("task", envs.names())
def test_states_are_those_of_mj_step(task):
    env = envs.make(task, 2, cameras=(), threads=2)
    trajectory = rollout(env.expert(), env, seed=0)
    data, after = mujoco.MjData(env.model), mujoco.MjData(env.model)
    for i in range(2):
        mujoco.mj_setState(env.model, data, trajectory.physics[i, 0].numpy(), INTEGRATION)
        for t in range(int(trajectory.length[i]) - 1):
            mujoco.mj_setState(env.model, after, trajectory.physics[i, t + 1].numpy(), INTEGRATION)
            data.ctrl[:] = after.ctrl
            mujoco.mj_step(env.model, data, 20)
            data.userdata[0] += 1
            state = np.empty(mujoco.mj_stateSize(env.model, INTEGRATION))
            mujoco.mj_getState(env.model, data, state, INTEGRATION)
            assert torch.equal(torch.tensor(state), trajectory.physics[i, t + 1])
            np.testing.assert_allclose(after.ctrl, trajectory.action[i, t], atol=1e-6)


def test_absent_cubes_hang_still():
    env = envs.make("Lift", 8, cameras=(), threads=1)
    env.reset(seed=0)
    absent = ~env.situation.present
    before = env.situation.cubes[absent]
    raw, _ = env.observe()
    for _ in range(20):
        env.step(raw["state"])
    np.testing.assert_allclose(env.situation.cubes[absent], before, atol=1e-9)
    assert absent.any()


def test_cubes_on_the_table_rest():
    env = envs.make("Stack", 16, cameras=(), threads=1)
    raw, _ = env.reset(seed=0)
    before = env.situation.cubes[..., :3]
    for _ in range(20):
        env.step(raw["state"])
    assert np.abs(env.situation.cubes[..., :3] - before).max() < 5e-4
