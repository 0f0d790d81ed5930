"""A world simple enough to know everything about: the state is the running sum of the actions, the image shows it."""

import dataclasses
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in several processes

import gymnasium
import numpy as np
import pytest
import torch

from worldlab.seeding import uniform
from worldlab.trajectory import Observation, Spec, Trajectory

COUNT_SPEC = Spec(
    cameras={"front": (8, 8)},
    state=("count",),
    action=("add",),
    privileged=("thing.x", "thing.y", "thing.z"),
    control="raw",
    low=(-1.0,),
    high=(1.0,),
    fps=10,
)


def count_image(state: torch.Tensor) -> torch.Tensor:
    """The 8 x 8 picture of a state (..., 1): every pixel is 10 * count + 100."""
    value = (100 + 10 * state).clamp(0, 255).round().to(torch.uint8)
    return value[..., None, None].expand(*state.shape[:-1], 8, 8, 3).contiguous()


class CountEnv(gymnasium.vector.VectorEnv):
    """n counters in lockstep. The state counts the actions' sum; reaching 5 is success; 12 steps is the limit."""

    def __init__(self, n: int = 4) -> None:
        self.num_envs = n
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
        self.contract = COUNT_SPEC
        self.single_observation_space = gymnasium.spaces.Dict(
            {
                "state": gymnasium.spaces.Box(-99, 99, (1,), np.float32),
                "images.front": gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        # The start is a pure function of the environment's seed.
        seeds = range(seed or 0, (seed or 0) + self.num_envs)
        self.x = torch.floor(3 * uniform(list(seeds), 0, (1,)))
        self.t = np.zeros(self.num_envs, int)
        self.over = np.zeros(self.num_envs, bool)
        self.task = tuple(f"count to five from {int(x)}" for x in self.x)
        return self._obs(), self._info()

    def step(self, actions):
        moving = torch.tensor(~self.over)[:, None]
        self.x = self.x + torch.as_tensor(actions) * moving
        self.t = self.t + ~self.over
        success = (self.x[:, 0] >= 5).numpy()
        terminated, truncated = success.copy(), self.t >= 12
        self.over = self.over | terminated | truncated
        return self._obs(), self.x[:, 0].numpy().copy(), terminated, truncated, self._info()

    @property
    def physics(self):
        return torch.cat([self.x, torch.tensor(self.t)[:, None]], 1).double()

    def restore(self, physics, task):
        self.x, self.t = physics[:, :1].float(), physics[:, 1].numpy().astype(int)
        self.task, self.over = task, np.zeros(self.num_envs, bool)

    def _obs(self):
        return {"state": self.x.numpy().copy(), "images.front": count_image(self.x).numpy()}

    def _info(self):
        privileged = torch.cat([self.x, 2 * self.x, torch.zeros_like(self.x)], 1).numpy()
        return {"task": self.task, "success": (self.x[:, 0] >= 5).numpy(), "privileged": privileged}


class Ones:
    """A policy that always adds one, three times in a row."""

    def reset(self, seeds):
        self.n = len(seeds)

    def act(self, obs):
        return torch.ones(len(obs.state), 3, 1)


class PerfectModel:
    """The world model that imagines exactly what `CountEnv` does."""

    spec = COUNT_SPEC

    def observe(self, context: Trajectory) -> torch.Tensor:
        last = context.length - 1
        return context.obs.state[torch.arange(len(last)), last]

    def imagine(self, belief, action, generator=None):
        x = belief[:, None] + action.cumsum(1)
        count = x[..., 0]
        done = count >= 5
        return Trajectory(
            obs=Observation({"front": count_image(x)}, x, ("?",) * len(x)),
            action=action,
            reward=count,
            terminated=done,
            success=done,
            valid=torch.ones_like(done),
            privileged=torch.cat([x, 2 * x, torch.zeros_like(x)], -1),
        ), x[:, -1]


@pytest.fixture
def env():
    return CountEnv()


@pytest.fixture
def policy():
    return Ones()


@pytest.fixture
def model():
    return PerfectModel()


@pytest.fixture
def spec():
    return dataclasses.replace(COUNT_SPEC)
