"""LeRobot's own programs run what worldlab exports, and find what worldlab finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worldlab import envs, policies, so101
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics
from worldlab.policies import BackboneConfig, FlowConfig, GroundingConfig
from worldlab.policies.lerobot_policy import export_policy
from worldlab.rollout import rollout

pytestmark = pytest.mark.slow

SEED, EPISODES = 1000, 6


def make_policy():
    """Untrained, but it moves about the pose that solves the first seed, so that it solves some and not others."""
    env = envs.make("worldlab/Reach-v0")
    solution = rollout(env.expert(), env, SEED).action[0, -2]
    around = [tuple((solution + offset).tolist()) for offset in (0, -0.02, 0.02)]
    moments = Moments(mean=around[0], std=(0.5,) * 6, q01=around[1], q99=around[2])
    small = BackboneConfig(width=32, layers=1, heads=2)
    config = FlowConfig(backbone=small, grounding=GroundingConfig(weight=0.0), width=16, pace=None)
    torch.manual_seed(0)
    return policies.create(config, env.contract, Statistics(moments, moments), ("go to the red cube",)).eval()


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def exported(policy, tmp_path_factory):
    return export_policy(policy, tmp_path_factory.mktemp("lerobot") / "policy")


@pytest.fixture(scope="module")
def ours(policy):
    return rollout(policy, envs.make("worldlab/Reach-v0", n=EPISODES), SEED)


def program(name, *arguments):
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize("batch", [1, 3])
def test_lerobot_eval_finds_the_same_episodes(policy, exported, ours, batch, tmp_path):
    program(
        "lerobot-eval",
        f"--policy.path={exported}",
        "--env.type=worldlab",
        "--env.task=Reach-v0",
        f"--eval.n_episodes={EPISODES}",
        f"--eval.batch_size={batch}",
        f"--seed={SEED}",
        f"--output_dir={tmp_path}",
    )
    theirs = json.loads((tmp_path / "eval_info.json").read_text())["per_task"][0]["metrics"]
    assert theirs["successes"] == ours.succeeded.tolist()
    assert 0 < sum(theirs["successes"]) < EPISODES
    assert theirs["sum_rewards"] == pytest.approx(ours.reward.sum(1).tolist(), abs=1e-5)


def test_lerobot_rollout_drives_the_simulated_arm(exported, ours):
    said = program(
        "lerobot-rollout",
        f"--policy.path={exported}",
        f"--policy.seed={SEED}",
        "--robot.type=worldlab_so101",
        "--robot.task=Reach-v0",
        f"--robot.seed={SEED}",
        f"--task={ours.obs.task[0]}",
        "--fps=10",
        "--robot.realtime=false",
        "--duration=5",
        "--play_sounds=false",
        "--return_to_initial_position=false",
    )
    assert f"the scene's own instruction is '{ours.obs.task[0]}'" in said
    assert f"task achieved after {(ours.length[0] - 1) / 10:.1f} s" in said


def test_lerobot_rollout_plans_while_the_arm_moves(exported, ours):
    said = program(
        "lerobot-rollout",
        f"--policy.path={exported}",
        f"--policy.seed={SEED}",
        "--inference.type=rtc",
        "--robot.type=worldlab_so101",
        "--robot.task=Reach-v0",
        f"--robot.seed={SEED}",
        f"--task={ours.obs.task[0]}",
        "--fps=10",
        "--robot.realtime=false",
        "--duration=5",
        "--play_sounds=false",
        "--return_to_initial_position=false",
    )
    assert "RTC inference thread started" in said
    assert "RTC inference error" not in said
    assert "task achieved after" in said


def test_the_simulated_arm_moves_as_the_environment_does():
    from lerobot_policy_worldlab.config_worldlab_so101 import WorldlabSO101Config
    from lerobot_policy_worldlab.worldlab_so101 import WorldlabSO101

    env = envs.make("worldlab/Lift-v0")
    ours = rollout(policies.RandomPolicy(env.contract), env, 3, max_steps=20)
    robot = WorldlabSO101(WorldlabSO101Config(task="Lift-v0", seed=3, realtime=False))
    robot.connect()
    for t in range(20):
        seen = robot.get_observation()
        assert list(seen) == [*so101.NAMES, "front", "wrist"] == list(robot.observation_features)
        position = torch.tensor([seen[name] for name in so101.NAMES])
        assert torch.equal(so101.from_lerobot(position), ours.obs.state[0, t])
        assert all((seen[camera] == ours.obs.images[camera][0, t].numpy()).all() for camera in ("front", "wrist"))
        goal = so101.to_lerobot(ours.action[0, t]).tolist()
        accepted = robot.send_action(dict(zip(so101.NAMES, goal, strict=True)))
        assert list(accepted.values()) == pytest.approx(goal, abs=1e-4)
    assert robot.send_action(dict.fromkeys(so101.NAMES, 1e3))["gripper.pos"] == pytest.approx(100)
    robot.disconnect()


def test_seeds_that_are_not_consecutive_are_refused():
    from lerobot_policy_worldlab import WorldlabEnvConfig

    env = WorldlabEnvConfig().create_envs(2)["worldlab"][0]
    with pytest.raises(UsageError, match=r"consecutive seeds, not from \[3, 5\]"):
        env.reset(seed=[3, 5])
