"""Every policy by name: besides those of `worldlab.policies`, planners, what learnt in dreams, and recordings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor

from worldlab import datasets, dynamics
from worldlab.action_repeat import ActionRepeat, action_repeat_of
from worldlab.envs.mujoco_env import MujocoVectorEnv
from worldlab.errors import UsageError, unknown
from worldlab.protocols import Environment, Observable, Policy
from worldlab.runs import Run, restored
from worldlab.trajectory import Observation, Spec

PLAN = "plan"
RECORDED = "recorded:"
PICTURE = (64, 64)
"""What is looked at by a policy that does not say."""
LEAN = "lean:"
COMPILED = "compiled:"
LEROBOT = "lerobot:"
SIMULATOR = "simulator"
"""Named in place of a run, a planner dreams in the simulator itself."""
FUTURES = 256
"""Simulated at once then."""
OPTIONS = ("cem", "mppi", "zone")
"""What may follow `plan`: how to search (cem by default), and for what (the model's imagined reward by default)."""


def load(name: str, env: Environment, device: str = "cpu") -> Policy:
    """A policy for an environment.

    Args:
        name: what `worldlab.policies.load` takes, or "plan:RUN" for a planner with the world model of a run, which
            searches by the cross-entropy method for the most imagined reward; "plan.mppi:RUN" searches by path
            integrals, and "plan.zone:RUN" for the hand-written cost of pushing the target object into the zone; with
            "simulator" for RUN, what the simulator says of the future takes the place of what a model does.
            "recorded:STORE" does again what was done in the episodes of a store, from the same starts. "lean:RUN" is
            the policy of a run in bf16 on a CPU (`worldlab.policies.lean`), "compiled:RUN" that through PyTorch's
            compiler, which takes half a minute first.
        env: whose expert, whose action range or whose privileged state is needed.
        device: where networks compute.

    Raises:
        UsageError: there is no such policy, or it cannot act in this environment.
    """
    if name.startswith(RECORDED):
        return Recorded(datasets.EpisodeStore(name.removeprefix(RECORDED)))
    if name.startswith((LEAN, COMPILED)):
        from worldlab import policies
        from worldlab.policies.compiled import compiled
        from worldlab.policies.lean import lean

        way, _, run = name.partition(":")
        return {LEAN: lean, COMPILED: compiled}[f"{way}:"](policies.load_vla(run).to(device))
    kind, _, run = name.partition(":")
    first, *options = kind.split(".")
    if first != PLAN or not run:
        if (Path(name) / "config.json").is_file() and Run.open(name).config["kind"] == "dreamer":
            return dynamics.load_dreamer(name, device)
        from worldlab import policies  # a second to import

        return policies.load(name, device=device, env=env)
    for option in options:
        if option not in OPTIONS:
            raise unknown("way to plan", option, OPTIONS)
    model = _simulator(env) if run == SIMULATOR else dynamics.load(run, device)
    planner = dynamics.Planner(
        model,
        dynamics.MPPI() if "mppi" in options else dynamics.CEM(),
        dynamics.ToZone(model.spec) if "zone" in options else dynamics.mean_reward,
        env if isinstance(env, Observable) and env.contract.privileged else None,
    )
    repeat = action_repeat_of(model.spec, env.contract)
    if repeat == 1:
        return planner
    replace(model.spec, fps=env.contract.fps).check(env.contract)
    return ActionRepeat(planner, repeat)


def _simulator(env: Environment) -> dynamics.Simulator:
    """The simulator of an environment as a world model.

    Raises:
        UsageError: it is not one of our own.
    """
    if not isinstance(env, MujocoVectorEnv):
        raise UsageError(
            "only the tasks of worldlab can be planned in the simulator itself, for example worldlab/Push-v0."
        )
    return dynamics.Simulator(env.spare(FUTURES))


def run_folder(name: str) -> tuple[Path, str]:
    """The folder that a policy is loaded from, and how it is used: ("runs/x", "plan.mppi") of "plan.mppi:runs/x"."""
    if name.startswith(RECORDED):
        store = Path(name.removeprefix(RECORDED))
        return store.parent, f"recorded.{store.stem}"
    if name.startswith((LEAN, COMPILED)):
        way, _, run = name.partition(":")
        return Path(run), way
    kind, _, run = name.partition(":")
    planned = kind.split(".")[0] == PLAN and run
    return (Path(run), kind) if planned else (Path(name.removeprefix(LEROBOT)), "")


def image_size(name: str) -> tuple[int, int] | None:
    """The (height, width) of the pictures that a policy looks at; None if at none, which is much cheaper."""
    if name.startswith(RECORDED):
        return None
    run = run_folder(name)[0]
    if not (run / "config.json").is_file():
        return PICTURE
    if name.startswith(LEROBOT):
        features = json.loads((run / "config.json").read_text(encoding="utf-8")).get("input_features") or {}
        shapes = [f["shape"] for f in features.values() if f.get("type") == "VISUAL"]
        return (int(shapes[0][-2]), int(shapes[0][-1])) if shapes else None
    described = Run.open(run).config
    model, spec = described.get("model"), described.get("spec")
    world = model.get("world", model) if isinstance(model, dict) else None
    if isinstance(world, dict) and world.get("sees") == "state":
        return None
    return (
        PICTURE
        if spec is None
        else next(iter(restored(TypeAdapter(Spec).validate_python, spec).cameras.values()), None)
    )


def num_envs_for(name: str, n: int, episodes: int) -> int:
    """How many of the episodes a policy can play at once, n at most: all waves of recorded ones must be full."""
    n = min(n, episodes)
    return next(k for k in range(n, 0, -1) if episodes % k == 0) if name.startswith(RECORDED) else n


class Recorded:
    """Does what was done in the recorded episode of the same seed: the behaviour that made a store, as a policy."""

    def __init__(self, store: datasets.EpisodeStore) -> None:
        self.store = store
        self._actions = torch.zeros(0, 1, len(store.spec.action))
        self._begun = False

    @property
    def spec(self) -> Spec:
        """That of the store, at whose pictures it does not look."""
        return replace(self.store.spec, cameras={})

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed.

        Raises:
            UsageError: no episode was recorded from one of these seeds.
        """
        known = self.store.seeds.tolist()
        for seed in seeds:
            if seed not in known:
                raise UsageError(
                    f"'{self.store.path}' holds no episode of seed {seed}; it holds {len(known)}, from seed "
                    f"{min(known, default=0)} to {max(known, default=0)}."
                )
        done = [self.store.read("action", [known.index(seed)])[:-1] for seed in seeds]
        longest = max(map(len, done), default=0)
        # The last action is held: a zero would send joints to where their angles are zero.
        self._actions = torch.stack([torch.cat([x, x[-1:].expand(longest - len(x), -1)]) for x in done])
        self._begun = False

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """All actions of each episode; once they are over, the last one again."""
        begun, self._begun = self._begun, True
        return self._actions[:, -1:] if begun else self._actions
