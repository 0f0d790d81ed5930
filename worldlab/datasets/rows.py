"""The columns of a trajectory by name, and what a Spec says of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.trajectory import Observation, Spec, Trajectory

DTYPES = {
    "images": torch.uint8,
    "state": torch.float32,
    "action": torch.float32,
    "reward": torch.float32,
    "terminated": torch.bool,
    "success": torch.bool,
    "physics": torch.float64,
    "privileged": torch.float32,
}
"""What columns are stored as, by the first part of their names: those of `Trajectory`."""


def flatten(t: Trajectory) -> dict[str, Tensor]:
    """The columns of a trajectory by name; `valid` and the instructions are not among them."""
    columns = {f"images/{name}": image for name, image in t.obs.images.items()}
    columns |= {"state": t.obs.state, "action": t.action, "reward": t.reward}
    columns |= {"terminated": t.terminated, "success": t.success}
    if t.physics is not None:
        columns["physics"] = t.physics
    if t.privileged is not None:
        columns["privileged"] = t.privileged
    return columns


def unflatten(columns: Mapping[str, Tensor], task: tuple[str, ...], valid: Tensor) -> Trajectory:
    """The inverse of `flatten`; `valid` has the leading axes of the columns."""
    images = {name.removeprefix("images/"): x for name, x in columns.items() if name.startswith("images/")}
    return Trajectory(
        obs=Observation(images, columns["state"], task),
        action=columns["action"],
        reward=columns["reward"],
        terminated=columns["terminated"],
        success=columns["success"],
        valid=valid,
        physics=columns.get("physics"),
        privileged=columns.get("privileged"),
    )


def real_rows(columns: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """Columns with leading axes (b, t) as the rows of one episode after another, without padding."""
    index = torch.nonzero(valid.flatten())[:, 0]
    return {name: x.flatten(0, 1).index_select(0, index) for name, x in columns.items()}


def check(columns: Mapping[str, Tensor], spec: Spec) -> None:
    """Raise `UsageError` naming the first difference between columns, leading axes (b, t), and a Spec."""
    expected = {f"images/{name}": (*size, 3) for name, size in spec.cameras.items()}
    expected |= {"state": (len(spec.state),), "action": (len(spec.action),)}
    if spec.privileged:
        expected["privileged"] = (len(spec.privileged),)
    for name, shape in expected.items():
        if name not in columns:
            raise UsageError(f"the episodes have no '{name}', which the store's Spec names.")
        if tuple(columns[name].shape[2:]) != shape:
            raise UsageError(
                f"'{name}' has shape {tuple(columns[name].shape[2:])} a row; the store's Spec says {shape}."
            )
    for name, x in columns.items():
        if (dtype := DTYPES.get(name.partition("/")[0])) is not None and x.dtype != dtype:
            raise UsageError(f"'{name}' has numbers of {x.dtype}; stores keep {dtype}.")
    for name in columns:
        if name.startswith("images/") and name not in expected:
            raise UsageError(f"the episodes have '{name}', which the store's Spec does not name.")
