"""What the LeRobot dataset format (v3.0) calls things; shared by the export and the import.

LeRobot pairs every frame with an action, so it has no place for the observation after an episode's last action, nor for
seeds, action limits and provenance. An export keeps them in an episode store of its own inside the dataset, `EXTRAS`,
which holds the final row of each episode; LeRobot's programs do not look at it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from worldlab import so101
from worldlab.trajectory import Spec

IMAGE = "observation.images."
"""Prefix of a camera's feature."""

COLUMNS = {
    "state": "observation.state",
    "action": "action",
    "reward": "next.reward",
    "terminated": "next.done",
    "success": "next.success",
    "physics": "simulator.physics",
    "privileged": "simulator.privileged",
}
"""Column of a trajectory -> LeRobot's feature. The last two are ours: no LeRobot policy takes them for an observation,
because their names do not begin with one."""

ROBOT = "so_follower"
"""What LeRobot calls the SO-101's follower."""

OLDER = "so101_follower"
"""What an older LeRobot called it, which recorded -100..100 by default."""

SO101 = (None, ROBOT, OLDER)
"""Robot types whose joints, if they bear the follower's names, are the SO-101's; None is none stated."""

RECORDED = "lerobot/"
"""How the environment's name of an import begins: there is no such simulation, and its seeds are episode numbers."""

type Units = Literal["degrees", "recorded"]
"""What an SO-101's joints were recorded in: degrees, or numbers that are left as they are."""

EXTRAS = "meta/worldlab.zarr"
"""The store of final rows, inside a dataset."""


def is_so101(spec: Spec) -> bool:
    """Whether numbers are the SO-101's joint positions, which change units at LeRobot's edge."""
    return spec.joint_targets and spec.state == so101.NAMES


@contextmanager
def quiet() -> Generator[None]:
    """LeRobot draws a bar for every episode through Hugging Face's `datasets`, and x264 reports on every video."""
    from av import logging as libav
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    libav.set_libav_level(libav.ERROR)
    try:
        yield
    finally:
        libav.set_libav_level(libav.INFO)
        if not silent:
            enable_progress_bars()
