"""What would have happened? Imagined branches, scored against the simulator's own from the same saved state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.eval.branches import Episodes, Start, actions_of, choose_starts, kinds_of
from worldlab.protocols import Environment, Restorable, WorldModel
from worldlab.runs import Json
from worldlab.seeding import generator
from worldlab.trajectory import Spec, stack

HORIZONS = (1, 2, 5, 10, 20)
"""Steps at which dreams are compared."""
MOVED = 0.01
"""An object has moved when it is this far from where it was, metres."""
RESAMPLES = 1000
EXAMPLES = 3
"""Start states of which videos are kept."""

type ByHorizon = dict[int, float]
type Intervals = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Example:
    """All branches of one start state, to look at."""

    kinds: tuple[str, ...]
    """What the actions of each branch are."""
    truth: UInt8[Tensor, "k t h w 3"]
    """What the simulator's first camera saw."""
    imagined: UInt8[Tensor, "k t h w 3"]
    """What the model drew."""

    def frames(self) -> NDArray[np.uint8]:
        """A video (t, 2 h, k w, 3) with one column per branch: the truth above, the dream below."""
        return torch.cat([torch.cat(list(videos), 2) for videos in (self.truth, self.imagined)], 1).numpy()


@dataclass(frozen=True)
class CounterfactualResult:
    """Errors by horizon, in steps, over all alternative branches of all start states.

    With x the positions of the gripper and of the objects, k an alternative branch, 0 the recorded one and ^ the dream:
    effect error = ‖(x̂ₖ - x̂₀) - (xₖ - x₀)‖ / ‖xₖ - x₀‖, each norm pooled over branches and start states. A model that
    ignores actions scores 1. Intervals are 95 % percentile bootstraps over start states.
    """

    effect_error: ByHorizon
    effect_error_interval: Intervals
    effect_error_object: ByHorizon
    """Of the objects alone, over pairs of branches in one of which an object has moved a centimetre."""
    effect_error_object_interval: Intervals
    effect_error_recorded: ByHorizon
    """Of the same model fed the recorded actions in every branch: 1 by definition."""
    copy_last: ByHorizon
    """Effect error of the prediction that nothing moves: 1 by definition."""
    effect_error_by_kind: dict[str, ByHorizon]
    """By what the actions of the branch are."""
    state_error_cm: ByHorizon
    """Mean distance of a dreamt position from the true one, centimetres."""
    state_error_cm_interval: Intervals
    state_error_cm_recorded: ByHorizon
    state_error_cm_copy_last: ByHorizon
    object_error_cm: ByHorizon
    """The same for the objects alone, over the pairs in which one has moved."""
    object_error_cm_recorded: ByHorizon
    object_error_cm_copy_last: ByHorizon
    n: int
    """Alternative branches: (branches - 1) of each start state."""
    n_by_horizon: dict[int, int]
    """Those that count: neither the branch nor the recorded one has ended before that step."""
    n_moved: dict[int, int]
    """Those among them in which an object has moved."""
    starts: int
    branches: int
    horizon: int
    seed: int
    examples: tuple[Example, ...] = field(repr=False)
    """The first start states, to look at."""

    def to_json(self) -> dict[str, Json]:
        """All but the examples; horizons become strings."""
        return {name: _json(value) for name, value in vars(self).items() if name != "examples"}


def counterfactual[S](
    model: WorldModel[S],
    store: Episodes,
    env: Environment,
    *,
    branches: int = 8,
    horizon: int = 20,
    episodes: Sequence[int] | None = None,
    starts: int = 64,
    seed: int = 0,
) -> CounterfactualResult:
    """Branch recorded episodes in the simulator and in the model, by the same actions.

    Branch 0 is the recorded actions; the others hold still, replay another episode's motion from here, disturb the
    recorded one, or wander. A finished environment stands still while a dream goes on, so a pair of branches counts at
    a step only if, in the simulator, neither of the two had ended before it (`n_by_horizon` says how many count).

    Args:
        model: fills `privileged` in what it imagines.
        store: recorded episodes, with `physics`.
        env: the simulator that made them.
        branches: per start state, the recorded one included.
        horizon: steps of each branch.
        episodes: the held-out ones; None means that all are.
        starts: number of start states, drawn from the episodes in turn.
        seed: of the start states and of the branches.

    Raises:
        UsageError: the model, the store and the simulator do not fit together, or a size is too small.
    """
    if branches < 2 or horizon < 1 or starts < 1:
        raise UsageError(f"need at least 2 branches, 1 step and 1 start; got {branches}, {horizon} and {starts}.")
    if not isinstance(env, Restorable):
        raise UsageError("this environment cannot be restored to a saved state, so there is no truth to compare with.")
    model.spec.check(env.contract, ("world model", "environment"))
    bodies = _bodies(env.contract)
    if not bodies or not set(bodies) <= set(_bodies(model.spec)):
        known = ", ".join(bodies) or "nothing"
        raise UsageError(f"the positions that the simulator knows ({known}) are not all imagined by the world model.")
    begun = choose_starts(store, range(len(store)) if episodes is None else episodes, starts, horizon, seed)
    actions = torch.stack([actions_of(i, begun, branches, horizon, env.contract, seed) for i in range(starts)])
    truth, dream = _simulate(env, begun, actions), _imagine(model, begun, actions, seed)
    start = torch.stack([s.context.privileged[-1] for s in begun if s.context.privileged is not None])
    positions = _Positions(
        truth=_metres(truth.privileged, env.contract, bodies),
        dream=_metres(dream.privileged, model.spec, bodies),
        start=_metres(start, store.spec, bodies)[:, None, None],
        counts=truth.alive[..., None] & _present(start, store.spec, bodies)[:, None, None],
        objects=torch.tensor([body != "gripper" for body in bodies]),
    )
    kinds = kinds_of(branches)
    videos = zip(truth.frames, dream.frames, strict=True)
    return _score(positions, kinds, seed, tuple(Example(kinds, seen, drawn) for seen, drawn in videos))


def _bodies(spec: Spec) -> tuple[str, ...]:
    """The gripper and the objects: whatever has a position, but for the goal zone, which is a mark."""
    prefixes = [name.removesuffix(".x") for name in spec.privileged if name.endswith(".x")]
    return tuple(p for p in prefixes if p != "zone" and {f"{p}.y", f"{p}.z"} <= set(spec.privileged))


def _metres(privileged: Tensor, spec: Spec, bodies: Sequence[str]) -> Float[Tensor, "*b bodies 3"]:
    """The positions of the bodies."""
    columns = [spec.privileged.index(f"{body}.{axis}") for body in bodies for axis in "xyz"]
    return privileged[..., columns].double().unflatten(-1, (len(bodies), 3))


def _present(privileged: Float[Tensor, "s z"], spec: Spec, bodies: Sequence[str]) -> Bool[Tensor, "s bodies"]:
    """Which bodies are there at all."""
    names = [f"{body}.present" for body in bodies]
    there = [privileged[:, spec.privileged.index(n)] > 0.5 if n in spec.privileged else None for n in names]
    return torch.stack([torch.ones(len(privileged), dtype=torch.bool) if x is None else x for x in there], -1)


@dataclass(frozen=True)
class _Rolled:
    """What came of the actions; index t is after action t."""

    privileged: Float[Tensor, "s k t z"]
    alive: Bool[Tensor, "s k t"]
    """The branch had not ended before the action."""
    frames: UInt8[Tensor, "e k t h w 3"]
    """Of the first camera, for the first start states."""

    @classmethod
    def empty(cls, shape: tuple[int, int, int], spec: Spec) -> "_Rolled":
        """Room for (s, k, t)."""
        size = next(iter(spec.cameras.values()), (0, 0))
        return cls(
            torch.zeros(*shape, len(spec.privileged)),
            torch.ones(shape, dtype=torch.bool),
            torch.zeros(min(EXAMPLES, shape[0]), *shape[1:], *size, 3, dtype=torch.uint8),
        )


def _simulate(env: Environment, begun: Sequence[Start], actions: Float[Tensor, "s k t a"]) -> _Rolled:
    """Run every branch in the simulator, as many at once as it has environments."""
    assert isinstance(env, Restorable)
    starts, branches, horizon, _ = actions.shape
    rolled = _Rolled.empty((starts, branches, horizon), env.contract)
    camera = next((f"images.{name}" for name in env.contract.cameras), None)
    jobs = [(s, k) for s in range(starts) for k in range(branches)]
    env.reset(seed=0)
    for first in range(0, len(jobs), env.num_envs):
        wave = jobs[first : first + env.num_envs]
        # The last wave may be short; what its spare environments do is thrown away.
        full = wave + wave[:1] * (env.num_envs - len(wave))
        saved = [begun[s].context.physics for s, _ in full]
        env.restore(torch.stack([p[-1] for p in saved if p is not None]), tuple(begun[s].task for s, _ in full))
        running = np.ones(len(full), bool)
        for t in range(horizon):
            raw, _, terminated, truncated, info = env.step(torch.stack([actions[s, k, t] for s, k in full]).numpy())
            known = torch.as_tensor(np.array(info["privileged"], np.float32))
            for i, (s, k) in enumerate(wave):
                rolled.privileged[s, k, t], rolled.alive[s, k, t] = known[i], bool(running[i])
                if s < len(rolled.frames) and camera:
                    rolled.frames[s, k, t] = torch.tensor(raw[camera][i])
            running = running & ~(terminated | truncated)
    return rolled


def _imagine[S](model: WorldModel[S], begun: Sequence[Start], actions: Float[Tensor, "s k t a"], seed: int) -> _Rolled:
    """Dream every branch, those of one start state at once."""
    starts, branches, horizon, _ = actions.shape
    rolled = _Rolled.empty((starts, branches, horizon), model.spec)
    for s, start in enumerate(begun):
        belief = model.observe(stack([start.context] * branches))
        dream, _ = model.imagine(belief, actions[s], generator(seed, s))
        assert dream.privileged is not None
        rolled.privileged[s] = dream.privileged.cpu()
        if s < len(rolled.frames) and model.spec.cameras:
            rolled.frames[s] = dream.obs.images[next(iter(model.spec.cameras))].cpu()
    return rolled


@dataclass(frozen=True)
class _Positions:
    """Where everything was and was dreamt to be, metres; index t is after action t."""

    truth: Float[Tensor, "s k t bodies 3"]
    dream: Float[Tensor, "s k t bodies 3"]
    start: Float[Tensor, "s 1 1 bodies 3"]
    counts: Bool[Tensor, "s k t bodies"]
    """The branch had not ended, and the body is there."""
    objects: Bool[Tensor, " bodies"]
    """Which bodies are objects."""

    @property
    def pairs(self) -> Bool[Tensor, "s j t bodies"]:
        """Which bodies count in the comparison of each alternative with the recorded branch."""
        return self.counts[:, 1:] & self.counts[:, :1]

    @property
    def moved(self) -> Bool[Tensor, "s j t bodies"]:
        """The objects of the pairs in which an object has moved."""
        far = ((self.truth - self.start).norm(dim=-1) > MOVED) & self.counts & self.objects
        ever = far.any(-1).int().cummax(-1).values.bool()
        return self.pairs & self.objects & (ever[:, 1:] | ever[:, :1])[..., None]

    def effect(self, dream: Float[Tensor, "s k t bodies 3"], mask: Bool[Tensor, "s j t bodies"]) -> "_Pooled":
        """The effect error of a prediction over the pairs in the mask."""
        true, said = self.truth[:, 1:] - self.truth[:, :1], dream[:, 1:] - dream[:, :1]

        def energy(x: Float[Tensor, "s j t bodies 3"]) -> Float[Tensor, "s t"]:
            return (x.square().sum(-1) * mask).sum((1, 3))

        return _Pooled(energy(said - true), energy(true), root=True)

    def distance(self, dream: Float[Tensor, "s k t bodies 3"], mask: Bool[Tensor, "s j t bodies"]) -> "_Pooled":
        """The mean distance of a prediction from the truth in the alternative branches of the mask, centimetres."""
        off = 100 * (dream - self.truth).norm(dim=-1)[:, 1:]
        return _Pooled((off * mask).sum((1, 3)), mask.sum((1, 3)).double(), root=False)


@dataclass(frozen=True)
class _Pooled:
    """A ratio of sums over start states, by step."""

    numerator: Float[Tensor, "s t"]
    denominator: Float[Tensor, "s t"]
    root: bool
    """Whether the square root of the ratio is meant."""

    def ratio(self, times: Float[Tensor, "r s"]) -> Float[Tensor, "r t"]:
        """The pooled ratio with every start state counted so many times; nan where nothing counts."""
        ratio = (times @ self.numerator) / (times @ self.denominator)
        return ratio.sqrt() if self.root else ratio

    @property
    def value(self) -> ByHorizon:
        """At the horizons."""
        whole = self.ratio(torch.ones(1, len(self.numerator), dtype=torch.float64))[0].tolist()
        return {h: round(whole[h - 1], 4) for h in HORIZONS if h <= len(whole)}

    def interval(self, seed: int) -> Intervals:
        """95 % percentile bootstrap over start states, at the horizons."""
        n = len(self.numerator)
        drawn = torch.randint(n, (RESAMPLES, n), generator=generator(seed))
        times = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        low, high = self.ratio(times).nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0).tolist()
        return {h: (round(low[h - 1], 4), round(high[h - 1], 4)) for h in self.value}


def _score(p: _Positions, kinds: tuple[str, ...], seed: int, examples: tuple[Example, ...]) -> CounterfactualResult:
    """All errors of the dream and of the two predictions that need no model of the actions."""
    starts, branches, horizon = p.truth.shape[:3]
    recorded, still = p.dream[:, :1].expand_as(p.truth), p.start.expand_as(p.truth)
    pairs, moved = p.pairs, p.moved
    effect, effect_object, distance = p.effect(p.dream, pairs), p.effect(p.dream, moved), p.distance(p.dream, pairs)

    def of_kind(kind: str) -> ByHorizon:
        mine = torch.tensor([k == kind for k in kinds[1:]])[:, None, None]
        return p.effect(p.dream, pairs & mine).value

    def count(mask: Bool[Tensor, "s j t bodies"]) -> dict[int, int]:
        return {h: int(mask[:, :, h - 1].any(-1).sum()) for h in HORIZONS if h <= horizon}

    return CounterfactualResult(
        effect_error=effect.value,
        effect_error_interval=effect.interval(seed),
        effect_error_object=effect_object.value,
        effect_error_object_interval=effect_object.interval(seed),
        effect_error_recorded=p.effect(recorded, pairs).value,
        copy_last=p.effect(still, pairs).value,
        effect_error_by_kind={kind: of_kind(kind) for kind in dict.fromkeys(kinds[1:])},
        state_error_cm=distance.value,
        state_error_cm_interval=distance.interval(seed),
        state_error_cm_recorded=p.distance(recorded, pairs).value,
        state_error_cm_copy_last=p.distance(still, pairs).value,
        object_error_cm=p.distance(p.dream, moved).value,
        object_error_cm_recorded=p.distance(recorded, moved).value,
        object_error_cm_copy_last=p.distance(still, moved).value,
        n=starts * (branches - 1),
        n_by_horizon=count(pairs),
        n_moved=count(moved),
        starts=starts,
        branches=branches,
        horizon=horizon,
        seed=seed,
        examples=examples,
    )


def _json(value: object) -> Json:
    """Horizons become strings, and what could not be measured becomes null."""
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_json(v) for v in value]
    assert isinstance(value, int | float)
    return None if math.isnan(value) else value
