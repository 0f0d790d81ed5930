"""Recording episodes into a store, in several processes at once; the episodes do not depend on how many.

Episodes are rolled out in waves of n consecutive seeds. Each process writes a part of its own beside the store
("data.zarr.part0" …); at the end the parts are merged into the store, their episodes in the order of the seeds. What an
interrupted collection leaves in parts is merged by the next one.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from multiprocessing.queues import SimpleQueue
from multiprocessing.util import Finalize

import torch

from worldlab import datasets, envs, processes
from worldlab.datasets.files import files_at
from worldlab.datasets.header import FILE as HEADER
from worldlab.envs.labels import ExpertLabels
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.errors import UsageError
from worldlab.protocols import Environment, Policy, Restorable
from worldlab.rollout import rollout
from worldlab.runs import Json, provenance
from worldlab.training import Device, pick_device
from worldlab.trajectory import Trajectory

FIRST_SEED = 1_000_000
"""Collecting starts here, so that the small seeds of evaluation are unseen."""

_HOPELESS = 20
"""Waves without a single success after which to give up."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to record."""

    env: str
    """Environment id."""
    policy: str = "expert"
    """expert, random, a run folder, or any other name that `worldlab.players.load` takes."""
    noise: float = 0.0
    """Disturbs the expert, 0 and up; 1 is rough."""
    keep_failures: bool = False
    """Keep the expert's failed episodes too."""
    hold: int = 0
    """Control steps for which success must hold, so that episodes show how to leave alone what is done."""
    size: int = 64
    """Height and width of the camera images in pixels."""
    n: int = 32
    """Environments in lockstep."""
    device: Device = "auto"
    """Where the policy's networks run."""

    def world(self, n: int, threads: int) -> Environment:
        """The environments, whose physics runs on so many threads (0: one per core)."""
        env = envs.make(self.env, n=n, size=self.size, threads=threads, hold=self.hold)
        return ExpertLabels(env) if isinstance(env, MujocoVectorEnv) else env

    def actor(self, env: Environment) -> Policy:
        """The policy for these environments."""
        acting = env.env if isinstance(env, ExpertLabels) else env
        if self.policy == "expert" and isinstance(acting, MujocoVectorEnv):
            return acting.expert(noise=self.noise)
        from worldlab import players

        return players.load(self.policy, acting, str(pick_device(self.device)))


class Recorder:
    """Rolls out waves into a part; each is written while the next is rolled out, so that nobody waits for the disk."""

    def __init__(self, recipe: CollectConfig, part: str, about: dict[str, Json], threads: int) -> None:
        self._recipe = recipe
        self._env = recipe.world(recipe.n, threads)
        self._actor = recipe.actor(self._env)
        self._store = datasets.EpisodeStore.create(part, self._env.contract, about)
        self._store.become_writer()  # or another collection into the same store would take it for an abandoned part
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def record(self, first: int) -> int:
        """Roll out the wave that begins with this seed, and keep what is worth it: how many episodes.

        Raises:
            UsageError: the wave before could not be written.
        """
        wave = rollout(self._actor, self._env, first)
        filtering = self._recipe.policy == "expert" and not self._recipe.keep_failures
        good = torch.nonzero(wave.succeeded)[:, 0].tolist() if filtering else list(range(self._recipe.n))
        self.wait()
        if good:
            self._writing = self._writer.submit(self._write, wave, good, first)
        return len(good)

    def _write(self, wave: Trajectory, good: list[int], first: int) -> None:
        self._store.append(wave if len(good) == self._recipe.n else wave.pick(good), [first + i for i in good])

    def wait(self) -> None:
        """Until the last wave is written; raises what went wrong then."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Leave the part to others."""
        self._writer.shutdown()
        self._store.close()
        self.wait()


def collect(
    recipe: CollectConfig,
    out: str,
    episodes: int,
    seed: int = 0,
    workers: int = 0,
    on_wave: Callable[[int, int], None] | None = None,
) -> tuple[datasets.EpisodeStore, int, int]:
    """Add episodes to a store, which is made if there is none.

    Args:
        recipe: what to record.
        out: the store's path or URL.
        episodes: how many to keep.
        seed: of the collection; another one records other episodes.
        workers: processes; 0 is one per core where there is enough to do.
        on_wave: told how many episodes were worth keeping and how many were tried so far.

    Returns:
        The store, how many episodes were worth keeping, which may be more than were asked for, and how many were tried.

    Raises:
        UsageError: a size makes no sense, the store or what a killed collection left beside it holds episodes of
            another kind or environment, none of the first twenty waves succeeded, or not all could be written.
    """
    _check(recipe, episodes, workers)
    recipe = replace(recipe, env=envs.full_id(recipe.env))
    about: dict[str, Json] = {"env": recipe.env, "size": recipe.size, "hold": recipe.hold, **provenance(seed)}
    env = recipe.world(1, 1)
    recipe.actor(env)  # whoever cannot act here is told before there is a store
    _refuse_strangers(out, about)
    store = _open(out, env, about)
    _merge(store)
    first = max([FIRST_SEED * (seed + 1) - 1, *store.seeds.tolist()]) + 1
    shared_by = processes.number(episodes / recipe.n, workers)
    seeds = count(first, recipe.n)
    before, kept, tried = len(store), 0, 0
    try:
        with closing(_waves(recipe, store.path, about, seeds, shared_by)) as waves:
            for good in waves:
                kept, tried = kept + good, tried + recipe.n
                if on_wave is not None:
                    on_wave(kept, tried)
                if kept >= episodes:
                    break
                if kept == 0 and tried >= _HOPELESS * recipe.n:
                    raise UsageError(
                        f"none of {tried} episodes of {recipe.env} succeeded; keep them with --keep-failures."
                    )
    finally:
        _merge(store, most=episodes)
    if (written := len(store) - before) < (due := min(kept, episodes)):
        raise UsageError(f"only {written} of {due} episodes were written to '{out}'; is the disk full?")
    return store, kept, tried


def _check(recipe: CollectConfig, episodes: int, workers: int) -> None:
    """Raise `UsageError` for what cannot be collected."""
    for what, value, least in (
        ("episodes", episodes, 1),
        ("n", recipe.n, 1),
        ("size", recipe.size, 1),
        ("workers", workers, 0),
        ("noise", recipe.noise, 0),
    ):
        if not least <= value < math.inf:
            raise UsageError(f"{what} must be finite and at least {least}; got {value}.")
    if recipe.noise and recipe.policy != "expert":
        raise UsageError(f"noise disturbs the expert alone; '{recipe.policy}' acts without.")


def _open(out: str, env: Environment, about: dict[str, Json]) -> datasets.EpisodeStore:
    """The store that is there, if it is of the same kind, or a new one."""
    spec = env.contract
    if not files_at(out).exists():
        return datasets.EpisodeStore.create(out, spec, about)
    store = datasets.EpisodeStore(out)
    store.spec.check(spec, ("store", "environment"))
    if (made := store.provenance.get("env")) not in (None, about["env"]):
        raise UsageError(f"'{out}' holds episodes of {made}, not {about['env']}; use another store.")
    if store.hold != about["hold"]:
        raise UsageError(
            f"'{out}' is of --hold {store.hold} (0 where it was collected before stores remembered that), "
            f"not {about['hold']}; use another store, or the same --hold."
        )
    if len(store) and ("physics" in store.columns) != isinstance(env, Restorable):
        has = "has" if "physics" in store.columns else "has no"
        raise UsageError(f"'{out}' {has} physics, unlike what {about['env']} records; use another store.")
    if store.spec.privileged != spec.privileged:
        # Found out only when the parts are merged, it would cost the whole collection.
        apart = ", ".join(sorted(set(store.spec.privileged) ^ set(spec.privileged)))
        raise UsageError(
            f"'{out}' holds other privileged columns than this policy records ({apart}); use another store."
        )
    return store


def _part(store: str, i: int) -> str:
    return f"{store.rstrip('/')}.part{i}"


def _parts(store: str) -> list[datasets.EpisodeStore]:
    """What collections into a store have recorded and not moved there yet."""
    paths = (_part(store, i) for i in count())
    there = list(takewhile(lambda path: files_at(path).exists(), paths))
    for path in there:
        if not files_at(path).exists(HEADER):  # begun or removed in part: nothing in it was ever committed
            files_at(path).delete(first=HEADER)
    return [datasets.EpisodeStore(path) for path in there if files_at(path).exists()]


def _refuse_strangers(out: str, about: Mapping[str, Json]) -> None:
    """Raise `UsageError` where a killed collection of something else left a part, and its store is gone."""
    for part in _parts(out):
        if (made := (part.provenance.get("env"), part.hold)) != (about["env"], about["hold"]):
            raise UsageError(
                f"'{part.path}' is what a killed collection of {made[0]} (--hold {made[1]}) left; collect that to its "
                "end, or delete the folder."
            )


def _merge(store: datasets.EpisodeStore, most: int | None = None) -> None:
    """Move the episodes of all parts into the store: those of the smallest seeds, in their order."""
    parts = _parts(store.path)
    found = sorted((seed, i, k) for i, part in enumerate(parts) for k, seed in enumerate(part.seeds.tolist()))
    datasets.merge(store, parts, [(i, k) for _, i, k in found[:most]])
    store.close()


def _waves(
    recipe: CollectConfig, path: str, about: dict[str, Json], seeds: Iterator[int], shared_by: int
) -> Generator[int]:
    """Record waves into parts without end: how many episodes of each were worth keeping, in the order of the seeds."""
    if shared_by == 1:
        with closing(Recorder(recipe, _part(path, 0), about, threads=0)) as recorder:
            yield from map(recorder.record, seeds)
    context = processes.context()
    parts = context.SimpleQueue()
    for i in range(shared_by):
        parts.put(_part(path, i))
    pool = ProcessPoolExecutor(shared_by, context, _begin, (recipe, parts, about))
    try:
        running = deque(pool.submit(_record, first) for first in islice(seeds, shared_by))
        for first in seeds:
            running.append(pool.submit(_record, first))
            yield running.popleft().result()
    except BrokenProcessPool:
        raise UsageError(
            "a collecting process died; what it recorded is kept, so run the same command again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(recipe: CollectConfig, parts: "SimpleQueue[str]", about: dict[str, Json]) -> None:
    """Set up a process of the pool."""
    torch.set_num_threads(1)
    recorder = Recorder(recipe, parts.get(), about, threads=1)
    Finalize(None, recorder.close, exitpriority=1)  # before Python stops its threads, one of which still writes
    _of_this_process.append(recorder)


def _record(first: int) -> int:
    return _of_this_process[0].record(first)


_of_this_process: list[Recorder] = []
