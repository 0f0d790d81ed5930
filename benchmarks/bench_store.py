"""Random 16-frame windows per CPU-second, batch 16, of rendered arm frames: the store beside its peers.

Every loader reads the same frames of Lift-v0 (expert with noise 0.7, camera "front") in a process of its own, pinned to
one core, from a warm page cache, one loader after another in each of five rounds. Peers that cannot be installed
beside worldlab live in benchmarks/.peers (`python -m benchmarks.peers` makes it) or in the environment whose Python
WORLDLAB_PEERS names; those that are not installed are left out with a word.

A plain Dataset's batches are so large that glibc may hand their memory back to the kernel after each, which can cost
more than half of the time. So the range of the rounds is printed, and one line has it forbidden.

Run it with `OMP_NUM_THREADS=1 MUJOCO_GL=egl python -m benchmarks.bench_store`; JSON goes to stdout, a table to stderr.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import loaders, peers
from worldlab import datasets, envs
from worldlab.rollout import rollout
from worldlab.runs import provenance

ROUNDS = 5
EPISODES = {96: 160, 224: 48}
KEPT = "memmap, memory kept"
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
THEIRS = ("the same store, zarrs", "stable-worldmodel", "episodata")
"""What runs in the peers' environment."""


def record(size: int, folder: Path) -> None:
    """A store of rendered episodes, and its columns as arrays."""
    env = envs.make("worldlab/Lift-v0", n=16, size=size, cameras=("front",))
    with datasets.EpisodeStore.create(folder / "store.zarr", env.contract, provenance(0)) as store:
        for first in range(0, EPISODES[size], 16):
            store.append(rollout(env.expert(noise=0.7), env, first), range(first, first + 16))
    for name in store.columns:
        array = "frames" if name == "images/front" else name
        np.save(folder / f"{array}.npy", store.read(name, range(len(store))).numpy())
    np.save(folder / "lengths.npy", store.lengths)


def run(loader: str, folder: Path) -> dict[str, float | str] | None:
    """One measurement, or None where the loader is not installed."""
    python = peers.python() if loader.startswith(THEIRS) else Path(sys.executable)
    if python is None:
        return None
    command = [str(python), "-W", "ignore", loaders.__file__, "memmap" if loader == KEPT else loader, str(folder)]
    settings = KEEP if loader == KEPT else {}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "STABLEWM_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet | settings)
    if done.returncode:
        print(f"{loader} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(size: int, folder: Path) -> dict[str, dict[str, object]]:
    """All loaders at one size of frames."""
    record(size, folder)
    found: dict[str, list[dict[str, float | str]]] = {}
    missing = set[str]()
    for _ in range(ROUNDS):
        for loader in (KEPT, *loaders.LOADERS):
            if loader not in missing and (result := run(loader, folder)) is not None:
                found.setdefault(loader, []).append(result)
            else:
                missing.add(loader)
    rates = {loader: [float(result["windows_per_cpu_s"]) for result in results] for loader, results in found.items()}
    return {
        loader: {**results[0], "windows_per_cpu_s": statistics.median(rates[loader]), "rounds": rates[loader]}
        for loader, results in found.items()
    }


def main() -> None:
    if peers.python() is None:
        print(f"peers left out: {peers.HOW}", file=sys.stderr)
    results = {}
    for size in EPISODES:
        with tempfile.TemporaryDirectory() as folder:
            results[size] = measure(size, Path(folder))
        for loader, result in results[size].items():
            low, high = min(result["rounds"]), max(result["rounds"])
            stored = f"{result['stored']:6.3f} of raw" if "stored" in result else ""
            rate = f"{result['windows_per_cpu_s']:8,.0f} ({low:,.0f} to {high:,.0f})"
            print(f"{size:4} px  {loader:34}{rate:28}{stored}", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
