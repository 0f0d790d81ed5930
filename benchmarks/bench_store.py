"""Random 16-frame windows per CPU-second, batch 16, of rendered arm frames: the store beside a memory-mapped array.

Peers, in the same process and interleaved: a plain torch Dataset over an `.npy` memmap, and the same store read through
zarr-python's own pipeline. Run it with `OMP_NUM_THREADS=1 MUJOCO_GL=egl python -m benchmarks.bench_store`.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from worldlab import datasets, envs
from worldlab.rollout import rollout
from worldlab.runs import provenance

LENGTH, BATCH, ROUNDS, CPU_SECONDS = 16, 16, 3, 2.0
EPISODES = {96: 160, 224: 48}


class Memmap(Dataset):
    """What a user writes in ten lines."""

    def __init__(self, frames: Path, actions: np.ndarray, lengths: np.ndarray) -> None:
        self.x, self.a = np.load(frames, mmap_mode="r"), actions
        starts = np.cumsum(lengths) - lengths
        self.index = [int(s) + t for s, n in zip(starts, lengths, strict=True) for t in range(n - LENGTH + 1)]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        t = self.index[i]
        x = np.ascontiguousarray(self.x[t : t + LENGTH])
        return {"pixels": torch.from_numpy(x).permute(0, 3, 1, 2), "action": torch.from_numpy(self.a[t : t + LENGTH])}


def endless(loader: DataLoader) -> Iterator[object]:
    while True:
        yield from loader


def plain_zarr(store: datasets.EpisodeStore) -> Callable[[], object]:
    group, rng = zarr.open_group(store.path, mode="r"), np.random.default_rng(0)
    images, long = group["images/front"], np.flatnonzero(store.lengths > LENGTH)

    def batch() -> object:
        picked = rng.choice(long, BATCH)
        starts = [int(store.starts[e] + rng.integers(store.lengths[e] - LENGTH)) for e in picked]
        return np.stack([images[s : s + LENGTH] for s in starts])

    return batch


def rate(batch: Callable[[], object]) -> float:
    batch()
    begun, windows = time.process_time(), 0
    while (spent := time.process_time() - begun) < CPU_SECONDS:
        batch()
        windows += BATCH
    return windows / spent


def counting(windows: datasets.Windows) -> Callable[[], object]:
    batches = iter(windows)
    return lambda: next(batches)


def measure(size: int, folder: Path) -> dict[str, float]:
    env = envs.make("worldlab/Lift-v0", n=16, size=size, cameras=("front",))
    store = datasets.EpisodeStore.create(folder / f"{size}.zarr", env.contract, provenance(0))
    for first in range(0, EPISODES[size], 16):
        store.append(rollout(env.expert(noise=0.7), env, first), range(first, first + 16))
    frames = store.read("images/front", range(len(store))).numpy()
    np.save(folder / "frames.npy", frames)
    stored = sum(f.stat().st_size for f in Path(store.path, "images/front").rglob("*") if f.is_file())
    actions = store.read("action", range(len(store))).numpy()
    loader = DataLoader(Memmap(folder / "frames.npy", actions, store.lengths), BATCH, shuffle=True, drop_last=True)
    batches = endless(loader)
    ways = {
        "memmap": lambda: next(batches),
        "store": counting(datasets.Windows(store, LENGTH, BATCH, pad=False, cache_bytes=frames.nbytes // 2)),
        "store, decoded once": counting(datasets.Windows(store, LENGTH, BATCH, pad=False, cache_bytes=1 << 34)),
        "zarr-python": plain_zarr(store),
    }
    rounds = [{way: rate(batch) for way, batch in ways.items()} for _ in range(ROUNDS)]
    found = {way: statistics.median(r[way] for r in rounds) for way in ways}
    return found | {"stored / raw": stored / frames.nbytes}


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    for size in EPISODES:
        with tempfile.TemporaryDirectory() as folder:
            results[size] = measure(size, Path(folder))
        for way, value in results[size].items():
            print(f"{size:4} px  {way:20} {value:10.3f}", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
