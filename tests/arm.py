"""Random episodes of the SO-101, for the laws of LeRobot's edge."""

import dataclasses

from episodes import SPEC, random_trajectory

from worldlab import so101
from worldlab.trajectory import Trajectory

ARM = dataclasses.replace(
    SPEC,
    cameras={"front": (64, 64), "wrist": (47, 63)},
    state=so101.NAMES,
    action=so101.NAMES,
    low=so101.LOW,
    high=so101.HIGH,
)


def arm_trajectory(actions, seed=0) -> Trajectory:
    """Noise for pictures, which is the hardest for a video codec, and joints that the arm can report."""
    t = random_trajectory(actions, seed, ARM)
    obs = dataclasses.replace(t.obs, state=so101.snap(t.obs.state))
    return dataclasses.replace(t, obs=obs, action=so101.snap(t.action))
