"""Worlds to act in: the simulated SO-101, dm_control's suite, and any Gymnasium environment that fits a `Spec`."""

from collections.abc import Mapping

import gymnasium

from worldlab.envs import variation as variations
from worldlab.envs.lockstep import Lockstep
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.envs.tasks import TASKS
from worldlab.errors import UsageError, unknown

__all__ = ["MujocoVectorEnv", "full_id", "make", "names", "variations"]

_OWN = {f"worldlab/{name}-v0": name for name in TASKS}

for _id, _task in _OWN.items():
    gymnasium.register(_id, entry_point="worldlab.envs.single:SingleEnv", kwargs={"task": _task})


def names() -> tuple[str, ...]:
    """The ids of worldlab's own environments."""
    return tuple(_OWN)


def full_id(name: str) -> str:
    """The whole id of an environment that may be named shortly ("lift": "worldlab/Lift-v0").

    Raises:
        UsageError: there is none of that name.
    """
    chosen = _named(name)
    return name if chosen is None else f"worldlab/{chosen}-v0"


def make(
    id: str,  # noqa: A002  as in gymnasium.make
    n: int = 1,
    *,
    size: int | tuple[int, int] | None = 64,
    cameras: tuple[str, ...] = ("front", "wrist"),
    threads: int = 0,
    meshes: bool = False,
    variation: Mapping[str, float] | None = None,
    repeat: int = 1,
    hold: int = 0,
) -> MujocoVectorEnv | Lockstep:
    """Make n environments in lockstep.

    Args:
        id: "worldlab/Lift-v0" (or "Lift", "lift"), "dm_control/cartpole-swingup-v0", or any registered Gymnasium id.
        n: how many.
        size: of the images in pixels, one side or (height, width); None makes none, which not every environment can.
        cameras: which images to observe; fewer are faster. Only the simulated SO-101 has a choice.
        threads: that physics runs on; 0 is one per CPU. The result does not depend on it.
        meshes: draw the SO-101's real parts (needs so101-nexus, and a GPU to be quick).
        variation: severity from 0 (nominal) to 1 by the names in `variations.names()`, drawn anew each episode.
        repeat: control steps for which an action is repeated; the simulated SO-101 takes one at every step.
        hold: control steps for which the task must stay achieved before that is success and ends the episode; only of
            the simulated SO-101.

    Raises:
        UsageError: an id, camera or variation that does not exist, or a `repeat` or `hold` that is not possible.
    """
    shape = (size, size) if isinstance(size, int) else size
    chosen = _named(id)
    if chosen is None:
        if variation:
            raise UsageError(f"variations are of worldlab's own environments; '{id}' has none.")
        if hold:
            raise UsageError(f"only worldlab's own environments can ask success to hold; '{id}' cannot.")
        return _of_others(id, n, shape, repeat)
    if repeat != 1:
        raise UsageError(f"'{id}' takes an action at every control step, so repeat is 1 here; got {repeat}.")
    if shape is None:
        shape, cameras = (64, 64), ()
    for camera in cameras:
        if camera not in ("front", "wrist"):
            raise unknown("camera", camera, ("front", "wrist"))
    variations.check(variation or {})
    if hold < 0:
        raise UsageError(f"success must hold for no less than 0 steps; got {hold}.")
    return MujocoVectorEnv(
        TASKS[chosen],
        n,
        size=shape,
        cameras=cameras,
        threads=threads,
        meshes=meshes,
        variation=variation or {},
        hold=hold,
    )


def _of_others(name: str, n: int, shape: tuple[int, int] | None, repeat: int) -> Lockstep:
    """Environments of dm_control or Gymnasium, which are imported for them alone."""
    if name.startswith("dm_control/"):
        from worldlab.envs import suite

        return suite.make(name, n, shape, repeat)
    from worldlab.envs import gymnasium_env

    return gymnasium_env.make(name, n, shape, repeat)


def _named(name: str) -> str | None:
    """The name of one of our own tasks, or None for an id that belongs to someone else."""
    short = {task.lower(): task for task in TASKS} | {full.lower(): task for full, task in _OWN.items()}
    if name.lower() in short:
        return short[name.lower()]
    if name.startswith("dm_control/") or (not name.startswith("worldlab/") and name in gymnasium.registry):
        return None
    raise unknown("environment", name, _OWN if "/" in name else TASKS)
