"""The STS3215 servos of the SO-101: what their encoders resolve, what they accept, and how far they give.

Positions are told in encoder ticks, 4096 a turn, and LeRobot's units are computed from ticks over the calibrated range,
number by number as `lerobot/motors/motors_bus.py` and `lerobot/robots/so_follower` (0.6.1) do.
"""

# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# MuJoCo's bindings carry no types.

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from worldlab.errors import UsageError
from worldlab.so101 import HIGH, JOINTS, LOW

Array = NDArray[np.float64]
Ticks = NDArray[np.int64]

TURN = 4096
"""Encoder ticks in one turn."""

P = 16
"""The position gain that LeRobot writes to every servo of an SO-101 follower."""

STIFFNESS = 0.556
"""N·m/rad for each unit of the position gain, so 8.9 at LeRobot's 16.

The firmware's duty cycle is 0.166 P for a radian of error, measured on an oscilloscope (Rhoban's BAM,
`bam/feetech/actuator.py`; K-Scale Labs measured 0.165). At 7.4 V, times BAM's torque constant 1.212 N·m/A over its
resistance 2.676 Ω, that is 0.556 P N·m/rad. The same identification gives the model's damping 0.60 (back EMF included),
friction 0.052 and armature 0.028, but not its stiffness of 998 N·m/rad, which would saturate the motor two ticks from
its goal. The 12 V servo comes out at 1.38. What the firmware's D term of 32 adds is not known, and left out.
"""

GRIPPER_TORQUE = 0.5
"""Of the maximum; LeRobot writes Max_Torque_Limit = 500 to the gripper."""

_MIDDLE = 2047
_GRIPPER = JOINTS.index("gripper")
_PER_RADIAN = TURN / (2 * np.pi)


@dataclass(frozen=True)
class Encoders:
    """Six encoders with their calibrated ranges, which also are the servos' position limits.

    Where the model's zero lies: the middle of an arm joint's calibrated range is the model's zero, which is the middle
    of the real joint's travel (SO-ARM100, Simulation/SO101: "new calibration"). The gripper's smallest tick is the
    model's smallest angle, jaws closed. From there one tick is 2π / 4096 rad.
    """

    low: tuple[int, ...]
    """Smallest tick of each joint's calibrated range, in the order of `so101.JOINTS`."""
    high: tuple[int, ...]
    """Largest."""
    degrees: bool = True
    """The arm's joints in degrees about the middle, LeRobot's default; otherwise -100 to 100 over the range."""

    def __post_init__(self) -> None:
        """Refuse a calibration that no SO-101 can have."""
        for joint, low, high in zip(JOINTS, self.low, self.high, strict=True):
            if not 0 <= low < high < TURN:
                raise UsageError(f"the calibration of '{joint}' is no range of a {TURN}-tick encoder: {low} to {high}.")

    def read(self, radians: Float[Array, "6"]) -> Float[Array, "6"]:
        """What LeRobot reports of joints at these angles: degrees (or -100 to 100), gripper 0 to 100."""
        return self.normalise(self.ticks(radians))

    def write(self, units: Float[Array, "6"]) -> Float[Array, "6"]:
        """The angles that servos go to when LeRobot sends them these goals: whole ticks, within the limits."""
        return self.radians(np.clip(self.unnormalise(units), self.low, self.high))

    def ticks(self, radians: Float[Array, "6"]) -> Int[Ticks, "6"]:
        """What the encoders show at these angles."""
        return np.rint(self._zero + radians * _PER_RADIAN).astype(np.int64)

    def radians(self, ticks: Int[Ticks, "6"]) -> Float[Array, "6"]:
        """The angles at these ticks."""
        return (ticks - self._zero) / _PER_RADIAN

    def normalise(self, ticks: Int[Ticks, "6"]) -> Float[Array, "6"]:
        """`FeetechMotorsBus._normalize`: degrees are not clamped, everything else is."""
        low, span = np.array(self.low), np.array(self.high) - np.array(self.low)
        share = (np.clip(ticks, self.low, self.high) - low) / span
        arm = (ticks - self._middle) * 360 / (TURN - 1) if self.degrees else share * 200 - 100
        return np.where(np.arange(6) == _GRIPPER, share * 100, arm)

    def unnormalise(self, units: Float[Array, "6"]) -> Int[Ticks, "6"]:
        """`FeetechMotorsBus._unnormalize`: whole ticks, cut off towards zero."""
        low, span = np.array(self.low), np.array(self.high) - np.array(self.low)
        if self.degrees:
            arm = units * (TURN - 1) / 360 + self._middle
        else:
            arm = (np.clip(units, -100, 100) + 100) / 200 * span + low
        gripper = np.clip(units, 0, 100) / 100 * span + low
        return np.trunc(np.where(np.arange(6) == _GRIPPER, gripper, arm)).astype(np.int64)

    @property
    def _middle(self) -> Float[Array, "6"]:
        return (np.array(self.low) + np.array(self.high)) / 2

    @property
    def _zero(self) -> Float[Array, "6"]:
        """The tick of the model's zero, with a fraction."""
        closed = self.low[_GRIPPER] - LOW[_GRIPPER] * _PER_RADIAN
        return np.where(np.arange(6) == _GRIPPER, closed, self._middle)


def nominal(degrees: bool = True) -> Encoders:
    """The calibration of an arm that moves just as the model does: with it, LeRobot's units are `so101.to_lerobot`'s.

    The wrist's roll has the whole turn, as LeRobot's calibration always writes.
    """
    half = np.rint((np.array(HIGH) - np.array(LOW)) / 2 * _PER_RADIAN).astype(int)
    low, high = (_MIDDLE - half).tolist(), (_MIDDLE + half).tolist()
    roll = JOINTS.index("wrist_roll")
    low[roll], high[roll] = 0, TURN - 1
    return Encoders(tuple(low), tuple(high), degrees)


def soften(model: mujoco.MjModel, stiffness: float) -> None:
    """Give the arm's position actuators the stiffness of real servos, and the gripper its torque limit.

    Args:
        model: of a scene with the arm; it is changed.
        stiffness: N·m/rad.
    """
    arm = slice(0, len(JOINTS))
    model.actuator_gainprm[arm, 0] = stiffness
    model.actuator_biasprm[arm, 1] = -stiffness
    model.actuator_biasprm[arm, 2] = 0
    model.actuator_forcerange[_GRIPPER] *= GRIPPER_TORQUE
