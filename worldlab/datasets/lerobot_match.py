"""Which of a LeRobot dataset's features are which of a trajectory's columns, and the contract that follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from worldlab import so101
from worldlab.datasets.lerobot_format import COLUMNS, IMAGE, OLDER, SO101, Units, is_so101
from worldlab.errors import UsageError, unknown
from worldlab.trajectory import Spec

if TYPE_CHECKING:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

_BOOKKEEPING = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
_NUMBERS = ("float32", "float64", "int32", "int64", "int16", "int8", "uint8", "bool")

type Features = Mapping[str, Mapping[str, object]]
"""What info.json says of each feature: dtype, shape, names, info."""


@dataclass(frozen=True)
class Match:
    """Which of a dataset's features are which of a trajectory's columns."""

    cameras: dict[str, str]
    """Camera -> feature."""
    columns: dict[str, str]
    """Column -> feature."""
    skipped: dict[str, str]
    """Feature -> why it is left out."""


def match(features: Features, rename: Mapping[str, str]) -> Match:
    """Find the cameras and columns by LeRobot's names, and those that are called otherwise by `rename` (see import).

    Raises:
        UsageError: a rename names no feature or one of the wrong kind, or there is no state or no action.
    """
    for feature in rename.values():
        if feature not in features:
            raise unknown("feature", feature, features)
    columns, skipped = _columns(features, rename)
    named = _named_cameras(features, rename)
    cameras: dict[str, str] = {}
    for feature, description in features.items():
        if feature in _BOOKKEEPING or feature in columns.values() or feature in skipped:
            continue
        camera = description["dtype"] in ("image", "video")
        if not camera:
            skipped[feature] = "no column of a trajectory"
        elif _is_depth(description):
            skipped[feature] = "a depth map"
        else:
            name = named.get(feature, feature.removeprefix(IMAGE).removeprefix("observation."))
            if name in cameras:
                raise UsageError(f"two cameras would be called '{name}': '{cameras[name]}' and '{feature}'.")
            cameras[name] = feature
    return Match(cameras, columns, skipped)


def _named_cameras(features: Features, rename: Mapping[str, str]) -> dict[str, str]:
    """Feature -> what its camera is to be called."""
    named: dict[str, str] = {}
    for name, feature in rename.items():
        if name in COLUMNS:
            continue
        if feature in named:
            raise UsageError(f"'{feature}' cannot be called both '{named[feature]}' and '{name}'.")
        if features[feature]["dtype"] not in ("image", "video"):
            raise UsageError(f"'{feature}' is not a camera; it holds {features[feature]['dtype']} numbers.")
        named[feature] = name
    return named


def _columns(features: Features, rename: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Column -> feature, and feature -> why it cannot be a column."""
    columns: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for column, usual in COLUMNS.items():
        feature = rename.get(column, usual)
        if feature not in features:
            continue
        dtype, shape = features[feature]["dtype"], features[feature]["shape"]
        if dtype in _NUMBERS and isinstance(shape, Sequence) and len(shape) == 1 and None not in shape:
            columns[column] = feature
        else:
            skipped[feature] = f"{dtype} of shape {shape}, not one row of numbers a frame"
    for column in ("state", "action"):
        if column not in columns:
            feature = rename.get(column, COLUMNS[column])
            why = skipped.get(feature, "the dataset has none")
            raise UsageError(f"'{feature}' cannot be the {column}: {why}. Name another: --rename {column}=FEATURE.")
    return columns, skipped


def _is_depth(description: Mapping[str, object]) -> bool:
    info = description.get("info") or description.get("video_info") or {}
    shape = description["shape"]
    assert isinstance(info, Mapping)
    assert isinstance(shape, Sequence)
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map")) or 1 in shape


def _size(description: Mapping[str, object]) -> tuple[int, int]:
    """Height and width; older datasets put the channels first."""
    names, shape = description.get("names"), description["shape"]
    assert isinstance(shape, Sequence)
    if isinstance(names, Sequence) and "height" in names and "width" in names:
        return int(shape[names.index("height")]), int(shape[names.index("width")])
    return (int(shape[1]), int(shape[2])) if shape[0] == 3 else (int(shape[0]), int(shape[1]))


def _names(description: Mapping[str, object], what: str) -> tuple[str, ...]:
    """Of each number; datasets list them, or group them in one dictionary, or leave them out."""
    names, shape = description.get("names"), description["shape"]
    assert isinstance(shape, Sequence)
    if isinstance(names, Mapping):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if not isinstance(names, Sequence) or len(names) != shape[0]:
        names = [f"{what}.{k}" for k in range(shape[0])]
    return tuple(str(name) for name in names)


def spec(meta: "LeRobotDatasetMetadata", match: Match, size: tuple[int, int] | None, units: Units | None) -> Spec:
    """The contract of what was recorded: the SO-101's, or one in the numbers of another robot.

    Raises:
        UsageError: nobody says in which units an older LeRobot recorded; or the robot is another one, and there are no
            statistics to take its actions' limits from.
    """
    cameras = {name: size or _size(meta.features[feature]) for name, feature in match.cameras.items()}
    state, action, privileged = (
        _names(meta.features[match.columns[column]], column) if column in match.columns else ()
        for column in ("state", "action", "privileged")
    )
    result = Spec(cameras, state, action, privileged, "joint_position", so101.LOW, so101.HIGH, int(meta.fps))
    if is_so101(result) and meta.robot_type in SO101 and units != "recorded":
        if meta.robot_type == OLDER and units is None:
            raise UsageError(
                f"'{meta.root}' was recorded by an older LeRobot, in -100..100 unless use_degrees=true was given: "
                "say which by --units recorded or --units degrees."
            )
        return result
    statistics = (meta.stats or {}).get(match.columns["action"])
    if statistics is None:
        raise UsageError(
            f"'{meta.root}' has no statistics of its actions; `lerobot-edit-dataset --operation.type=recompute_stats`"
            " makes them."
        )
    low, high = (tuple(float(x) for x in np.ravel(statistics[bound])) for bound in ("min", "max"))
    return replace(result, control="raw", low=low, high=high)
