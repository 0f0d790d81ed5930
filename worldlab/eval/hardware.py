"""Whether a policy may move a real arm: a judgement of what it asked a simulated one to do.

Positions are LeRobot's: degrees about the middle, gripper 0 to 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from worldlab import so101

SERVO_DEGREES_PER_SECOND = 270.0
"""Top speed of the STS3215 without load: 45 rpm, or 0.222 s for 60°, by its data sheet; measured as 46 rpm
(TheRobotStudio/SO-ARM100, issue 134)."""

SERVO_PLAY = 1.0
"""Degrees that the STS3215's output turns freely; 1° was measured (issue 134)."""

TICK = 360 / 4095
"""Degrees that the servo's encoder resolves."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an arm can follow. One number for each joint, in the units of its position."""

    joints: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    speed: tuple[float, ...]
    """Top speed, units a second."""
    play: tuple[float, ...]
    """A change that the joint does not feel."""
    fps: int
    """Control steps a second."""
    seam: float = 3.0
    """How many times farther than within its chunks a target may move where one chunk follows another."""


def so101_limits(fps: int) -> Limits:
    """Of the SO-101: its joints' ranges and its servos' speed, without a load."""
    low, high = (so101.to_lerobot(torch.tensor(limit, dtype=torch.float64)) for limit in (so101.LOW, so101.HIGH))
    units = [1.0] * 5 + [100 / torch.tensor(so101.HIGH[5] - so101.LOW[5]).rad2deg().item()]  # the gripper's, a degree
    return Limits(
        joints=so101.NAMES,
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        speed=tuple(SERVO_DEGREES_PER_SECOND * unit for unit in units),
        play=tuple(SERVO_PLAY * unit for unit in units),
        fps=fps,
    )


@dataclass(frozen=True)
class Drive:
    """What a policy asked for in one episode."""

    start: Float[Tensor, " a"]
    """Where the joints were before the first target."""
    target: Float[Tensor, "t a"]
    """The joints' targets, as the policy gave them."""
    begins: Bool[Tensor, " t"]
    """Whether a chunk begins here: the policy looked, and planned anew."""
    seconds: Float64[Tensor, " t"]
    """How long the call took that led to each target; 0 for targets that were already there."""

    @property
    def finite(self) -> "Drive":
        """The part before the first target that is no number."""
        n = int(self.target.isfinite().all(-1).long().cumprod(0).sum())
        return Drive(self.start, self.target[:n], self.begins[:n], self.seconds[:n])

    @property
    def change(self) -> Float[Tensor, "t a"]:
        """How far each target is from the one before; the first, from where the joints were."""
        return torch.cat([self.start[None], self.target]).diff(dim=0).abs()


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    passed: bool
    measured: float
    """The worst that was seen."""
    limit: float
    """What is allowed."""
    unit: str
    where: str
    """Of the worst."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return f"{self.check} {self.amount}, allowed {self.limit:.3g} ({self.where})"

    @property
    def amount(self) -> str:
        """What was measured, with its unit."""
        return f"{self.measured:.0f} {self.unit}" if self.measured >= 100 else f"{self.measured:.3g} {self.unit}"


def judge(drives: Sequence[Drive], limits: Limits) -> tuple[Finding, ...]:
    """Hold what a policy asked for against what the arm can follow.

    Args:
        drives: one for each episode; from the first target that is no number, an episode counts for that alone.
        limits: of the arm.

    Returns:
        Six findings: numbers, range, speed, seams, latency over a chunk, and the longest wait.
    """
    wrong = sum(int((~d.target.isfinite()).sum()) for d in drives)
    numbers = Finding("targets that are no numbers", wrong == 0, float(wrong), 0.0, "values", "NaN or infinite")
    sound = [part for d in drives if len((part := d.finite).target)]
    if not sound:
        return (numbers,)
    return (
        numbers,
        _range(sound, limits),
        _speed(sound, limits),
        _seams(sound, limits),
        _latency(sound, limits),
        _wait(sound, limits),
    )


def _range(drives: Sequence[Drive], limits: Limits) -> Finding:
    """How far a target lies beyond its joint's range."""
    target = torch.cat([d.target for d in drives])
    beyond = torch.maximum(target.new_tensor(limits.low) - target, target - target.new_tensor(limits.high)).clamp(min=0)
    worst, joint = _worst(beyond, limits)
    return Finding("target beyond the joint's range by", worst <= TICK, worst, TICK, "° (or %)", joint)


def speed_share(drive: Drive, limits: Limits) -> Float[Tensor, "t a"]:
    """The speed that each target asks for, as a share of the servo's top speed."""
    return drive.change * limits.fps / drive.change.new_tensor(limits.speed)


def _speed(drives: Sequence[Drive], limits: Limits) -> Finding:
    share, joint = _worst(torch.cat([speed_share(d, limits) for d in drives]), limits)
    top = SERVO_DEGREES_PER_SECOND
    return Finding("target speed, in degrees of the servo", share <= 1, share * top, top, "°/s", joint)


def _seams(drives: Sequence[Drive], limits: Limits) -> Finding:
    """How far a target moves from one chunk to the next, against how far targets move within chunks.

    The yardstick of each joint is the 99 % quantile of its changes within chunks, or the servo's play if that is more.
    """
    later = [(d.change[1:], d.begins[1:]) for d in drives]
    across = torch.cat([change[begins] for change, begins in later])
    within = torch.cat([change[~begins] for change, begins in later])
    check = "change from chunk to chunk, as a multiple of the usual one"
    if not len(across) or not len(within):
        return Finding(check, True, 0.0, limits.seam, "×", "no chunk follows another, or each is one action")
    usual = torch.maximum(within.quantile(0.99, dim=0), within.new_tensor(limits.play))
    worst, joint = _worst(across / usual, limits)
    return Finding(check, worst <= limits.seam, worst, limits.seam, "×", f"{joint}, {len(across)} seams")


def _latency(drives: Sequence[Drive], limits: Limits) -> Finding:
    """The time to plan a chunk, shared among the actions that are executed of it: 95 % quantile, milliseconds."""
    each: list[float] = []
    for d in drives:
        chunk = d.begins.long().cumsum(0)
        each += [d.seconds[chunk == i].mean().item() for i in chunk.unique()]
    p95 = 1000 * torch.tensor(each, dtype=torch.float64).quantile(0.95).item()
    period = 1000 / limits.fps
    return Finding("time for one action, 95 % quantile", p95 <= period, p95, period, "ms", f"{len(each)} chunks")


def _wait(drives: Sequence[Drive], limits: Limits) -> Finding:
    """The longest that the arm waits for one call, milliseconds."""
    seconds = torch.cat([d.seconds for d in drives])
    worst, period = 1000 * seconds.max().item(), 1000 / limits.fps
    calls = int((seconds > 0).sum())
    return Finding("longest single call", worst <= period, worst, period, "ms", f"{calls} calls")


def _worst(values: Float[Tensor, "t a"], limits: Limits) -> tuple[float, str]:
    """The largest value and the joint that it is of."""
    largest = values.amax(0)
    joint = int(largest.argmax())
    return largest[joint].item(), limits.joints[joint]
