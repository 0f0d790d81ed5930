"""LeRobot's own programs run what worldlab exports, and find what worldlab finds."""

import json
import os
import subprocess
import sys

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


PROGRAMS = """
import json, sys
from importlib.metadata import entry_points

for command in json.loads(sys.argv[1]):
    print("=== program", file=sys.stderr, flush=True)
    sys.argv = command
    (program,) = entry_points(group="console_scripts", name=command[0])
    program.load()()
"""


def programs(*commands):
    """What each program says. They run in one process: LeRobot takes 10 s to import."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS, json.dumps([[str(word) for word in command] for command in commands])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SVT_LOG": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr.split("=== program\n")[1:]


def test_lerobots_programs_find_the_same_episodes(policy, exported, ours, tmp_path):
    evaluations = [
        (
            "lerobot-eval",
            f"--policy.path={exported}",
            "--env.type=worldlab",
            "--env.task=Reach-v0",
            f"--eval.n_episodes={EPISODES}",
            f"--eval.batch_size={batch}",
            f"--seed={SEED}",
            f"--output_dir={tmp_path / str(batch)}",
        )
        for batch in (1, 3)
    ]
    driven = (
        "lerobot-rollout",
        f"--policy.path={exported}",
        f"--policy.seed={SEED}",
        "--robot.type=worldlab_so101",
        "--robot.ideal=true",
        "--robot.realtime=false",
        "--robot.fps=10",
        "--robot.task=Reach-v0",
        f"--robot.seed={SEED}",
        f"--task={ours.obs.task[0]}",
        "--fps=10",
        "--duration=5",
        "--play_sounds=false",
        "--return_to_initial_position=false",
    )
    *_, said = programs(*evaluations, driven)
    for batch in ("1", "3"):
        theirs = json.loads((tmp_path / batch / "eval_info.json").read_text())["per_task"][0]["metrics"]
        assert theirs["successes"] == ours.succeeded.tolist()
        assert 0 < sum(theirs["successes"]) < EPISODES
        assert theirs["sum_rewards"] == pytest.approx(ours.reward.sum(1).tolist(), abs=1e-5)
    assert f"its own instruction is '{ours.obs.task[0]}'" in said
    assert f"task achieved after {(ours.length[0] - 1) / 10:.1f} s" in said


def test_lerobot_records_and_replays_the_twin(tmp_path):
    """What the scripted teleoperator does is recorded, one scene an episode, and succeeds again when replayed."""
    robot = ("--robot.type=worldlab_so101", "--robot.id=twin", f"--robot.calibration_dir={tmp_path}")
    clock = ("--robot.task=Reach-v0", "--robot.realtime=false", "--robot.fps=10")
    data = ("--dataset.repo_id=me/recorded", f"--dataset.root={tmp_path / 'data'}")
    recorded, replayed, teleoperated = programs(
        (
            "lerobot-record",
            *robot,
            *clock,
            "--robot.seed=20",
            "--teleop.type=worldlab",
            *data,
            "--dataset.no_stamp=true",
            "--dataset.single_task=reach the cube",
            "--dataset.num_episodes=2",
            "--dataset.fps=10",
            "--dataset.episode_time_s=3",
            "--dataset.reset_time_s=0",
            "--dataset.push_to_hub=false",
            "--dataset.rgb_encoder.vcodec=h264",
            "--play_sounds=false",
        ),
        ("lerobot-replay", *robot, *clock, "--robot.seed=21", *data, "--dataset.episode=1", "--play_sounds=false"),
        (
            "lerobot-teleoperate",
            *robot,
            *clock,
            "--robot.seed=22",
            "--teleop.type=worldlab",
            "--fps=10",
            "--teleop_time_s=3",
        ),
    )
    info = json.loads((tmp_path / "data" / "meta" / "info.json").read_text())
    assert info["robot_type"] == "so_follower"
    assert info["total_episodes"] == 2
    assert info["features"]["action"]["names"] == list(so101.NAMES) == info["features"]["observation.state"]["names"]
    first, second = recorded.split("Recording episode 1")
    assert all("task achieved after" in part for part in (first, second, replayed, teleoperated))
    assert "scene 20" in first
    assert "scene 21" in second
    assert "scene 21" in replayed


def test_seeds_that_are_not_consecutive_are_refused():
    from lerobot_policy_worldlab import WorldlabEnvConfig

    env = WorldlabEnvConfig().create_envs(2)["worldlab"][0]
    with pytest.raises(UsageError, match=r"consecutive seeds, not from \[3, 5\]"):
        env.reset(seed=[3, 5])
