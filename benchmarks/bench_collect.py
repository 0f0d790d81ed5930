"""Collecting Reach: two processes on two cores against one process on one core, and what writing costs.

Whole commands, their start and the merging included, and the same for one episode, which is nearly all start. Wall time
means little on a machine that has other work. So the longest path in CPU time stands beside it: what the parent spends
and an equal share of what the others do, as if nothing of them ran while the parent imports, though they do.

Writing is the CPU time of the thread that writes while the next wave is rolled out, against all of the process; waiting
is the share of wall time in which nothing was rolled out because of it.
Run it with `OMP_NUM_THREADS=1 MUJOCO_GL=egl python -m benchmarks.bench_collect [EPISODES]`; JSON goes to stdout.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from multiprocessing import forkserver
from pathlib import Path

from worldlab.cli import main

ENV, N, WAVES, ROUNDS = "worldlab/Reach-v0", 32, 16, 1


def writing(size: int) -> dict[str, float]:
    """Its shares, at one size of pictures."""
    from worldlab.collection import CollectConfig, Recorder
    from worldlab.runs import provenance

    class Timed(Recorder):
        """Measures CPU time of the writing thread, and how long the simulation waits for it."""

        written_s = waited_s = 0.0

        def _write(self, *arguments: object) -> None:
            begun = time.thread_time()
            super()._write(*arguments)
            self.written_s += time.thread_time() - begun

        def wait(self) -> None:
            begun = time.perf_counter()
            super().wait()
            self.waited_s += time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        recorder = Timed(
            CollectConfig(env=ENV, noise=0.7, size=size, n=N), f"{folder}/x.zarr", provenance(0), threads=1
        )
        recorder.record(0)
        recorder.wait()
        recorder.written_s = recorder.waited_s = 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        for wave in range(1, WAVES + 1):
            recorder.record(wave * N)
        recorder.close()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_share": recorder.written_s / cpu, "waiting_share": recorder.waited_s / wall, "cpu_s": cpu}


def one(episodes: int, cores: int) -> None:
    """Collect in as many processes as cores, and print the CPU time of all of them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as folder:
        wanted = ["--episodes", str(episodes), "--n", str(N), "--workers", str(cores), "--out", f"{folder}/x.zarr"]
        with redirect_stdout(sys.stderr):
            main(["collect", ENV, *wanted])
    forkserver._forkserver._stop()  # noqa: SLF001 the children's time is counted once their parent, the server, ends
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    parent, others = (usage.ru_utime + usage.ru_stime for usage in usages)
    print(json.dumps({"cpu_s": parent + others, "path_s": parent + others / cores}))


def command(episodes: int, cores: int) -> dict[str, float]:
    """The same in a process of its own."""
    begun = time.perf_counter()
    arguments = [sys.executable, "-m", "benchmarks.bench_collect", str(episodes), str(cores)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return {"wall_s": time.perf_counter() - begun, **json.loads(done.stdout)}


def compare(episodes: int) -> None:
    results: dict[str, object] = {"episodes": episodes, "env": ENV, "n": N}
    for size in (64, 224):
        share = results[f"writing, {size} px"] = writing(size)
        line = f"writing at {size} px: {share['cpu_share']:.1%} of CPU time, waited {share['waiting_share']:.1%}"
        print(line, file=sys.stderr)
    for amount in (1, episodes):
        rounds = [{cores: command(amount, cores) for cores in (1, 2)} for _ in range(ROUNDS)]
        took = {
            cores: {name: statistics.median(r[cores][name] for r in rounds) for name in ("wall_s", "cpu_s", "path_s")}
            for cores in (1, 2)
        }
        ratio = {name: statistics.median(r[1][name] / r[2][name] for r in rounds) for name in ("wall_s", "path_s")}
        results[f"{amount} episodes"] = {"cores": took, "faster": ratio, "rounds": rounds}
        for cores, t in took.items():
            figures = f"wall {t['wall_s']:.1f} s, CPU {t['cpu_s']:.1f} s, longest path {t['path_s']:.1f} s"
            print(f"{amount} episodes on {cores} core(s): {figures}", file=sys.stderr)
        print(f"    faster: {ratio['wall_s']:.2f} by wall, {ratio['path_s']:.2f} by path", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        one(int(sys.argv[1]), int(sys.argv[2]))
    else:
        compare(int(sys.argv[1]) if len(sys.argv) > 1 else 4864)
