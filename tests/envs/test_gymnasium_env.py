"""Gymnasium's environments as vector environments: Gymnasium's own numbers, seeds, pictures, and branching."""

from typing import ClassVar

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from worldlab.envs import gymnasium_env
from worldlab.errors import UsageError
from worldlab.protocols import Environment, Restorable
from worldlab.rollout import rollout
from worldlab.seeding import uniform

ARM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 -1 2"/>
    <body pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0.4 0 0" size="0.05"/>
      <body pos="0.4 0 0">
        <joint name="b" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0.4 0 0" size="0.05"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="a" ctrlrange="-2 2"/></actuator>
</mujoco>
"""


class Arm(gymnasium.Env):
    """An environment like Gymnasium's `MujocoEnv`, which needs packages that are not installed here."""

    metadata: ClassVar = {"render_modes": [], "render_fps": 25}
    action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    observation_space = gymnasium.spaces.Dict(
        {
            "angles": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "speeds": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    )

    def __init__(self, render_mode=None):
        self.model = mujoco.MjModel.from_xml_string(ARM)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-1, 1, 2)
        mujoco.mj_forward(self.model, self.data)
        return self.observe(), {"is_success": False}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 4)
        observation = self.observe()
        return observation, self.data.qvel[0], False, False, {"is_success": bool(self.data.qpos[0] > 1)}

    def observe(self):
        return {"angles": self.data.qpos.copy(), "speeds": self.data.qvel.copy()}


class Painted(gymnasium.Env):
    """Shows its count as a grey 10 x 20 picture."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    action_space = gymnasium.spaces.Discrete(3, start=-1)
    observation_space = gymnasium.spaces.Box(-99, 99, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self.count = 5
        return np.float32([self.count]), {}

    def step(self, action):
        self.count += action
        return np.float32([self.count]), 1.0, self.count == 8, False, {}

    def render(self):
        return np.full((10, 20, 3), 10 * self.count, np.uint8)


class Undrawable(Painted):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("no brush.")


class Seer(Painted):
    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)


class Typist(Painted):
    action_space = gymnasium.spaces.Text(4)


KINDS = (Arm, Painted, Undrawable, Seer, Typist)


@pytest.fixture(autouse=True)
def registered():
    for kind in KINDS:
        gymnasium.register(f"test/{kind.__name__}-v0", kind, max_episode_steps=6)
    yield
    for kind in KINDS:
        del gymnasium.registry[f"test/{kind.__name__}-v0"]


class Random:
    """Actions that depend on the episode's seed and the step alone."""

    def __init__(self, spec):
        self.low, self.high = torch.tensor(spec.low), torch.tensor(spec.high)

    def reset(self, seeds):
        self.seeds, self.step = seeds, 0

    def act(self, obs):
        self.step += 1
        return self.low + (self.high - self.low) * uniform(self.seeds, self.step, (1, len(self.low)))


def play(env, seed, steps=8):
    return rollout(Random(env.contract), env, seed, max_steps=steps)


@pytest.mark.parametrize(("name", "size"), [("Pendulum-v1", None), ("CartPole-v1", None), ("test/Arm-v0", 24)])
def test_an_episode_depends_on_its_seed_alone(name, size):
    together = play(gymnasium_env.make(name, 3, size), seed=4).episode(2)
    alone = play(gymnasium_env.make(name, 1, size), seed=6).episode(0)
    assert torch.equal(together.obs.state, alone.obs.state)
    assert torch.equal(together.reward, alone.reward)
    if size is not None:
        assert torch.equal(together.obs.images["front"], alone.obs.images["front"])
        assert together.obs.images["front"].float().std() > 5


def test_states_and_rewards_are_those_of_gymnasium():
    ours = play(gymnasium_env.make("Pendulum-v1", 1, None), seed=3).episode(0)
    theirs = gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(theirs.reset(seed=3)[0], ours.obs.state[0])
    for t in range(8):
        observation, reward, *_ = theirs.step(ours.action[t].numpy())
        np.testing.assert_array_equal(observation, ours.obs.state[t + 1])
        assert ours.reward[t].item() == np.float32(reward)


def test_a_restored_row_replays_bit_for_bit_in_any_environment():
    env = gymnasium_env.make("test/Arm-v0", 2, 24)
    recorded = play(env, seed=0, steps=6)
    env.restore(recorded.physics[:, 2].flip(0), recorded.obs.task)
    for t in range(2, 6):
        assert torch.equal(env.physics.flip(0), recorded.physics[:, t])
        obs, reward, _, truncated, _ = env.step(recorded.action[:, t].flip(0).numpy())
        assert torch.equal(torch.tensor(obs["state"]).flip(0), recorded.obs.state[:, t + 1])
        assert torch.equal(torch.tensor(obs["images.front"]).flip(0), recorded.obs.images["front"][:, t + 1])
        np.testing.assert_array_equal(reward[::-1].astype(np.float32), recorded.reward[:, t].numpy())
    assert truncated.all()


def test_the_contract_says_what_there_is():
    arm, pendulum = gymnasium_env.make("test/Arm-v0", 2, 24), gymnasium_env.make("Pendulum-v1", 2, None)
    assert isinstance(arm, Environment)
    assert isinstance(arm, Restorable)
    assert isinstance(pendulum, Environment)
    assert not isinstance(pendulum, Restorable)
    assert arm.contract.state == ("angles.0", "angles.1", "speeds.0", "speeds.1")
    assert (arm.contract.low, arm.contract.high, arm.contract.fps) == ((-2.0,), (2.0,), 25)
    assert arm.contract.cameras == {"front": (24, 24)}
    obs, info = arm.reset(seed=0)
    assert arm.observation_space.contains(obs)
    assert info["task"] == ("test/Arm-v0",) * 2


def test_discrete_actions_are_the_largest_number_and_pictures_fit():
    env = gymnasium_env.make("test/Painted-v0", 2, (8, 6))
    obs, info = env.reset(seed=0)
    assert not info["success"].any()
    assert (obs["images.front"] == 50).all()
    obs, *_ = env.step(np.float32([[0.1, 0.2, 0.9], [0.5, 0.2, 0.3]]))
    assert obs["images.front"].shape == (2, 8, 6, 3)
    assert obs["images.front"][:, 0, 0, 0].tolist() == [60, 40]
    obs, *_ = env.step(np.float32([[1.5, 1.2, 3.0], [-2.0, -1.0, -3.0]]))  # whatever the limits are
    assert obs["images.front"][:, 0, 0, 0].tolist() == [70, 40]


def test_finished_environments_stand_still():
    env = gymnasium_env.make("test/Painted-v0", 2, 8)
    env.reset(seed=0)
    up_and_down = np.float32([[0, 0, 1], [1, 0, 0]])
    for _ in range(3):
        obs, reward, terminated, truncated, _ = env.step(up_and_down)
    assert terminated.tolist() == [True, False]
    for _ in range(3):
        obs, reward, terminated, truncated, _ = env.step(up_and_down)
    assert obs["state"][:, 0].tolist() == [8, -1]
    assert reward.tolist() == [0, 1]
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [False, True]


def test_success_is_what_the_environment_reports():
    recorded = play(gymnasium_env.make("test/Arm-v0", 8, None), seed=0, steps=6)
    assert torch.equal(recorded.success[:, :-1], recorded.obs.state[:, 1:, 0] > 1)
    assert recorded.success.any()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Pendulun-v1", "Did you mean 'Pendulum-v1'"),
        ("HalfCheetah-v2", "cannot make 'HalfCheetah-v2'"),
        ("test/Undrawable-v0", "no brush. From Python, size=None"),
        ("test/Seer-v0", "no pixels"),
        ("test/Typist-v0", "needs a Box or a Discrete"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        gymnasium_env.make(name)
