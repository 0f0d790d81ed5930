"""What must not move an arm is found; what may, is let through."""

import torch

from worldlab.eval.hardware import SERVO_DEGREES_PER_SECOND, TICK, Drive, judge, so101_limits

LIMITS = so101_limits(fps=10)
NAMES = ["numbers", "range", "speed", "seams", "latency", "wait"]


def sweep(steps=40, chunk=4, degrees=2.0):
    """The first joint turns back and forth by so many degrees a step; a chunk takes 40 ms to plan."""
    t = torch.arange(steps)
    target = torch.zeros(steps, 6, dtype=torch.float64)
    target[:, 0] = degrees * (10 - (t % 20 - 10).abs())
    target[:, 5] = 50
    begins = t % chunk == 0
    start = torch.zeros(6, dtype=torch.float64)
    start[5] = 50
    return Drive(start, target, begins, 0.04 * begins.double())


def refused(*drives):
    """Which checks fail."""
    return [name for name, finding in zip(NAMES, judge(drives, LIMITS), strict=False) if not finding.passed]


def test_a_smooth_policy_passes():
    assert refused(sweep(), sweep()) == []


def test_the_limits_are_those_of_the_arm():
    assert [round(x) for x in LIMITS.low] == [-110, -100, -97, -95, -157, 0]
    assert [round(x) for x in LIMITS.high] == [110, 100, 97, 95, 157, 100]
    assert [round(x) for x in LIMITS.speed] == [270] * 5 + [245]  # 110° of the gripper are its 100 %


def test_no_number_is_refused_and_hides_nothing_before_it():
    drive = sweep()
    drive.target[20, 3] = torch.nan
    drive.target[30:, 0] = 1e9  # never sent
    assert refused(drive) == ["numbers"]
    drive.target[10, 1] = torch.inf
    drive.target[5, 2] = 120
    assert refused(drive) == ["numbers", "range", "speed"]
    drive.target[0] = torch.nan
    assert len(judge([drive], LIMITS)) == 1


def test_a_target_beyond_the_range_is_refused_from_one_tick_on():
    for beyond, expected in ((0.9 * TICK, []), (1.1 * TICK, ["range"])):
        drive = sweep()
        drive.start[4] = drive.target[:, 4] = LIMITS.high[4] + beyond
        assert refused(drive) == expected


def test_a_target_faster_than_the_servo_is_refused():
    step = SERVO_DEGREES_PER_SECOND / LIMITS.fps
    for share, expected in ((0.99, []), (1.01, ["speed"])):
        drive = sweep()
        drive.target[::2, 2] = share * step  # within the chunks, so that the seams are as fast as all else
        drive.start[2] = share * step
        assert refused(drive) == expected


def test_the_first_target_is_compared_with_where_the_arm_is():
    drive = sweep()
    drive.start[1] = 60
    assert refused(drive) == ["speed"]


def test_a_jump_between_chunks_is_refused_and_the_same_jump_within_them_is_not():
    jumping, wavering = sweep(), sweep()
    saw = torch.arange(40) // 4 % 2 * 7.0  # 7° at every fourth step
    jumping.target[:, 3] = saw
    wavering.target[2:, 3] = saw[:-2]
    assert refused(jumping) == ["seams"]
    assert refused(wavering) == []


def test_a_step_that_the_servos_play_hides_is_no_jump():
    drive = sweep(degrees=0.1)
    drive.target[:, 3] = torch.arange(40) // 4 % 2 * 2.5
    assert refused(drive) == []


def test_a_policy_without_chunks_has_no_seams():
    assert refused(sweep(chunk=1, degrees=10.0)) == []


def test_a_slow_policy_is_refused():
    each = sweep()
    each.seconds[:] = 0.11  # LeRobot's policies may be slow at every step
    assert refused(each) == ["latency", "wait"]
    chunks = sweep()
    chunks.seconds[:] = 0.41 * chunks.begins
    assert refused(chunks) == ["latency", "wait"]


def test_one_long_wait_is_refused_though_the_rest_is_quick():
    drive = sweep(steps=400)
    drive.seconds[200] = 0.15
    assert refused(drive) == ["wait"]
