"""One loader of `bench_store` at a time, in a process of its own pinned to one core: windows per CPU-second, as JSON.

`python benchmarks/loaders.py LOADER FOLDER`, where FOLDER holds what `bench_store` writes: frames.npy, action.npy,
lengths.npy and store.zarr. The first run of a peer writes the same frames in its format, beside them. This file imports
a loader's package only when it is asked for that loader, so that it runs where only that one is installed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

LENGTH, BATCH, CPU_SECONDS, FPS = 16, 16, 2.0, 10

type Batch = Callable[[], object]
"""Loads the next batch."""


def episodes(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The frames and actions of each episode."""
    frames, actions = np.load(folder / "frames.npy", mmap_mode="r"), np.load(folder / "action.npy")
    ends = np.cumsum(np.load(folder / "lengths.npy"))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield frames[start:end], actions[start:end]


def shuffled(dataset: Dataset) -> Batch:
    """Random batches through torch's DataLoader."""

    def endless() -> Iterator[object]:
        while True:
            yield from DataLoader(dataset, BATCH, shuffle=True, drop_last=True)

    batches = endless()
    return lambda: next(batches)


class Memmap(Dataset):
    """What a user writes in ten lines."""

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        lengths = np.load(folder / "lengths.npy")
        starts = np.cumsum(lengths) - lengths
        self.frames = np.load(folder / "frames.npy", mmap_mode="r")
        self.columns = {name: np.load(folder / f"{name}.npy") for name in columns}
        self.index = [int(s) + t for s, n in zip(starts, lengths, strict=True) for t in range(n - LENGTH + 1)]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        rows = slice(self.index[i], self.index[i] + LENGTH)
        frames = torch.from_numpy(np.ascontiguousarray(self.frames[rows])).permute(0, 3, 1, 2)
        return {"pixels": frames, **{name: torch.from_numpy(x[rows]) for name, x in self.columns.items()}}


def memmap(folder: Path) -> Batch:
    return shuffled(Memmap(folder, ("action",)))


def memmap_all_columns(folder: Path) -> Batch:
    names = ("action", "state", "reward", "terminated", "success", "physics", "privileged")
    return shuffled(Memmap(folder, names))


def worldlab(folder: Path, decoded: bool = False) -> Batch:
    """With images decoded for every batch, or once."""
    from worldlab import datasets

    store = datasets.EpisodeStore(folder / "store.zarr")
    frames = (folder / "frames.npy").stat().st_size
    budget = 2 * frames if decoded else frames // 2
    windows = iter(datasets.Windows(store, LENGTH, BATCH, pad=False, cache_bytes=budget))
    return lambda: next(windows)


def zarr_python(folder: Path, pipeline: str | None = None) -> Batch:
    """The store's images through Zarr's own API."""
    import zarr

    if pipeline is not None:
        zarr.config.set({"codec_pipeline.path": pipeline, "threading.max_workers": 1})
    images, lengths = zarr.open_group(folder / "store.zarr", mode="r")["images/front"], np.load(folder / "lengths.npy")
    starts = np.cumsum(lengths) - lengths
    first = np.concatenate([np.arange(s, s + n - LENGTH + 1) for s, n in zip(starts, lengths, strict=True)])
    rng = np.random.default_rng(0)
    return lambda: np.stack([images[s : s + LENGTH] for s in rng.choice(first, BATCH).tolist()])


def zarrs(folder: Path) -> Batch:
    import zarrs  # registers its pipeline

    return zarr_python(folder, f"{zarrs.__name__}.ZarrsCodecPipeline")


def swm(folder: Path, kind: str, name: str) -> Batch:
    """stable-worldmodel, with the columns that the memmap has."""
    import stable_worldmodel as package

    path = folder / name
    if not path.exists():
        with package.data.get_format(kind).open_writer(str(path)) as writer:
            writer.write_episodes({"pixels": list(x), "action": list(a)} for x, a in episodes(folder))
    reader = package.data.get_format(kind).open_reader(str(path), num_steps=LENGTH, keys_to_load=["pixels", "action"])
    return shuffled(reader)


def episodata(folder: Path) -> Batch:
    import episodata as package

    path = folder / "episodata"
    if path.exists():
        data = package.Dataset.open(path)
    else:
        whole = [
            {"initial_observation": {"pixels": x[0]}, "observations": {"pixels": x[1:]}, "actions": a[:-1]}
            for x, a in episodes(folder)
        ]
        data = package.Dataset.from_episodes(whole, path=str(path))
    segments, rng = data.segments(sequence_length=LENGTH), np.random.default_rng(0)
    return lambda: segments.collate(segments.__getitems__(rng.integers(0, len(segments), BATCH).tolist()))


def lerobot(folder: Path) -> Batch:
    """LeRobot's dataset with its usual H.264, decoded by PyAV."""
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = folder / "lerobot"
    if not root.exists():
        size, joints = np.load(folder / "frames.npy", mmap_mode="r").shape[1:], [f"joint{i}" for i in range(6)]
        features = {
            "observation.images.front": {"dtype": "video", "shape": size, "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": (6,), "names": joints},
        }
        writer = LeRobotDataset.create(
            "me/bench", FPS, features, root, use_videos=True, rgb_encoder=RGBEncoderConfig(vcodec="h264")
        )
        for frames, actions in episodes(folder):
            for x, a in zip(frames, actions, strict=True):
                writer.add_frame({"observation.images.front": x, "action": a.astype(np.float32), "task": "lift"})
            writer.save_episode(parallel_encoding=False)
        writer.finalize()
    steps = [i / FPS for i in range(LENGTH)]
    window = {"observation.images.front": steps, "action": steps}
    data = LeRobotDataset("me/bench", root, delta_timestamps=window, video_backend="pyav", return_uint8=True)
    return shuffled(data)


LOADERS: dict[str, tuple[Callable[[Path], Batch], str | None]] = {
    "memmap": (memmap, None),
    "memmap, all columns": (memmap_all_columns, None),
    "worldlab": (worldlab, "store.zarr/images"),
    "worldlab, decoded once": (lambda folder: worldlab(folder, decoded=True), "store.zarr/images"),
    "the same store, zarr-python": (zarr_python, "store.zarr/images"),
    "the same store, zarrs": (zarrs, "store.zarr/images"),
    "stable-worldmodel, HDF5": (lambda folder: swm(folder, "hdf5", "swm.h5"), "swm.h5"),
    "stable-worldmodel, Lance (lossy)": (lambda folder: swm(folder, "lance", "swm.lance"), "swm.lance"),
    "episodata": (episodata, "episodata"),
    "LeRobot, H.264 (lossy)": (lerobot, "lerobot"),
}
"""Each loader, and what of the folder holds its images."""


def size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main(loader: str, folder: Path) -> None:
    make, stored = LOADERS[loader]
    batch = make(folder)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    for _ in range(3):
        batch()
    begun, windows = time.process_time(), 0
    while (spent := time.process_time() - begun) < CPU_SECONDS:
        batch()
        windows += BATCH
    result = {"windows_per_cpu_s": windows / spent, "torch": torch.__version__}
    if stored is not None:
        result["stored"] = size(folder / stored) / (folder / "frames.npy").stat().st_size
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
