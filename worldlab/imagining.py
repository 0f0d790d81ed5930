"""`worldlab imagine`: a world model, a store and the simulator that made it, put together."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldlab import datasets, dynamics, envs
from worldlab import eval as evaluation
from worldlab.errors import UsageError
from worldlab.eval.branches import WAYS
from worldlab.eval.positions import bodies_of
from worldlab.protocols import Environment, Policy
from worldlab.runs import Json, Run, provenance, write_atomically
from worldlab.training import Device, pick_device
from worldlab.workbench import Outcome, meet, unseen

PROBED = "Positions are read off the model's belief by a linear probe, fitted on {} moments of training episodes."


def imagine(
    path: Path,
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
    model, store, run = (
        dynamics.load(path, device=str(pick_device(device))),
        datasets.EpisodeStore(data),
        Run.open(path),
    )
    about = store.provenance
    size = next(iter(store.spec.cameras.values()), None)
    world = envs.make(str(about["env"]), n=max(1, min(32, starts)), size=size)
    episodes, note = unseen(store, run), ""
    if probe or not bodies_of(model.spec):
        trained = [i for i in range(len(store)) if i not in episodes] or episodes
        model = evaluation.fit_probe(model, store, trained, seed)
        note = PROBED.format(model.probe.n)
    names = () if isinstance(branches, int) else branches
    result = evaluation.counterfactual(
        model,
        store,
        world,
        branches=branches,
        others={name: _other(name, world, device) for name in names if name not in WAYS},
        horizon=horizon,
        episodes=episodes,
        starts=starts,
        seed=seed,
    )
    values: dict[str, Json] = {**result.to_json(), "run": str(path), "data": str(data), "env": str(about["env"])}
    values["probed"] = bool(note)
    write_atomically(path / "imagine.json", json.dumps(values, indent=1))
    ways = f"--branches {branches}" if isinstance(branches, int) else f"--ways {' '.join(branches)}"
    command = f"worldlab imagine {path} --data {data} --horizon {horizon} {ways} --starts {starts} --seed {seed}"
    page = evaluation.write_imagined(result, path, command=command, provenance=provenance(seed), note=note)
    errors = {str(h): error for h, error in result["effect_error"].value.items()}
    return Outcome(f"effect error by horizon {errors} (copy-last 1), n = {result.n} branches: {page}", values)


def _other(name: str, world: Environment, device: Device) -> Policy | Float[Tensor, "t a"]:
    """Actions from a file, or a policy by its name.

    Raises:
        UsageError: there is neither.
    """
    if not name.endswith(".npy"):
        return meet(name, world, device)
    try:
        actions = np.load(name, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"could not read actions from '{name}': {error}.") from None
    if actions.ndim != 2:
        raise UsageError(f"'{name}' has shape {actions.shape}; needed one row a step and one column an action.")
    return torch.from_numpy(actions.astype(np.float32))
