"""The servo model against LeRobot's formulas and against its own laws."""

import mujoco
import numpy as np
import pytest
import torch

from worldlab import envs, so101
from worldlab.envs.servo import GRIPPER_TORQUE, STIFFNESS, TURN, Encoders, P, nominal, soften
from worldlab.errors import UsageError

RNG = np.random.default_rng(0)
DRAWS = 500
TICK = 2 * np.pi / TURN


def draw_calibration(degrees):
    """As hands record them: somewhere about the middle, of odd and even width."""
    low, high = RNG.integers(600, 1000, 6), RNG.integers(2900, 3400, 6)
    return Encoders(tuple(low.tolist()), tuple(high.tolist()), degrees)


def test_nominal_units_are_those_of_so101_within_a_tick():
    for _ in range(DRAWS):
        radians = RNG.uniform(so101.LOW, so101.HIGH)
        exact = so101.to_lerobot(torch.tensor(radians)).numpy()
        tick = np.array([360 / TURN] * 5 + [100 / 1252])
        assert (np.abs(nominal().read(radians) - exact) <= tick).all()


def test_a_goal_is_met_to_a_tick_and_never_exceeded():
    encoders = nominal()
    for _ in range(DRAWS):
        radians = RNG.uniform(so101.LOW, so101.HIGH)
        shown = encoders.ticks(radians)
        assert (np.abs(encoders.radians(shown) - radians) <= TICK / 2 + 1e-12).all()
        # A position that is read and sent back lands where it was, or one tick short of it: int() cuts off.
        again = encoders.ticks(encoders.write(encoders.normalise(shown)))
        assert set((shown - again).tolist()) <= {0, 1}


@pytest.mark.parametrize("degrees", [True, False])
def test_goals_beyond_the_calibrated_range_stop_at_its_ends(degrees):
    encoders = draw_calibration(degrees)
    for units, limit in ((np.full(6, 1e3), encoders.high), (np.full(6, -1e3), encoders.low)):
        assert (encoders.ticks(encoders.write(units)) == limit).all()


def test_the_middle_of_a_calibrated_range_is_the_models_zero_and_its_smallest_tick_a_closed_gripper():
    for _ in range(100):
        encoders = draw_calibration(True)
        assert np.abs(encoders.read(np.zeros(6)))[:5].max() <= 360 / (TURN - 1) / 2 + 1e-9
        closed = encoders.write(np.zeros(6))[5]
        assert closed == pytest.approx(so101.LOW[5])


def test_what_is_no_calibration_is_refused():
    with pytest.raises(UsageError, match="'elbow_flex' is no range of a 4096-tick encoder: 3000 to 1000"):
        Encoders((0, 0, 3000, 0, 0, 0), (4095, 4095, 1000, 4095, 4095, 4095))


def test_a_soft_servo_stands_below_its_goal_by_torque_over_stiffness():
    """Statics: the elbow of a stretched arm droops by gravity's torque, less the friction, over the stiffness."""
    model = envs.make("worldlab/Reach-v0", size=None).model
    stiffness = STIFFNESS * P
    soften(model, stiffness)
    data = mujoco.MjData(model)
    data.qpos[8::7] = 10  # no cube in the way
    data.ctrl[:6] = data.qpos[:6] = (0, 0.3, 0.3, 0, 0, 0.5)
    mujoco.mj_step(model, data, 1000)
    error = data.ctrl[:6] - data.qpos[:6]
    friction = model.dof_frictionloss[:6]
    assert np.abs(data.qvel[:6]).max() < 1e-3
    assert (np.abs(error * stiffness - data.qfrc_bias[:6]) <= friction + 0.01).all()  # N·m; friction is soft in MuJoCo
    assert 1 < np.degrees(np.abs(error)).max() < 5


def test_a_soft_gripper_squeezes_no_harder_than_its_limit():
    model = envs.make("worldlab/Reach-v0", size=None).model
    hard = model.actuator_forcerange[5, 1]
    soften(model, STIFFNESS * P)
    assert model.actuator_forcerange[5].tolist() == [-GRIPPER_TORQUE * hard, GRIPPER_TORQUE * hard]
    assert (model.actuator_forcerange[:5, 1] == hard).all()


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [True, False])
def test_units_equal_lerobots_number_by_number(degrees):
    from lerobot.motors import Motor, MotorCalibration, MotorNormMode
    from lerobot.motors.feetech import FeetechMotorsBus

    body = MotorNormMode.DEGREES if degrees else MotorNormMode.RANGE_M100_100
    modes = [body] * 5 + [MotorNormMode.RANGE_0_100]
    # Its constructor wants the SDK of a serial port; the arithmetic does not.
    bus = object.__new__(FeetechMotorsBus)
    bus.motors = {
        name: Motor(i, "sts3215", mode) for i, (name, mode) in enumerate(zip(so101.JOINTS, modes, strict=True), 1)
    }
    bus._id_to_name_dict = {motor.id: name for name, motor in bus.motors.items()}
    bus._id_to_model_dict = {motor.id: motor.model for motor in bus.motors.values()}
    for _ in range(DRAWS):
        encoders = draw_calibration(degrees)
        bus.calibration = {
            name: MotorCalibration(i, 0, 0, low, high)
            for i, (name, low, high) in enumerate(zip(so101.JOINTS, encoders.low, encoders.high, strict=True), 1)
        }
        ticks, units = RNG.integers(0, TURN, 6), RNG.uniform(-200, 200, 6)
        theirs = bus._normalize(dict(enumerate(ticks.tolist(), 1)))
        assert encoders.normalise(ticks).tolist() == list(theirs.values())
        goals = bus._unnormalize(dict(enumerate(units.tolist(), 1)))
        assert encoders.unnormalise(units).tolist() == list(goals.values())
