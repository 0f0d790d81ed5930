"""What would have happened? Imagined branches, scored against the simulator's own from the same saved state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from worldlab.errors import UsageError, unknown
from worldlab.eval.branches import WAYS, BranchStart, Episodes, actions_of, choose_starts, kinds_of
from worldlab.eval.branching import camera_of, follow, foresee, imagine, simulate
from worldlab.eval.pooling import ByHorizon, Measure
from worldlab.eval.positions import Compared, bodies_of
from worldlab.eval.scores import Branches, average, score
from worldlab.protocols import Displaceable, Environment, Policy, Restorable, WorldModel
from worldlab.runs import Json

EXAMPLES = 3
"""Start states of which videos are kept."""
SAMPLES = 4
"""Dreams of every branch, from which a model's own doubt is estimated."""
SIGHT = 0.001
"""How well the perfect model knows where objects are, metres: less than a quarter of a pixel of the arm's front
camera at 64 x 64."""


@dataclass(frozen=True)
class Example:
    """All branches of one start state, to look at."""

    kinds: tuple[str, ...]
    """What the actions of each branch are."""
    truth: UInt8[Tensor, "k t h w 3"]
    """What the simulator's first camera saw."""
    imagined: UInt8[Tensor, "k t h w 3"]
    """What the model drew."""

    def difference(self) -> UInt8[Tensor, "k t h w 3"]:
        """How far the drawn frames are off: black where they are right."""
        return (self.truth.int() - self.imagined.int()).abs().to(torch.uint8)

    def frames(self) -> NDArray[np.uint8]:
        """A video (t, 3 h, k w, 3) with one column per branch: truth above, dream below, difference beneath."""
        rows = (self.truth, self.imagined, self.difference())
        return torch.cat([torch.cat(list(videos), 2) for videos in rows], 1).numpy()


@dataclass(frozen=True, kw_only=True)
class CounterfactualResult:
    """What `counterfactual` measured, by horizon in steps, over the alternative branches of all start states.

    With x the positions of the gripper and of the objects, k an alternative branch, 0 the recorded one and ^ the dream:
    effect error = ‖(x̂ₖ - x̂₀) - (xₖ - x₀)‖ / ‖xₖ - x₀‖, each norm pooled over branches and start states. A model that
    ignores actions scores 1. Where the simulator tells of no positions (dm_control, Gymnasium), x is the observed
    state, each column in its standard deviations in the data (`compared` says which), and nothing is said of objects.

    The measures, by their names in JSON (`result["effect_error"].value[10]`):

    * effect_error; effect_error_object, of the objects alone, over pairs of branches in one of which an object has
      moved a centimetre; effect_error_recorded and copy_last, the same of the model fed the recorded actions in every
      branch and of the prediction that nothing moves: 1 by definition.
    * state_error_cm, the mean distance of gripper and objects from where they are; object_error_cm, of the objects in
      the pairs in which one has moved, most of which stay; displaced_error_cm, of the objects that have themselves
      moved in the alternative branch; object_error_rad, of the former's headings, modulo quarter turns;
      state_error_rad, of the joints, or, where the state is not that of joints, state_error_sd in standard deviations.
    * psnr and ssim of the first camera, on the pixels that move in some branch of the start state; PSNR is that of the
      pooled mean squared error.
    * reward_error, mean absolute.
    * Each of these three groups also for the model fed the recorded actions (`…_recorded`), for the prediction that
      nothing changes (`…_copy_last`) and for the mean of the training episodes (`…_dataset_mean`).
    * Effect errors and centimetres also of a perfect model with imperfect sight (`…_perfect_model`), where the
      simulator can put objects elsewhere: the simulator itself, from starts whose objects are `sight` metres aside.
    * rank_correlation, Spearman's, of the returns of a start state's branches; regret, by how much the return of the
      branch that the dream thinks best falls short of the best one's; regret_random, of a branch taken blindly, which
      is also that of the three predictions above, to which all branches are equal.
    * spread_skill, of sampled dreams: 1 where the model knows how far it is off, 0 where it has no doubt.
    """

    measures: Mapping[str, Measure]
    """By name."""
    effect_error_by_kind: dict[str, ByHorizon]
    """By what the actions of the branch are."""
    n_by_horizon: dict[int, int]
    """Those that count: neither the branch nor the recorded one has ended before that step."""
    n_moved: dict[int, int]
    """Those among them in which an object has moved."""
    starts: int
    horizon: int
    seed: int
    samples: int = SAMPLES
    """Dreams of every branch."""
    sight: float = SIGHT
    """Standard deviation, along x and along y, of where the perfect model is told that objects are, metres."""
    kinds: tuple[str, ...]
    """What the actions of each branch are."""
    compared: Literal["positions", "state"]
    """What x is in the effect error."""
    fps: int
    """Control steps a second."""
    examples: tuple[Example, ...] = field(repr=False)
    """The first start states, to look at."""

    @property
    def branches(self) -> int:
        """Of each start state, the recorded one included."""
        return len(self.kinds)

    @property
    def n(self) -> int:
        """Alternative branches of all start states."""
        return self.starts * (self.branches - 1)

    def __getitem__(self, name: str) -> Measure:
        """A measure by its name."""
        return self.measures[name]

    def to_json(self) -> dict[str, Json]:
        """All but the examples; horizons become strings. Of measure m: m, m_interval, m_n and m_episodes."""
        values: dict[str, Json] = {"n": self.n, "branches": self.branches}
        for name, measure in self.measures.items():
            values |= {name: _json(measure.value), f"{name}_interval": _json(measure.interval)}
            values |= {f"{name}_n": _json(measure.n), f"{name}_episodes": _json(measure.episodes)}
        apart = ("measures", "examples")
        return values | {name: _json(value) for name, value in vars(self).items() if name not in apart}


def counterfactual[S](
    model: WorldModel[S],
    store: Episodes,
    env: Environment,
    *,
    branches: int | Sequence[str] = 8,
    others: Mapping[str, Policy | Float[Tensor, "t a"]] | None = None,
    horizon: int = 20,
    episodes: Sequence[int] | None = None,
    starts: int = 64,
    seed: int = 0,
) -> CounterfactualResult:
    """Branch recorded episodes in the simulator and in the model, by the same actions.

    Branch 0 is the recorded actions. A finished environment stands still while a dream goes on, so a pair of branches
    counts at a step only if, in the simulator, neither of the two had ended before it (`n_by_horizon` says how many).

    Args:
        model: fills `privileged` in what it imagines, where the simulator knows positions; see
            `worldlab.eval.fit_probe` for one that does not.
        store: recorded episodes, with `physics`.
        env: the simulator that made them.
        branches: how many per start state, the recorded one included; or what the others do, by the names of
            `worldlab.eval.branches.actions_of` and of `others`.
        others: policies that act in the simulator from each start state, and actions that are the same in all.
        horizon: steps of each branch.
        episodes: the held-out ones; None means that all are. What the data look like on average is taken from the rest.
        starts: number of start states, drawn from the episodes in turn.
        seed: of the start states, of the branches and of the model's own randomness.

    Raises:
        UsageError: the model, the store and the simulator do not fit together, or a size is too small.
    """
    kinds, bodies = _kinds(branches, others or {}), _agree(model, env)
    if len(kinds) < 2 or horizon < 1 or starts < 1:
        raise UsageError(f"need at least 2 branches, 1 step and 1 start; got {len(kinds)}, {horizon} and {starts}.")
    held = range(len(store)) if episodes is None else episodes
    begun = choose_starts(store, held, starts, horizon, seed)
    given = {name: _given(name, other, env, begun, horizon, seed) for name, other in (others or {}).items()}
    actions = torch.stack([actions_of(i, begun, kinds, horizon, env.contract, seed, given) for i in range(starts)])
    truth = simulate(env, begun, actions)
    mean = average(store, [i for i in range(len(store)) if i not in held] or held, seed)
    compared = Compared(bodies, mean.deviation)
    dream, samples = imagine(model, begun, actions, seed, SAMPLES, compared)
    perfect = foresee(env, begun, actions, SIGHT, seed) if bodies and isinstance(env, Displaceable) else None
    measured = Branches(begun, truth, dream, samples, mean, env.contract, model.spec, store.spec, compared, perfect)
    measures, by_kind, pairs, moved = score(measured, kinds)
    return CounterfactualResult(
        measures=measures,
        effect_error_by_kind=by_kind,
        n_by_horizon=pairs,
        n_moved=moved,
        starts=starts,
        horizon=horizon,
        seed=seed,
        kinds=kinds,
        compared="positions" if bodies else "state",
        fps=env.contract.fps,
        examples=tuple(_example(measured, kinds, s) for s in range(min(EXAMPLES, starts)) if env.contract.cameras),
    )


def _kinds(branches: int | Sequence[str], others: Mapping[str, Policy | Float[Tensor, "t a"]]) -> tuple[str, ...]:
    """What the actions of each branch are, the recorded one first."""
    if isinstance(branches, int):
        return (*kinds_of(branches), *others)
    for name in branches:
        if name not in WAYS and name not in others:
            raise unknown("way to branch", name, (*WAYS, *others))
    return ("recorded", *branches)


def _agree[S](model: WorldModel[S], env: Environment) -> tuple[str, ...]:
    """The bodies whose places are compared; none where the simulator tells of none, and the state is compared.

    Raises:
        UsageError: the model and the environment do not fit together, or the model does not tell of all bodies.
    """
    if not isinstance(env, Restorable):
        raise UsageError("this environment cannot be restored to a saved state, so there is no truth to compare with.")
    model.spec.check(env.contract, ("world model", "environment"))
    bodies = bodies_of(env.contract)
    if not set(bodies) <= set(bodies_of(model.spec)):
        known = ", ".join(bodies)
        raise UsageError(f"the positions that the simulator knows ({known}) are not all imagined by the world model.")
    return bodies


def _given(
    name: str,
    other: Policy | Float[Tensor, "rows a"],
    env: Environment,
    begun: Sequence[BranchStart],
    horizon: int,
    seed: int,
) -> Float[Tensor, "s t a"]:
    """What a policy does from each start, or the same actions for all.

    Raises:
        UsageError: there are too few actions, or they have another width than the environment's.
    """
    if not isinstance(other, Tensor):
        return follow(env, begun, other, horizon, seed)
    width = len(env.contract.action)
    if len(other) < horizon or other.shape[1] != width:
        raise UsageError(
            f"the actions '{name}' have shape {tuple(other.shape)}; needed at least {horizon} rows of {width}."
        )
    return other[:horizon].float().expand(len(begun), -1, -1)


def _example(b: Branches, kinds: tuple[str, ...], s: int) -> Example:
    camera = camera_of(b.spec)
    assert camera is not None
    return Example(kinds, b.truth.obs.images[camera][s].clone(), b.dream.obs.images[camera][s].clone())


def _json(value: object) -> Json:
    """Horizons become strings, and what could not be measured, or is infinite (the PSNR of no error), null."""
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_json(v) for v in value]
    assert isinstance(value, int | float | str)
    return None if isinstance(value, float) and not math.isfinite(value) else value
