"""LeRobot's own programs run what worldlab exports, and find what worldlab finds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from worldlab import envs, policies, so101
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics
from worldlab.policies import BackboneConfig, FlowConfig, GroundingConfig
from worldlab.policies.lerobot_policy import export_policy
from worldlab.rollout import rollout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # six programs in one fixture

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


@dataclass(frozen=True)
class Said:
    """What the programs wrote: logs by step, and folders."""

    rolled_out: str
    recorded: str
    replayed: str
    teleoperated: str
    real_time: str
    evaluations: tuple[Path, Path]
    data: Path


@pytest.fixture(scope="module")
def said(exported, ours, tmp_path_factory):
    """Seven programs, one after another in one process: LeRobot takes 10 s to import."""
    out = tmp_path_factory.mktemp("programs")
    evaluations = (out / "1", out / "3")
    commands = [*(evaluate(exported, folder) for folder in evaluations), roll_out(exported, ours.obs.task[0])]
    commands += [record(out), replay(out), teleoperate(out)]
    commands.append([*roll_out(exported, ours.obs.task[0]), "--inference.type=rtc"])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SVT_LOG": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Said(*done.stderr.split("=== program\n")[3:], evaluations, out / "data")


def evaluate(exported, folder):
    return [
        "lerobot-eval",
        f"--policy.path={exported}",
        "--env.type=worldlab",
        "--env.task=Reach-v0",
        f"--eval.n_episodes={EPISODES}",
        f"--eval.batch_size={folder.name}",
        f"--seed={SEED}",
        f"--output_dir={folder}",
    ]


def roll_out(exported, task):
    return [
        "lerobot-rollout",
        f"--policy.path={exported}",
        f"--policy.seed={SEED}",
        "--robot.type=worldlab_so101",
        "--robot.ideal=true",
        "--robot.task=Reach-v0",
        f"--robot.seed={SEED}",
        "--robot.realtime=false",
        "--robot.fps=10",
        "--fps=10",
        f"--task={task}",
        "--duration=5",
        "--play_sounds=false",
        "--return_to_initial_position=false",
    ]


def twin(out, seed):
    """The arm as it comes, on a clock that waits for the program."""
    return [
        "--robot.type=worldlab_so101",
        "--robot.id=twin",
        f"--robot.calibration_dir={out}",
        "--robot.task=Reach-v0",
        f"--robot.seed={seed}",
        "--robot.realtime=false",
        "--robot.fps=10",
    ]


def record(out):
    return [
        "lerobot-record",
        *twin(out, 20),
        "--teleop.type=worldlab",
        "--dataset.repo_id=me/recorded",
        f"--dataset.root={out / 'data'}",
        "--dataset.no_stamp=true",
        "--dataset.single_task=reach the cube",
        "--dataset.num_episodes=2",
        "--dataset.fps=10",
        "--dataset.episode_time_s=3",
        "--dataset.reset_time_s=0",
        "--dataset.push_to_hub=false",
        "--dataset.rgb_encoder.vcodec=h264",
        "--play_sounds=false",
    ]


def replay(out):
    data = ["--dataset.repo_id=me/recorded", f"--dataset.root={out / 'data'}", "--dataset.episode=1"]
    return ["lerobot-replay", *twin(out, 21), *data, "--play_sounds=false"]


def teleoperate(out):
    return ["lerobot-teleoperate", *twin(out, 22), "--teleop.type=worldlab", "--fps=10", "--teleop_time_s=3"]


def test_lerobot_eval_finds_the_same_episodes_at_any_batch_size(said, ours):
    for folder in said.evaluations:
        theirs = json.loads((folder / "eval_info.json").read_text())["per_task"][0]["metrics"]
        assert theirs["successes"] == ours.succeeded.tolist()
        assert 0 < sum(theirs["successes"]) < EPISODES
        assert theirs["sum_rewards"] == pytest.approx(ours.reward.sum(1).tolist(), abs=1e-5)


def test_lerobot_rollout_on_the_ideal_arm_is_the_same_episode(said, ours):
    assert f"its own instruction is '{ours.obs.task[0]}'" in said.rolled_out
    assert f"task achieved after {(ours.length[0] - 1) / 10:.1f} s" in said.rolled_out


def test_lerobot_records_one_scene_an_episode_and_replays_it_with_success(said):
    info = json.loads((said.data / "meta" / "info.json").read_text())
    assert info["robot_type"] == "so_follower"
    assert info["total_episodes"] == 2
    assert info["features"]["action"]["names"] == list(so101.NAMES) == info["features"]["observation.state"]["names"]
    first, second = said.recorded.split("Recording episode 1")
    for part, scene in ((first, 20), (second, 21), (said.replayed, 21), (said.teleoperated, 22)):
        assert f"scene {scene};" in part
        assert "task achieved after" in part


def test_lerobot_rollout_plans_while_the_arm_moves(said):
    assert "RTC inference thread started" in said.real_time
    assert "RTC inference error" not in said.real_time
    assert "task achieved after" in said.real_time


def test_seeds_that_are_not_consecutive_are_refused():
    from lerobot_policy_worldlab import WorldlabEnvConfig

    env = WorldlabEnvConfig().create_envs(2)["worldlab"][0]
    with pytest.raises(UsageError, match=r"consecutive seeds, not from \[3, 5\]"):
        env.reset(seed=[3, 5])
