"""The same laws where physics, cameras and instructions are real."""

import torch

from worldlab import envs
from worldlab.eval import WrongInstruction, success
from worldlab.policies import RandomPolicy


class Unsteady:
    """Random until a step that the episode's seed decides, and the expert from then on; for some that is too late."""

    def __init__(self, env):
        self.expert, self.random = env.expert(), RandomPolicy(env.contract)

    def reset(self, seeds):
        self.seeds, self.step = torch.tensor(list(seeds)), 0
        self.expert.reset(seeds)
        self.random.reset(seeds)

    def act(self, obs):
        self.step += 1
        good, bad = self.expert.act(obs)[:, :1], self.random.act(obs)[:, :1]
        return torch.where((self.step > 5 * (self.seeds % 10))[:, None, None], good, bad)


def make(n):
    return envs.make("worldlab/Reach-v0", n, size=8, cameras=("front",))


def test_episodes_do_not_depend_on_how_many_run_beside_them():
    results = []
    for n in (1, 4, 32):
        env = make(n)
        results.append(success(Unsteady(env), env, episodes=12, seed=11))
    assert results[0] == results[1] == results[2]
    assert 0 < results[0].successes < 12
    assert len({e.steps for e in results[0].episodes}) > 3


def test_the_wrong_instruction_names_another_cube_of_the_scene():
    env = make(16)
    _, info = env.reset(seed=3)
    _, wrong = WrongInstruction(env).reset(seed=3)
    present = env.contract.privileged.index
    for i, (true, false) in enumerate(zip(info["task"], wrong["task"], strict=True)):
        (was,) = set(true.split()) - set(false.split())
        (now,) = set(false.split()) - set(true.split())
        assert info["privileged"][i, present(f"{was}_cube.target")] == 1
        assert info["privileged"][i, present(f"{now}_cube.present")] == 1
        assert info["privileged"][i, present(f"{now}_cube.target")] == 0
