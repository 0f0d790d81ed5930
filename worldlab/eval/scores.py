"""All measures of a dream of branches, beside the predictions that it must beat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from worldlab.eval import pictures
from worldlab.eval.branches import BranchStart, Episodes
from worldlab.eval.branching import camera_of
from worldlab.eval.pooling import ByHorizon, Measure, Pooled, at_horizons, horizons
from worldlab.eval.positions import Compared, Positions, headings, informative, metres, present, turned
from worldlab.eval.ranking import rank_correlation, regret
from worldlab.seeding import generator
from worldlab.trajectory import Spec, Trajectory, stack

AVERAGED = 64
"""Episodes of which the mean is taken."""


@dataclass(frozen=True)
class Average:
    """What a row of the data looks like on average, one row."""

    frame: UInt8[Tensor, "1 h w 3"]
    """Of the first camera; of no size where there is none."""
    state: Float[Tensor, "1 s"]
    deviation: Float[Tensor, " s"]
    """Of the state, standard deviations."""
    reward: Float[Tensor, " 1"]
    privileged: Float[Tensor, "1 z"] | None


def average(store: Episodes, episodes: Sequence[int], seed: int) -> Average:
    """The mean of all rows of some episodes, drawn at random; of places, of the rows in which the body is there."""
    drawn = torch.randperm(len(episodes), generator=generator(seed))[:AVERAGED].tolist()
    rows = [store[episodes[i]] for i in drawn]
    camera, n = camera_of(store.spec), sum(len(t.valid) for t in rows)

    def mean(columns: Sequence[Tensor]) -> Tensor:
        return (torch.stack([x.double().sum(0) for x in columns]).sum(0) / n)[None]

    frames = [torch.zeros(len(t.valid), 0, 0, 3) if camera is None else t.obs.images[camera] for t in rows]
    known = [t.privileged for t in rows if t.privileged is not None]
    privileged = None
    if known:  # what is not there has no place
        told, there = torch.cat(known).double(), informative(torch.cat(known), store.spec)
        privileged = ((told * there).sum(0) / there.sum(0).clamp(min=1))[None]
    return Average(
        mean(frames).round().to(torch.uint8),
        mean([t.obs.state for t in rows]),
        torch.cat([t.obs.state for t in rows]).double().std(0, correction=0),
        mean([t.reward for t in rows]),
        privileged,
    )


@dataclass(frozen=True)
class Branches:
    """The same branches in truth and in a dream."""

    starts: tuple[BranchStart, ...]
    truth: Trajectory
    """Leading axes (s, k, t); row t is the consequence of action t."""
    dream: Trajectory
    """The same."""
    samples: Float[Tensor, "m s k t n d"]
    """What is compared, in several dreams."""
    mean: Average
    """Of the data."""
    spec: Spec
    """Of the environment."""
    imagined: Spec
    """Of the model."""
    recorded: Spec
    """Of the store."""
    compared: Compared
    perfect: Trajectory | None = None
    """What the simulator says from where objects are nearly; leading axes (s, k, t)."""

    @cached_property
    def begin(self) -> Trajectory:
        """The rows at the starts, leading axes (s, 1)."""
        return stack([s.context.rows(len(s.context.valid) - 1, len(s.context.valid)) for s in self.starts])

    @cached_property
    def positions(self) -> Positions:
        """Where everything really was."""
        truth = self.compared.of(self.truth, self.spec)
        there, objects = torch.ones(len(truth), truth.shape[-2], dtype=torch.bool), [False] * truth.shape[-2]
        if bodies := self.compared.bodies:
            assert self.begin.privileged is not None
            there = present(self.begin.privileged[:, 0], self.recorded, bodies)
            objects = [body != "gripper" for body in bodies]
        return Positions(
            truth=truth,
            start=self.compared.of(self.begin, self.recorded)[:, None],
            counts=self.truth.valid[..., None] & there[:, None, None],
            objects=torch.tensor(objects),
        )

    @cached_property
    def alive(self) -> Bool[Tensor, "s j t"]:
        """Alternative branches of which neither they nor the recorded one had ended."""
        return self.truth.valid[:, 1:] & self.truth.valid[:, :1]


type Scores = tuple[dict[str, Measure], dict[str, ByHorizon], dict[int, int], dict[int, int]]
"""Measures by name, effect error by kind of branch, and how many pairs of branches count, and count as moved."""


def score(b: Branches, kinds: tuple[str, ...]) -> Scores:
    """Everything that is measured."""
    episodes = [start.episode for start in b.starts]
    p, pairs, moved = b.positions, b.positions.pairs, b.positions.moved
    pooled = dict([*_effects(b), *_state(b), *_rewards(b), *_frames(b), *_ranks(b)])
    if b.compared.bodies:
        pooled |= dict(_places(b))
    dream = b.compared.of(b.dream, b.imagined)

    def of_kind(kind: str) -> ByHorizon:
        mine = torch.tensor([k == kind for k in kinds[1:]])[:, None, None]
        return p.effect(dream, pairs & mine).measure(episodes).value

    def count(mask: Bool[Tensor, "s j t bodies"]) -> dict[int, int]:
        return {h: int(mask[:, :, h - 1].any(-1).sum()) for h in horizons(mask.shape[2])}

    by_kind = {kind: of_kind(kind) for kind in dict.fromkeys(kinds[1:])}
    return {name: x.measure(episodes) for name, x in pooled.items()}, by_kind, count(pairs), count(moved)


def _predictions(dream: Tensor, last: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """The dream (s, k, t, ...), and what it must beat, by the ending of their names.

    Args:
        dream: of all branches.
        last: what there was at the starts, (s, ...).
        mean: of the data, (1, ...).
    """
    return {
        "": dream,
        "_recorded": dream[:, :1].expand_as(dream),
        "_copy_last": last[:, None, None].expand_as(dream),
        "_dataset_mean": mean[:, None, None].expand_as(dream),
    }


def _effects(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """The effect error, and the doubt of the model."""
    p, pairs = b.positions, b.positions.pairs
    dream = b.compared.of(b.dream, b.imagined)
    yield "effect_error", p.effect(dream, pairs)
    if p.objects.any():
        yield "effect_error_object", p.effect(dream, p.moved)
    yield "effect_error_recorded", p.effect(dream[:, :1].expand_as(dream), pairs)
    yield "copy_last", p.effect(p.start.expand_as(dream), pairs)
    if b.perfect is not None:
        perfect = b.compared.of(b.perfect, b.spec)
        yield "effect_error_perfect_model", p.effect(perfect, pairs)
        if p.objects.any():
            yield "effect_error_object_perfect_model", p.effect(perfect, p.moved)
    yield "spread_skill", p.spread_skill(b.samples, pairs)


def _places(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """Centimetres of all bodies and of moved objects, and radians of the latter."""
    p, pairs, moved, bodies = b.positions, b.positions.pairs, b.positions.moved, b.compared.bodies
    dream, truth, begin = (x.privileged for x in (b.dream, b.truth, b.begin))
    assert dream is not None
    assert truth is not None
    assert begin is not None
    assert b.mean.privileged is not None
    places, mean = metres(dream, b.imagined, bodies), metres(b.mean.privileged, b.recorded, bodies)
    beside = _predictions(places, p.start[:, 0, 0], mean)
    if b.perfect is not None:
        beside["_perfect_model"] = b.compared.of(b.perfect, b.spec)
    for name, said in beside.items():
        yield f"state_error_cm{name}", p.distance(said, pairs)
        yield f"object_error_cm{name}", p.distance(said, moved)
        yield f"displaced_error_cm{name}", p.distance(said, p.displaced)
    true = headings(truth, b.spec, bodies)
    first, mean = (headings(x, b.recorded, bodies) for x in (begin[:, 0], b.mean.privileged))
    for name, said in _predictions(headings(dream, b.imagined, bodies), first, mean).items():
        yield f"object_error_rad{name}", turned(said, true, moved)


def _state(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """The mean absolute error of the observed state: radians, where it is that of joints, else standard deviations."""
    arm = b.spec.control == "joint_position"
    true, dream, last, mean = (
        x if arm else b.compared.standard(x)
        for x in (b.truth.obs.state, b.dream.obs.state, b.begin.obs.state[:, 0], b.mean.state)
    )
    for name, said in _predictions(dream, last, mean).items():
        yield f"state_error_{'rad' if arm else 'sd'}{name}", _mean((said - true).abs().mean(-1), b.alive)


def _rewards(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """The mean absolute error of the reward; before the first action of an episode there was none."""
    last = torch.stack([s.context.reward[-2] if len(s.context.reward) > 1 else torch.zeros(()) for s in b.starts])
    for name, said in _predictions(b.dream.reward, last, b.mean.reward).items():
        yield f"reward_error{name}", _mean((said - b.truth.reward).abs(), b.alive)


def _mean(error: Float[Tensor, "s k t"], alive: Bool[Tensor, "s j t"]) -> Pooled:
    """The mean over alternative branches that count."""
    n = at_horizons(alive.sum(1).double())
    return Pooled(at_horizons((error[:, 1:] * alive).sum(1).double()), n, n)


def _frames(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """PSNR of the pooled squared error, and SSIM, where something moves."""
    camera = camera_of(b.spec)
    if camera is None:
        return
    at = [h - 1 for h in horizons(b.alive.shape[-1])]
    alive, size = b.alive[..., at], (len(b.starts), len(at))
    sums = {
        name: torch.zeros(2, *size, dtype=torch.float64) for name in ("", "_recorded", "_copy_last", "_dataset_mean")
    }
    pixels = torch.zeros(size, dtype=torch.float64)
    for s, start in enumerate(b.starts):
        true, first = b.truth.obs.images[camera][s], start.context.obs.images[camera][-1]
        mask = pictures.moving(true, first)
        true = true[:, at]
        pixels[s] = mask.sum() * alive[s].sum(0)
        dream = b.dream.obs.images[camera][s : s + 1, :, at]
        for name, said in _predictions(dream, first[None], b.mean.frame).items():
            for i, error in enumerate((pictures.squared_error, pictures.similarity)):
                sums[name][i, s] = (error(said[0, 1:], true[1:], mask) * alive[s]).sum(0)
    n = alive.sum(1).double()
    for name, (squares, similar) in sums.items():
        yield f"psnr{name}", Pooled(squares, pixels, n, "psnr", (-inf, inf))
        yield f"ssim{name}", Pooled(similar, pixels, n, limits=(-1.0, 1.0))


def _ranks(b: Branches) -> Iterator[tuple[str, Pooled]]:
    """Which branch is best, by the reward up to each step."""
    said, true = (at_horizons(t.absorbing_reward.cumsum(-1)) for t in (b.dream, b.truth))
    # A branch that the time limit cut off would have earned more, and nobody knows how much.
    cut = ~b.truth.valid & ~b.truth.terminated.int().cummax(-1).values.bool()
    known = at_horizons(~cut.any(1))
    yield "rank_correlation", rank_correlation(said, true, known)
    yield "regret", regret(said, true, known)
    yield "regret_random", regret(torch.zeros_like(said), true, known)
