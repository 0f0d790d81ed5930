"""A process to kill while it writes episodes."""

from multiprocessing.connection import Connection
from pathlib import Path

from episodes import SPEC, random_trajectory

from worldlab.datasets import EpisodeStore, merge
from worldlab.trajectory import Trajectory


def batch(k: int) -> Trajectory:
    """The two episodes appended to a store of k."""
    return random_trajectory([3 + k % 40, 1], seed=k)


def write_until_killed(path: Path, pipe: Connection) -> None:
    """Append two episodes at a time, and say so once, after the first."""
    store = EpisodeStore(path) if path.exists() else EpisodeStore.create(path, SPEC, {})
    while True:
        k = len(store)
        store.append(batch(k), [k, k + 1])
        if pipe is not None:
            pipe.send("begun")
            pipe = None


def merge_parts(folder: Path, pipe: Connection) -> None:
    """Merge the parts in a folder into its whole."""
    pipe.send("begun")
    store = EpisodeStore(folder / "whole.zarr")
    merge(store, [EpisodeStore(path) for path in sorted(folder.glob("part*.zarr"))])
