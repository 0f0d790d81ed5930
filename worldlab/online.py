"""Learning while acting: `worldlab train dreamer-proprio --env ENV`, where a model makes its own data.

The store beside the run grows by an episode whenever the ratio of training to acting asks for one. What batch i holds
follows from the weights at step i and before, so a run that was killed goes on to the same bits: episodes that were
collected after its checkpoint would be collected again just so, and are kept.
"""

import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from worldlab import datasets, dynamics, envs
from worldlab.action_repeat import ActionRepeat
from worldlab.changes import BudgetOptions
from worldlab.collection import FIRST_SEED
from worldlab.creation import create_model
from worldlab.errors import UsageError
from worldlab.policies.random_policy import RandomPolicy
from worldlab.presets import OnlineConfig, TrainConfig, WindowConfig, preset
from worldlab.protocols import Environment, Policy
from worldlab.rollout import rollout
from worldlab.runs import Json, Run, provenance, to_json
from worldlab.seeding import key
from worldlab.summaries import EPISODES, recent_returns
from worldlab.training import Device, fit, pick_device
from worldlab.trajectory import Trajectory
from worldlab.workbench import Outcome

STORE = "replay.zarr"
"""What a run has experienced, in its folder."""


class Replay:
    """Batches of a store that grows: batch i is of the episodes due by then; those missing are collected first."""

    def __init__(
        self, store: datasets.EpisodeStore, env: Environment, model: dynamics.Dreamer, recipe: TrainConfig, run: Run
    ) -> None:
        """`store` holds the random episodes; `recipe` says how often to act, and how to cut windows."""
        assert recipe.online is not None
        self.store, self.env, self.model, self.run = store, env, model, run
        self.online, self.windows, self.seed = recipe.online, recipe.windows, recipe.fit.seed
        self._cut: tuple[int, datasets.Windows] | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps after which the environment has taken all of its steps, and been learnt from as often."""
        return int((self.online.env_steps - self._random_steps) / self._pace)

    def __getitem__(self, step: int) -> Trajectory:
        """Batch `step`."""
        due = self._random_steps + int(step * self._pace)
        while (taken := np.cumsum(self.store.lengths - 1))[-1] < due:
            self._collect(step)
        episodes = int(np.searchsorted(taken, due)) + 1
        if self._cut is None or self._cut[0] != episodes:
            options = asdict(self.windows)
            cut = datasets.Windows(self.store, seed=self.seed, episodes=range(episodes), **options)
            self._cut = (episodes, cut)
        return self._cut[1][step]

    @property
    def _random_steps(self) -> int:
        """Control steps that were taken at random."""
        return _random_steps(self.store, self.online)

    @property
    def _pace(self) -> float:
        """Control steps for each optimizer step."""
        return _pace(self.windows, self.online)

    def _collect(self, step: int) -> None:
        """Act for an episode, as the model does now."""
        self.model.explore = True
        earned = _episode(self.model, self.env, self.store, self.seed)
        self.model.explore = False
        taken = int((self.store.lengths - 1).sum())
        self.run.log({"episode": len(self.store) - 1, "env_steps": taken, "step": step, "return": earned}, EPISODES)


def _random_steps(store: datasets.EpisodeStore, online: OnlineConfig) -> int:
    return int((store.lengths[: online.random] - 1).sum())


def _pace(windows: WindowConfig, online: OnlineConfig) -> float:
    return windows.batch * windows.length * windows.stride / online.ratio


def _check_budget(store: datasets.EpisodeStore, windows: WindowConfig, online: OnlineConfig) -> None:
    """Raise `UsageError` where the random episodes leave too little of the budget for one optimizer step."""
    random, pace = _random_steps(store, online), math.ceil(_pace(windows, online))
    if online.env_steps < random + pace:
        raise UsageError(
            f"the {online.random} episodes at random are {random} control steps already, and an optimizer step takes "
            f"{pace} more; --env-steps must be at least {random + pace}, not {online.env_steps}."
        )


def _episode(policy: Policy, env: Environment, store: datasets.EpisodeStore, seed: int) -> float:
    """Act from the next start on, and keep what happened: its return."""
    start = FIRST_SEED * (seed + 1) + len(store)
    trajectory = rollout(policy, env, start)
    store.append(trajectory, [start])
    return float(trajectory.reward.sum())


def train_online(
    name: str,
    env_id: str,
    out: Path,
    *,
    changes: BudgetOptions | None = None,
    resume: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Train by a preset while acting in an environment; see `worldlab train --help`."""
    recipe = preset(name)
    if recipe.online is None:
        raise UsageError(f"'{name}' learns from a store; give --data instead of --env.")
    recipe = (changes or BudgetOptions()).applied_to(recipe, seed)
    return train_recipe_online(recipe, name, env_id, out, resume=resume, device=device)


def train_recipe_online(
    recipe: TrainConfig,
    name: str,
    env_id: str,
    out: Path,
    *,
    resume: bool = False,
    device: Device = "auto",
    show: bool = True,
) -> Outcome:
    """Train by a whole recipe that is called `name` while acting; everything random is keyed by the recipe's seed.

    Raises:
        UsageError: something else is in `out`, or was trained there with other options; or several processes act.
    """
    config, seed = recipe.model, recipe.fit.seed
    assert isinstance(config, dynamics.DreamerConfig)
    pick_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("training with --env runs in one process; to use several, train on a store (--data).")
    env = envs.make(env_id, n=1, size=None if config.world.sees == "state" else 64)
    about = {"preset": name, "env": env_id, "recipe": to_json(recipe)}
    # Killed while it still acted at random, it has experience but no run yet, and begins with what it has.
    resume = resume and ((out / "config.json").exists() or not (out / STORE).exists())
    if not resume:
        Run.check_vacant(out, (STORE,))
    elif other := [part for part, value in about.items() if Run.open(out).config.get(part) != value]:
        raise UsageError(f"'{out}' was begun with another {other[0]}; resume it with the options it was begun with.")
    store = _begin(recipe, env, out / STORE, {"env": env_id, **provenance(seed)})
    assert recipe.online is not None
    _check_budget(store, recipe.windows, recipe.online)
    if resume:
        run = Run.open(out)
        torch.manual_seed(key(seed))  # as for a new model, where no checkpoint had been written yet
        model = dynamics.of_description(run.config)
    else:
        model = create_model(recipe, store, seed)
        beside = {
            "data": str(out / STORE),
            "data_id": store.id,
            "episodes": len(store),
            "held_out": [],
            "online": True,
            "provenance": provenance(seed),
        }
        run = Run.create(out, {**model.describe(), **about, **beside}, (STORE,))
    assert isinstance(model, dynamics.Dreamer)
    replay = Replay(store, env, model, recipe, run)
    budget = replace(recipe.fit, steps=replay.steps, minutes=None)
    fit(model, replay, budget, run, device=device, resume=resume, show=show)
    store.close()
    return _outcome(name, env_id, run, replay.steps)


def _begin(recipe: TrainConfig, env: Environment, path: Path, about: dict[str, Json]) -> datasets.EpisodeStore:
    """The store of what is experienced, with the random episodes at its beginning."""
    assert recipe.online is not None
    assert isinstance(recipe.model, dynamics.DreamerConfig)
    if path.exists():
        store = datasets.EpisodeStore(path)
        if any(store.provenance.get(part) != about[part] for part in ("env", "seed")):
            made = f"{store.provenance.get('env')} with seed {store.provenance.get('seed')}"
            raise UsageError(f"'{path}' is what another run experienced, in {made}; choose another --out.")
    else:
        store = datasets.EpisodeStore.create(str(path), env.contract, about)
    beginner = ActionRepeat(RandomPolicy(env.contract, period=1), recipe.model.repeat)
    while len(store) < recipe.online.random:
        _episode(beginner, env, store, recipe.fit.seed)
    return store


def _outcome(name: str, env_id: str, run: Run, steps: int) -> Outcome:
    last = recent_returns(run)
    mean = sum(last) / max(len(last), 1)
    line = f"{name} trained for {steps} steps in {env_id}, its last {len(last)} episodes earned {mean:.1f}: {run.path}"
    return Outcome(line, {"run": str(run.path), "preset": name, "steps": steps, "mean_return": mean})
