"""`worldlab imagine`: a world model, a store and the simulator that made it, put together."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldlab import datasets, dynamics, envs
from worldlab import eval as evaluation
from worldlab.action_repeat import ActionSubsample, action_repeat_of
from worldlab.errors import UsageError
from worldlab.eval.branches import WAYS
from worldlab.eval.positions import bodies_of
from worldlab.eval.success import Specified
from worldlab.protocols import Environment, Policy
from worldlab.runs import Json, Run, provenance, write_atomically
from worldlab.training import Device, pick_device
from worldlab.workbench import Outcome, held_out_episodes, load_policy

PROBED = "Positions are read off the model's belief by a linear probe, fitted on {} moments of {}."


def imagine(
    path: str | Path,
    data: str | Path,
    *,
    horizon: int = 20,
    branches: int | Sequence[str] = 8,
    starts: int = 64,
    probe: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> Outcome:
    """Counterfactuals against the simulator's own branches; see `worldlab imagine --help`."""
    path = Path(path)
    model, run = dynamics.load(path, device=str(pick_device(device))), Run.open(path)
    recorded = datasets.EpisodeStore(data)
    env_id, episodes, note = str(recorded.provenance.get("env")), held_out_episodes(recorded, run), ""
    stride = action_repeat_of(model.spec, recorded.spec)
    store = datasets.Strided(recorded, stride)
    model.spec.check(store.spec, ("world model", "store"))
    size = next(iter(model.spec.cameras.values()), None)
    # Success must hold as it had to when the data were made, or branches would end where those episodes went on.
    env = envs.make(env_id, n=max(1, min(32, starts)), size=size, repeat=stride, hold=recorded.hold)
    if probe or (bodies_of(store.spec) and not bodies_of(model.spec)):
        trained, whose = [i for i in range(len(store)) if i not in episodes], "training episodes"
        if not trained:  # the model was trained on another store: half of this one is for the probe
            trained, episodes, whose = episodes[::2], episodes[1::2], "other episodes"
        model = evaluation.fit_probe(model, store, trained, seed)
        note = PROBED.format(model.probe.n, whose)
    names = () if isinstance(branches, int) else branches
    result = evaluation.counterfactual(
        model,
        store,
        env,
        branches=branches,
        others={name: _other(name, env, stride, device) for name in names if name not in WAYS},
        horizon=horizon,
        episodes=episodes,
        starts=starts,
        seed=seed,
    )
    values: dict[str, Json] = {**result.to_json(), "run": str(path), "data": str(data), "env": env_id}
    values["probed"] = bool(note)
    write_atomically(path / "imagine.json", json.dumps(values, indent=1))
    ways = f"--branches {branches}" if isinstance(branches, int) else f"--ways {' '.join(branches)}"
    command = f"worldlab imagine {path} --data {data} --horizon {horizon} {ways} --starts {starts} --seed {seed}"
    command += " --probe" if probe else ""
    page = evaluation.write_imagined(result, path, command=command, provenance=provenance(seed), note=note)
    return Outcome(f"{_said(result)}: {page}", values)


def _said(result: evaluation.CounterfactualResult) -> str:
    """The effect error by horizon, with the interval and the cases of the longest that has any."""
    error = result["effect_error"]
    by_horizon = {str(h): value for h, value in error.value.items()}
    what = "" if result.compared == "positions" else " of the observed state"
    last = max((h for h, n in error.n.items() if n), default=1)
    low, high = error.interval[last]
    cases = f"{error.n[last]} branches of {error.episodes[last]} episodes"
    limits = "no interval" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
    return f"effect error{what} by horizon {by_horizon} (copy-last 1); at {last} steps {limits}, n = {cases}"


def _other(name: str, env: Environment, stride: int, device: Device) -> Policy | Float[Tensor, "t a"]:
    """Actions from a file, or a policy by its name.

    Raises:
        UsageError: there is neither, or the policy cannot act here.
    """
    if not name.endswith(".npy"):
        policy = load_policy(name, env, device)
        if isinstance(policy, Specified):
            replace(policy.spec, fps=env.contract.fps).check(env.contract)
        return ActionSubsample(policy, stride)
    try:
        actions = np.load(name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"could not read actions from '{name}': {error}.") from None
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
        raise UsageError(f"'{name}' holds no array of numbers.")
    actions = actions.astype(np.float32)
    if actions.ndim != 2:
        raise UsageError(f"'{name}' has shape {actions.shape}; needed one row a step and one column an action.")
    if not np.isfinite(actions).all():
        raise UsageError(f"'{name}' holds actions that are not finite.")
    return torch.from_numpy(actions)
