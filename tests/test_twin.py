"""The digital twin behind LeRobot's `Robot` behaves as LeRobot's own follower does."""

import json
import logging
import time
from dataclasses import asdict, make_dataclass

import numpy as np
import pytest
import torch

from worldlab import envs, policies, so101
from worldlab.envs.servo import nominal
from worldlab.errors import UsageError
from worldlab.rollout import rollout

pytestmark = pytest.mark.slow  # LeRobot takes 10 s to import

TICK = 360 / 4095


@pytest.fixture
def make(tmp_path):
    """Twins in an empty folder of calibrations; all are disconnected in the end."""
    from lerobot_policy_worldlab.config_worldlab_so101 import WorldlabSO101Config
    from lerobot_policy_worldlab.worldlab_so101 import WorldlabSO101, connected

    def make(**options):
        options = {"calibration_dir": tmp_path, "id": "arm", "realtime": False} | options
        robot = WorldlabSO101(WorldlabSO101Config(**options))
        robot.connect()
        return robot

    yield make
    for robot in list(connected):
        robot.disconnect()


def position(seen):
    return np.array([seen[name] for name in so101.NAMES])


def action(units):
    return dict(zip(so101.NAMES, np.broadcast_to(units, 6).tolist(), strict=True))


def test_an_ideal_arm_moves_as_the_environment_does(make):
    env = envs.make("worldlab/Lift-v0")
    ours = rollout(policies.RandomPolicy(env.contract), env, 3, max_steps=20)
    robot = make(task="Lift-v0", seed=3, fps=10, ideal=True)
    for t in range(20):
        seen = robot.get_observation()
        assert list(seen) == [*so101.NAMES, "front", "wrist"] == list(robot.observation_features)
        assert torch.equal(so101.from_lerobot(torch.tensor(position(seen)).float()), ours.obs.state[0, t])
        assert all((seen[camera] == ours.obs.images[camera][0, t].numpy()).all() for camera in ("front", "wrist"))
        goal = action(so101.to_lerobot(ours.action[0, t]).numpy())
        assert robot.send_action(goal) == goal


def test_the_same_seed_is_the_same_bits(make):
    robot = make(task="Push-v0", seed=5)
    episodes = []
    for _ in range(2):
        robot.begin(2)
        rows = []
        for t in range(10):
            seen = robot.get_observation()
            rows.append(np.concatenate([position(seen), seen["front"].ravel(), seen["wrist"].ravel()]))
            robot.send_action(action(3.0 * t))
        episodes.append(np.array(rows))
    assert (episodes[0] == episodes[1]).all()


def test_the_joints_are_read_in_whole_ticks_and_droop(make):
    robot = make()
    for _ in range(60):
        robot.send_action(action([0, -20, 20, 20, 0, 50]))
    shown = position(robot.get_observation())
    halves = 2 * shown[:5] / TICK  # the middle of an even number of ticks is between two
    assert np.abs(halves - np.rint(halves)).max() < 1e-9
    below = shown - [0, -20, 20, 20, 0, 50]
    assert 1 < np.abs(below[1:4]).max() < 6
    rigid = make(stiffness=None)
    for _ in range(60):
        rigid.send_action(action([0, -20, 20, 20, 0, 50]))
    assert np.abs(position(rigid.get_observation()) - [0, -20, 20, 20, 0, 50]).max() < 3 * TICK


def test_an_arms_calibration_file_is_used_and_none_is_written(make, tmp_path):
    robot = make()
    assert list(tmp_path.iterdir()) == []
    file = {name: asdict(motor) for name, motor in robot.calibration.items()}
    file["elbow_flex"] |= {"range_min": 1500, "range_max": 2200, "homing_offset": -37}
    (tmp_path / "hand.json").write_text(json.dumps(file))
    calibrated = make(id="hand")
    for _ in range(90):
        assert calibrated.send_action(action([0, 0, 80, 0, 0, 0]))["elbow_flex.pos"] == 80
    # The servo's own limits hold it, and the zero is the middle of its range.
    assert position(calibrated.get_observation())[2] == pytest.approx((2200 - 1850) * TICK, abs=6)
    (tmp_path / "other.json").write_text(json.dumps({"wheel": asdict(robot.calibration["gripper"])}))
    with pytest.raises(UsageError, match="not the calibration of an SO-101: motors wheel"):
        make(id="other")


def test_normalised_units_reach_from_end_to_end(make):
    robot = make(use_degrees=False, stiffness=None)
    for _ in range(90):
        robot.send_action(action([100, -100, 0, 0, 50, 100]))
    assert position(robot.get_observation()) == pytest.approx([100, -100, 0, 0, 50, 100], abs=0.5)


@pytest.mark.parametrize("cap", [5.0, {**dict.fromkeys(so101.JOINTS, 5.0), "wrist_roll": 1.0}])
def test_goals_are_capped_relative_to_the_present(make, cap):
    from lerobot.robots.utils import ensure_safe_goal_position

    robot = make(max_relative_target=cap)
    for goal in (30.0, -30.0, 2.0):
        now = position(robot.get_observation()).tolist()
        pairs = {joint: (goal, here) for joint, here in zip(so101.JOINTS, now, strict=True)}
        sent = robot.send_action(action(goal))
        assert list(sent.values()) == list(ensure_safe_goal_position(pairs, cap).values())
        assert np.abs(position(sent) - now).max() <= 5.0 + 1e-9


@pytest.mark.parametrize(("cap", "stands"), [(1.0, False), (10.0, True)])
def test_a_cap_below_the_droop_lets_the_arm_sink(make, cap, stands):
    """The cap is taken from where the joint is, so it bounds the torque too: stiffness times the cap."""
    robot = make(task="Reach-v0", seed=1, cameras={})
    for _ in range(60):
        robot.send_action(action([0, 0, 0, 0, 0, 50]))
    high = position(robot.get_observation())
    robot.config.max_relative_target = cap
    for _ in range(60):
        robot.send_action(action([0, 0, 0, 0, 0, 50]))
    sunk = position(robot.get_observation()) - high
    assert (np.abs(sunk).max() < 1) == stands


@pytest.mark.parametrize(("cap", "error"), [(5, TypeError), ({"gripper": 5.0}, ValueError)])
def test_caps_that_the_follower_refuses_are_refused(make, cap, error):
    with pytest.raises(error):
        make(max_relative_target=cap).send_action(action(0.0))


def test_an_arm_without_encoders_has_no_normalised_units(make):
    with pytest.raises(UsageError, match="leave out use_degrees=false"):
        make(ideal=True, use_degrees=False)


def test_the_wall_clock_moves_the_arm_between_calls(make):
    robot = make(realtime=True)
    time.sleep(0.1)
    robot.get_observation()
    assert robot.twin.seconds == 0, "time begins with the first action"
    begun = time.perf_counter()
    robot.send_action(action(0.0))
    time.sleep(0.1)
    robot.get_observation()
    assert robot.twin.seconds + 0.005 >= 0.1
    assert robot.twin.seconds <= time.perf_counter() - begun + 0.005


def test_cameras_have_the_configured_size_and_no_other_names(make):
    from lerobot.cameras.opencv import OpenCVCameraConfig

    robot = make(cameras={"front": OpenCVCameraConfig(index_or_path=4, width=48, height=32, fps=30)})
    assert robot.get_observation()["front"].shape == (32, 48, 3) == robot.observation_features["front"]
    assert len(robot.cameras) == 1
    with pytest.raises(UsageError, match="cameras front and wrist, not top"):
        make(cameras={"top": OpenCVCameraConfig(index_or_path=4, width=48, height=32, fps=30)})


def test_a_new_scene_is_set_when_lerobot_announces_an_episode(make, caplog):
    robot = make(task="Lift-v0", seed=40)
    caplog.set_level(logging.INFO)
    wanted = envs.make("worldlab/Lift-v0", size=None)
    for words, seed in (("Recording episode 3", 43), ("Reset the environment", 43), ("Recording episode 0", 40)):
        logging.info(words)
        wanted.reset(seed=seed)
        assert (robot.twin.situation.cubes == wanted.situation.cubes).all()


def test_the_teleoperator_needs_a_twin_and_drives_at_any_rate(make):
    from lerobot_policy_worldlab.config_worldlab_teleop import WorldlabTeleopConfig
    from lerobot_policy_worldlab.worldlab_teleop import WorldlabTeleop

    teleop = WorldlabTeleop(WorldlabTeleopConfig())
    teleop.connect()
    with pytest.raises(UsageError, match="0 are connected"):
        teleop.get_action()
    for fps in (10, 30, 50):
        robot = make(task="Reach-v0", seed=7, fps=fps)
        for _ in range(4 * fps):
            robot.get_observation()
            robot.send_action(teleop.get_action())
        assert robot.twin.succeeded
        robot.disconnect()


def test_the_options_of_the_page_are_read_as_lerobots_programs_read_them():
    import draccus
    from lerobot.robots import RobotConfig

    program = make_dataclass("Program", [("robot", RobotConfig)])
    words = (
        "--robot.type=worldlab_so101 --robot.task=Lift-v0 --robot.stiffness=null --robot.position_p_coefficient=32 "
        "--robot.latency=0.1 --robot.use_degrees=false"
    )
    caps = "--robot.max_relative_target={" + ", ".join(f"{joint}: 5.0" for joint in so101.JOINTS) + "}"
    cameras = "--robot.cameras={front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}"
    robot = draccus.parse(program, args=[*words.split(), caps, cameras]).robot
    assert (robot.type, robot.stiffness, robot.position_p_coefficient) == ("worldlab_so101", None, 32)
    assert (robot.cameras["front"].width, robot.max_relative_target["gripper"]) == (640, 5.0)


def test_nominal_ranges_are_what_a_twin_without_a_file_has(make):
    robot = make()
    assert tuple(motor.range_min for motor in robot.calibration.values()) == nominal().low
    assert [motor.id for motor in robot.calibration.values()] == [1, 2, 3, 4, 5, 6]
