"""Policies drive the simulated arm through LeRobot's classes, and only those that are fit for it are exported."""

import json
from dataclasses import replace

import pytest
import torch
from policies.test_lerobot_policy import SPEC, tiny_policy

from worldlab import envs, hardware_check, players, policies, so101
from worldlab.cli import main
from worldlab.errors import UsageError
from worldlab.eval import success
from worldlab.eval.hardware import judge, so101_limits
from worldlab.hardware_check import drive
from worldlab.policies import lerobot_policy
from worldlab.policies.lerobot_policy import export_policy
from worldlab.runs import Run


class Hold:
    """Stays where it is; `ask` says what else it asks for, radians, given the number of the call."""

    def __init__(self, ask=lambda call: 0.0):
        self.ask = ask

    def reset(self, seeds):
        self.call = 0

    def act(self, obs):
        chunk = obs.state[:, None].repeat(1, 4, 1)
        chunk[..., 0] += self.ask(self.call)
        self.call += 1
        return chunk


@pytest.fixture
def twin():
    from lerobot.robots import RobotConfig, make_robot_from_config
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    robot = make_robot_from_config(RobotConfig.get_choice_class("worldlab_so101")(task="Reach-v0", realtime=False))
    robot.connect()
    yield robot
    robot.disconnect()


@pytest.mark.parametrize(
    ("ask", "failed"),
    [
        (lambda call: 0.0, set()),
        (lambda call: torch.nan if call == 2 else 0.0, {0}),
        (lambda call: 3.0 * (call == 2), {1, 2, 3}),
        (lambda call: 0.15 * (-1) ** call, {3}),
    ],
)
def test_a_policy_that_drives_the_arm_is_judged_by_what_it_asks_for(twin, ask, failed):
    recorded, frames = drive(Hold(ask), twin, "reach the red cube", seed=0, steps=20)
    assert recorded.begins.nonzero()[:, 0].tolist() == list(range(0, len(recorded.target), 4))
    assert frames.shape[1:] == (64, 64, 3)
    findings = judge([recorded], so101_limits(fps=10))
    assert {i for i, finding in enumerate(findings[:4]) if not finding.passed} == failed


def test_the_arm_is_never_sent_what_is_no_number(twin):
    recorded, _ = drive(Hold(lambda call: torch.nan if call == 1 else 0.0), twin, "", seed=0, steps=20)
    assert len(recorded.target) == 5
    assert all(torch.isfinite(torch.tensor([twin.get_observation()[name] for name in so101.NAMES])))


@pytest.fixture
def wild(tmp_path):
    """A run whose untrained policy throws the arm about."""
    policy = tiny_policy(spec=envs.make("worldlab/Reach-v0").contract)
    policy.chunks.pace = None
    description = policy.describe()
    description["model"]["pace"] = None
    made = Run.create(tmp_path / "run", {**description, "env": "worldlab/Reach-v0"})
    made.save(policy.state_dict())
    return made.path


@pytest.mark.slow
def test_what_is_not_fit_for_the_arm_is_not_exported_unless_forced(wild, tmp_path, capsys):
    out = tmp_path / "wild"
    with pytest.raises(SystemExit):
        main(["export", "policy", str(wild), "--out", str(out), "--force"])
    assert "--force and --env go with --check" in capsys.readouterr().err
    command = ["export", "policy", str(wild), "--out", str(out), "--check"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "unfit for the arm: target speed" in capsys.readouterr().err
    assert not out.exists()
    assert json.loads((tmp_path / "wild-hardware.json").read_text())["passed"] is False
    page = (tmp_path / "wild-hardware.html").read_text()
    assert "Do not run this on the real arm" in page
    assert 'src="http' not in page

    main([*command, "--force"])
    assert "NOT fit for the arm" in capsys.readouterr().out
    plain = export_policy(policies.load_run(wild), tmp_path / "plain")
    assert all(file.read_bytes() == (out / file.name).read_bytes() for file in plain.iterdir())


@pytest.mark.parametrize("fps", [10, 30])
def test_the_check_runs_at_the_pace_of_the_policy(tmp_path, monkeypatch, fps):
    seen = []

    def watch(policy, robot, *rest):
        seen.append(robot.config.fps)
        seen.append({(camera.height, camera.width) for camera in robot.config.cameras.values()})
        raise KeyboardInterrupt

    monkeypatch.setattr(hardware_check, "drive", watch)
    out = tmp_path / "policy"
    export_policy(tiny_policy(spec=replace(SPEC, fps=fps)), out)
    with pytest.raises(KeyboardInterrupt):
        hardware_check.check_directory(out, "worldlab/Reach-v0", episodes=1)
    assert seen == [fps, {(16, 16)}]
    assert players.image_size(f"lerobot:{out}") == (16, 16)


def test_a_policy_of_recordings_is_checked_in_a_scene_that_is_named(tmp_path):
    Run.create(tmp_path / "run", {"kind": "flow", "env": "lerobot/so_follower"})
    with pytest.raises(UsageError, match="name a scene to check it in, --env"):
        hardware_check.export_checked(tmp_path / "run", tmp_path / "out")


def test_an_exported_policy_is_not_judged_at_another_rate(tmp_path):
    out = tmp_path / "policy"
    export_policy(tiny_policy(spec=replace(SPEC, fps=30)), out)
    env = envs.make("worldlab/Reach-v0", size=16)
    with pytest.raises(UsageError, match="disagree on fps"):
        success(lerobot_policy.load(out), env, episodes=1)
