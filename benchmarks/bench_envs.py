"""Control steps of one environment per CPU-second, with and without a 64 x 64 picture of every step.

The suite's cheetah is measured through worldlab and through dm_control itself, interleaved, each in a process of its
own: where another OpenGL context was open, dm_control's pictures came 6 times faster than alone, so were not the same.
Run it with `OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/bench_envs.py`; the table goes to stderr, JSON to stdout.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
from dm_control import suite as dm_control
from gymnasium.vector import VectorEnv

from worldlab import envs
from worldlab.envs import suite

SIZE = 64
ROUNDS = 3
CPU_SECONDS = 1.0
"""Of each measurement."""


def vector(env: VectorEnv) -> Callable[[], int]:
    """Steps a vector environment with random actions; an episode that ends begins anew."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> int:
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert all(np.ptp(image) > 0 for name, image in obs.items() if name != "state"), "a blank picture"
        if (terminated | truncated).any():
            env.reset(seed=0)
        return env.num_envs

    return step


def plain(render: bool) -> Callable[[], int]:
    """Steps dm_control's cheetah the way its documentation does."""
    env = dm_control.load("cheetah", "run", task_kwargs={"random": 0})
    spec, rng = env.action_spec(), np.random.default_rng(0)
    env.reset()

    def step() -> int:
        env.step(rng.uniform(spec.minimum, spec.maximum))
        if render:
            assert np.ptp(env.physics.render(SIZE, SIZE, camera_id=0)) > 0, "a blank picture"
        return 1

    return step


REACH, CHEETAH = "worldlab/Reach-v0", "dm_control/cheetah-run-v0"
CASES: dict[str, Callable[[], Callable[[], int]]] = {
    "worldlab/Reach-v0, state": lambda: vector(envs.make(REACH, 8, cameras=(), threads=1)),
    "worldlab/Reach-v0, one picture": lambda: vector(envs.make(REACH, 8, size=SIZE, cameras=("front",), threads=1)),
    "worldlab/Reach-v0, two pictures": lambda: vector(envs.make(REACH, 8, size=SIZE, threads=1)),
    "cheetah through worldlab, state": lambda: vector(suite.make(CHEETAH, 8, None)),
    "cheetah through dm_control, state": lambda: plain(render=False),
    "cheetah through worldlab, one picture": lambda: vector(suite.make(CHEETAH, 8, SIZE)),
    "cheetah through dm_control, one picture": lambda: plain(render=True),
}


@cache
def prepared(name: str) -> Callable[[], int]:
    return CASES[name]()


def rate(name: str) -> float:
    """Environment steps per CPU-second of this process."""
    step = prepared(name)
    step()
    start, steps = time.process_time(), 0
    while (spent := time.process_time() - start) < CPU_SECONDS:
        steps += step()
    return steps / spent


def main() -> None:
    ours, theirs = (ProcessPoolExecutor(1, get_context("spawn")) for _ in range(2))
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    with ours, theirs:
        for _ in range(ROUNDS):
            for name, measured in rates.items():
                place = theirs if "through dm_control" in name else ours
                measured.append(place.submit(rate, name).result())
    results = {
        name: {"median": statistics.median(r), "min": min(r), "max": max(r), "n": ROUNDS} for name, r in rates.items()
    }
    for name, result in results.items():
        line = f"{name:42}{result['median']:10,.0f}  ({result['min']:,.0f} to {result['max']:,.0f})"
        print(line, file=sys.stderr)
    print(json.dumps({"unit": "environment steps per CPU-second", "size": SIZE, "results": results}))


if __name__ == "__main__":
    main()
