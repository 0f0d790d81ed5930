"""The twin lives in time: its laws, without LeRobot."""

import numpy as np
import pytest

from worldlab import envs, so101
from worldlab.envs.experts import EXPERTS
from worldlab.envs.servo import STIFFNESS, P, nominal
from worldlab.envs.twin import Camera, Twin

SIZE = (16, 16)
SOFT = STIFFNESS * P


def make_twin(task="Lift", latency=0.0, fps=30, stiffness=SOFT, seed=3):
    cameras = {"front": Camera(SIZE, fps), "wrist": Camera(SIZE, fps)}
    twin = Twin(envs.make(task, size=None), cameras, latency, stiffness)
    twin.reset(seed)
    return twin


def goals(n):
    rng = np.random.default_rng(0)
    return rng.uniform(so101.LOW, so101.HIGH, (n, 6)) * 0.3


def run(twin, n, hz=30):
    """Joints and pictures at the start and after each of n goals."""
    seen = [(twin.joints, twin.picture("front"))]
    for i, goal in enumerate(goals(n)):
        twin.aim(goal)
        twin.advance((i + 1) / hz)
        seen.append((twin.joints, twin.picture("front")))
    joints, pictures = zip(*seen, strict=True)
    return np.array(joints), np.array(pictures)


def test_same_seed_and_goals_same_bits_also_after_a_reset():
    twin = make_twin()
    once, again = run(twin, 8), run(make_twin(), 8)
    twin.reset(3)
    reset = run(twin, 8)
    for other in (again, reset):
        assert (once[0] == other[0]).all()
        assert (once[1] == other[1]).all()


def test_time_passes_in_any_portions():
    whole, parts = make_twin(), make_twin()
    for twin in (whole, parts):
        twin.aim(goals(1)[0])
    whole.advance(0.2)
    for until in (0.03, 0.03, 0.1, 0.19, 0.2):
        parts.advance(until)
    assert whole.seconds == parts.seconds == pytest.approx(0.2)
    assert (whole.joints == parts.joints).all()


def test_pictures_are_late_and_joints_are_not():
    now, late = run(make_twin(), 9), run(make_twin(latency=2 / 30), 9)
    assert (now[0] == late[0]).all()
    assert (now[1][:-2] == late[1][2:]).all()
    assert (late[1][:3] == now[1][0]).all()
    assert (now[1][:-1] != now[1][1:]).any((1, 2, 3)).all(), "nothing moved"


def test_a_slow_camera_shows_the_same_picture_until_the_next():
    _, fast = run(make_twin(), 9)
    _, slow = run(make_twin(fps=10), 9)
    assert (slow == fast[[0, 0, 0, 3, 3, 3, 6, 6, 6, 9]]).all()


@pytest.mark.parametrize("task", EXPERTS)
def test_who_pulls_against_the_droop_does_the_task_with_soft_servos_and_whole_ticks(task):
    twin, encoders = make_twin(task), nominal()
    for i in range(80):
        wanted = EXPERTS[task](twin.situation)[0] + twin.droop
        twin.aim(encoders.write(encoders.read(wanted)))
        twin.advance((i + 1) / 10)
        if twin.succeeded:
            return
    pytest.fail("not achieved in 8 s")
