"""`worldlab play`: a run, its recorded episodes and its simulator, put together."""

import sys
from contextlib import suppress
from pathlib import Path

from worldlab import datasets, dynamics, envs
from worldlab.action_repeat import action_repeat_of
from worldlab.errors import UsageError
from worldlab.playing.server import Server
from worldlab.playing.session import Session
from worldlab.protocols import Environment
from worldlab.runs import Run
from worldlab.training import Device, pick_device
from worldlab.trajectory import Spec
from worldlab.workbench import Outcome, held_out_episodes


def play(path: Path, *, data: str | None = None, port: int = 8000, seed: int = 0, device: Device = "auto") -> Outcome:
    """Serve the page until it is interrupted; see `worldlab play --help`."""
    run, model = Run.open(path), dynamics.load(path, device=str(pick_device(device)))
    store, notes = _store(run, data)
    env_id = str(store.provenance.get("env")) if store is not None else str(run.config.get("env"))
    episodes: list[int] = []
    if store is not None:
        try:
            episodes = held_out_episodes(store, run)
        except UsageError:
            episodes = list(range(len(store)))
            notes.append("The recorded episodes are those that the model was trained on.")
    recorded = None if store is None else datasets.Strided(store, action_repeat_of(model.spec, store.spec))
    if recorded is not None:
        model.spec.check(recorded.spec, ("world model", "store"))

    def make() -> Session[object]:
        env, missing = simulator(env_id, model.spec, 0 if store is None else store.hold)
        notes.extend(missing)
        return Session(model, recorded, episodes, env, seed)  # pyright: ignore[reportReturnType]

    server = Server(make, str(path), notes, port)
    print(f"open {server.url} (Ctrl-C ends it)", file=sys.stderr)  # noqa: T201
    with suppress(KeyboardInterrupt):
        server.serve()
    return Outcome(f"played {path}", {"run": str(path), "url": server.url})


def _store(run: Run, data: str | None) -> tuple[datasets.EpisodeStore | None, list[str]]:
    """The store to begin from: the one asked for, or the one that the run was trained on if it is still there."""
    if data is not None:
        return datasets.EpisodeStore(data), []
    try:
        return datasets.EpisodeStore(str(run.config.get("data"))), []
    except UsageError as error:
        return None, [f"No recorded frames: {error}"]


def simulator(env_id: str, spec: Spec, hold: int = 0) -> tuple[Environment | None, list[str]]:
    """The simulator of what the model imagines, at the model's pace, or why there is none."""
    size = next(iter(spec.cameras.values()), None)
    try:
        env = envs.make(env_id, n=1, size=size, hold=hold)
        if (repeat := action_repeat_of(spec, env.contract)) > 1:
            env.close()
            env = envs.make(env_id, n=1, size=size, repeat=repeat, hold=hold)
        spec.check(env.contract, ("world model", "simulator"))
    except UsageError as error:
        return None, [f"No simulator: {error}"]
    return env, []
