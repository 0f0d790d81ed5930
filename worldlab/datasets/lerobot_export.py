"""LeRobot's dataset format (v3.0), written through LeRobot's own API."""

import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from worldlab import so101
from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.trajectory import Spec, Trajectory

type Feature = dict[str, str | tuple[int, ...] | list[str] | None]
type Frame = dict[str, NDArray[np.generic] | str]


def export_dataset(
    store: EpisodeStore,
    out: str | Path,
    repo_id: str = "worldlab/export",
    video: bool = True,
    episodes: Sequence[int] | None = None,
    show: bool = True,
) -> Path:
    """Write a store as a dataset that `LeRobotDataset(repo_id, root=out)` opens; it appears whole or not at all.

    Joint positions of the SO-101 are written in its follower's units (degrees, gripper 0 to 100), anything else as it
    is. LeRobot pairs every frame with an action, so the final observation of each episode is left out, and so are
    physics and privileged state.

    Args:
        store: the episodes.
        out: a new folder.
        repo_id: the name that LeRobot's tools ask for; nothing is uploaded.
        video: encode the cameras as H.264 (small, lossy); otherwise as PNG (large, exact).
        episodes: which to write; None writes all.
        show: whether to draw a progress bar on stderr.

    Returns:
        The folder.

    Raises:
        UsageError: the store is empty, `out` exists, a camera's size does not fit H.264, or the disk is full.
    """
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    out = Path(out)
    _check(store, out, video)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            dataset = LeRobotDataset.create(
                repo_id,
                store.spec.fps,
                features(store.spec, video),
                root=Path(folder) / "dataset",
                robot_type="so_follower" if _is_so101(store.spec) else None,
                use_videos=video,
                # LeRobot's own choices are a slower codec, and a quality that smears frames as small as 64 x 64.
                rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=18) if video else None,
                video_backend="pyav",  # it would try torchcodec first, and print pages where that cannot load
                streaming_encoding=video,
                encoder_threads=1 if video else None,
            )
            with _only_our_progress_bar():
                chosen = range(len(store)) if episodes is None else episodes
                for i in track(chosen, "exporting", console=Console(stderr=True), disable=not show):
                    for frame in _frames(store[i], store.spec):
                        dataset.add_frame(frame)
                    dataset.save_episode(parallel_encoding=False)
                dataset.finalize()
            (Path(folder) / "dataset").rename(out)
    except OSError as error:
        raise UsageError(f"could not write the dataset '{out}': {error.strerror or error}.") from error
    return out


@contextmanager
def _only_our_progress_bar() -> Generator[None]:
    """LeRobot draws a bar for every episode through Hugging Face's `datasets`, and x264 reports on every video."""
    from av import logging as libav
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    libav.set_libav_level(libav.ERROR)
    try:
        yield
    finally:
        libav.set_libav_level(libav.INFO)
        if not quiet:
            enable_progress_bars()


def features(spec: Spec, video: bool) -> dict[str, Feature]:
    """LeRobot's description of what a frame holds."""
    kind = "video" if video else "image"
    cameras: dict[str, Feature] = {
        f"observation.images.{name}": {"dtype": kind, "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for name, size in spec.cameras.items()
    }
    numbers: dict[str, Feature] = {
        "observation.state": {"dtype": "float32", "shape": (len(spec.state),), "names": list(spec.state)},
        "action": {"dtype": "float32", "shape": (len(spec.action),), "names": list(spec.action)},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    return cameras | numbers


def _check(store: EpisodeStore, out: Path, video: bool) -> None:
    if not (store.lengths > 1).any():
        raise UsageError(f"'{store.path}' holds no actions to export; collect episodes first.")
    if out.exists():
        raise UsageError(f"'{out}' exists already; choose another --out.")
    for name, (height, width) in store.spec.cameras.items():
        if video and (height % 2 or width % 2):
            raise UsageError(
                f"H.264 needs even sizes, and camera '{name}' has {height} x {width}; export images instead."
            )


def _is_so101(spec: Spec) -> bool:
    return spec.control == "joint_position" and spec.state == spec.action == so101.NAMES


def _frames(episode: Trajectory, spec: Spec) -> Iterator[Frame]:
    """The rows of an episode that have an action, as LeRobot's frames."""

    def units(x: Tensor) -> NDArray[np.generic]:
        return (so101.to_lerobot(x) if _is_so101(spec) else x).numpy()

    columns: Mapping[str, NDArray[np.generic]] = {
        "observation.state": units(episode.obs.state),
        "action": units(episode.action),
        "next.reward": episode.reward[:, None].numpy(),
        "next.done": episode.terminated[:, None].numpy(),
        "next.success": episode.success[:, None].numpy(),
    } | {f"observation.images.{name}": image.numpy() for name, image in episode.obs.images.items()}
    for t in range(len(episode.valid) - 1):
        yield {"task": episode.obs.task[0]} | {name: column[t] for name, column in columns.items()}
