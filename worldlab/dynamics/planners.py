"""Planning: a policy that imagines many futures and does what begins the best one, then looks again.

The cross-entropy method (Rubinstein 1999; for control Chua et al. 2018) and model-predictive path integrals (Williams
et al. 2017), with smooth noise and a warm start (Pinneri et al. 2020, iCEM).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, override

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldlab.dynamics.objectives import Objective, mean_reward
from worldlab.errors import UsageError
from worldlab.protocols import Indexable, Observable, Restorable, Sketching, WorldModel
from worldlab.seeding import generator
from worldlab.trajectory import Observation, Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class Search:
    """What both methods have in common."""

    horizon: int = 10
    """Steps imagined."""
    candidates: int = 128
    """Futures imagined in each iteration, for each episode."""
    iterations: int = 3
    """At most, of imagining and drawing closer."""
    std_tolerance: float = 0.25
    """A search stops when its standard deviation has shrunk to this fraction of the first, in the mean over the plan;
    0 never stops it."""
    init_std: float | None = None
    """Standard deviation of the first iteration, in units of the action. None: for joint targets, `INIT_STEP_STD` from
    one step to the next; else half of the action's range."""
    noise_correlation: float = 0.7
    """Correlation of the noise from one step to the next: jitter moves an arm nowhere."""
    std_momentum: float = 0.3
    """How much of its old standard deviation an iteration keeps, so that the search does not close in before it has
    arrived."""
    context: int = 8
    """Rows that the model may look back on."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            UsageError: a size is not positive, or the noise would be the same at all steps.
        """
        if min(self.horizon, self.candidates, self.iterations, self.context) < 1 or not 0 <= self.noise_correlation < 1:
            raise UsageError(
                "a search needs at least 1 step, candidate, iteration and row of context, and a noise_correlation of "
                f"at least 0 and below 1; got {self}."
            )


@dataclass(frozen=True, kw_only=True)
class CEM(Search):
    """The cross-entropy method: the next candidates are drawn around the mean of the best, as far apart as they are."""

    elites: int = 16
    """How many are the best."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.elites <= self.candidates:
            raise UsageError(f"elites are some of the candidates; got {self.elites} of {self.candidates}.")

    def refit(
        self, moves: Float[Tensor, "b n t a"], score: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b t a"], Float[Tensor, "b t a"]]:
        """Mean and standard deviation of the best."""
        best = score.topk(self.elites, 1).indices[:, :, None, None].expand(-1, -1, *moves.shape[2:])
        elites = moves.gather(1, best)
        return elites.mean(1), elites.std(1, correction=0)


@dataclass(frozen=True, kw_only=True)
class MPPI(Search):
    """Model-predictive path integrals: every future counts, by the exponential of its score."""

    temperature: float = 0.3
    """In standard deviations of the scores of an iteration; the smaller, the more the best alone count."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UsageError(f"a temperature is above zero; got {self.temperature}.")

    def refit(
        self, moves: Float[Tensor, "b n t a"], score: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b t a"], Float[Tensor, "b t a"]]:
        """Weighted mean and standard deviation."""
        scale = self.temperature * score.std(1, keepdim=True, correction=0).clamp(min=1e-9)
        weight = torch.softmax(score / scale, 1)[:, :, None, None]
        mean = (weight * moves).sum(1)
        return mean, (weight * (moves - mean[:, None]).square()).sum(1).sqrt()


INIT_STEP_STD = 0.06
"""Radians that joint targets move by in a step, as a standard deviation, before anything is known."""
MAX_STEP = 0.12
"""The most that a joint target may move by in a step, radians: beyond it servos throw things about."""


@dataclass(frozen=True)
class Plan:
    """What a search came to."""

    action: Float[Tensor, "b t a"]
    """What the last iteration came to (the mean of its elites, of MPPI's weights), in environment units."""
    score: Float[Tensor, " b"]
    """What the objective says of it."""
    iterations: tuple[int, ...]
    """Iterations that each episode took."""


class Planner[S: Indexable]:
    """A policy that searches the model's imagination for the actions that the objective wants most.

    It executes the first action of the plan and plans again, from the rest of the plan on. All episodes and candidates
    are imagined in one batch. The noise of an episode is keyed by (its seed, step, iteration), and a model is asked
    without a generator, so that neither the other episodes nor their number change a plan.
    """

    def __init__(
        self,
        model: WorldModel[S],
        search: CEM | MPPI | None = None,
        objective: Objective = mean_reward,
        env: Observable | None = None,
    ) -> None:
        """A planner for what `model` imagines.

        Args:
            model: only sketches its dreams if it can.
            search: how; `CEM()` if None.
            objective: what is wanted of a dream.
            env: where the planner reads the privileged state or the physics, for a model that cannot do without. It
                is the environment that is acted in, and no such plan can be made outside a simulator.
        """
        self.model, self.search, self.objective, self.env = model, search or CEM(), objective, env
        self._imagine = model.sketch if isinstance(model, Sketching) else model.imagine
        self._low, self._high = torch.tensor(model.spec.low), torch.tensor(model.spec.high)
        self._targets = model.spec.joint_targets
        self.reset(())

    @property
    def spec(self) -> Spec:
        """The model's."""
        return self.model.spec

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed, with no plan and no past."""
        self._seeds, self._step = tuple(seeds), 0
        self._seen: list[_Seen] = []
        self._done: list[Tensor] = []
        self._plan: Tensor | None = None
        self.iterations: list[int] = []
        """Iterations that each plan took since then."""

    def act(self, obs: Observation) -> Float[Tensor, "b 1 a"]:
        """The first action of the best plan from here."""
        seen, over = self._look(obs)
        self._seen.append(seen)
        self._seen = self._seen[-self.search.context :]
        self._done = self._done[len(self._done) - len(self._seen) + 1 :]
        action = torch.zeros(len(over), self.search.horizon, len(self._low)) if self._plan is None else self._plan
        if going := [i for i, done in enumerate(over) if not done]:
            guess = None if self._plan is None else self._plan[going]
            plan = self.plan(self._context().pick(going), [self._seeds[i] for i in going], self._step, guess)
            self.iterations += plan.iterations
            action[going] = plan.action
        self._step += 1
        self._plan = torch.cat([action[:, 1:], action[:, -1:]], 1)
        self._done.append(action[:, 0])
        return action[:, :1]

    @torch.no_grad()
    def plan(
        self, context: Trajectory, seeds: Sequence[int], step: int = 0, guess: Float[Tensor, "b t a"] | None = None
    ) -> Plan:
        """Search for the best actions from the end of the contexts.

        Args:
            context: leading axes (b, t), as `WorldModel.observe` takes them.
            seeds: of each episode's noise.
            step: keys the noise together with the seed.
            guess: actions to search around first; None has no idea.
        """
        search, everyone = self.search, torch.arange(len(seeds))
        belief = self.model.observe(context)
        origin = context.obs.state[everyone, context.length - 1] if self._targets else None
        mean = self._first_moves(len(seeds), origin) if guess is None else self._moves(guess, origin)
        first = self._init_std().expand_as(mean)
        std, iterations, rows = first.clone(), torch.zeros(len(seeds), dtype=torch.long), everyone
        for number in range(search.iterations):
            here = None if origin is None else origin[rows]
            noise = torch.stack([self._noise(seeds[i], step, number) for i in rows.tolist()])
            moves = mean[rows, None] + std[rows, None] * noise
            moves[:, 0] = mean[rows]  # what was come to so far stays among the candidates
            actions = self._actions(moves, here)
            mean[rows], fitted = search.refit(self._moves(actions, here), self._scores(belief, rows, actions))
            std[rows] = torch.lerp(fitted, std[rows], search.std_momentum)
            iterations[rows] += 1
            rows = rows[(std[rows] / first[rows]).mean((1, 2)) > search.std_tolerance]
            if len(rows) == 0:
                break
        action = self._actions(mean, origin)
        return Plan(action, self._scores(belief, everyone, action[:, None])[:, 0], tuple(iterations.tolist()))

    def _scores(self, belief: S, rows: Int[Tensor, " b"], actions: Float[Tensor, "b n t a"]) -> Float[Tensor, "b n"]:
        """What the objective says of the candidates of some episodes."""
        n = actions.shape[1]
        dream, _ = self._imagine(belief[rows.repeat_interleave(n)], actions.flatten(0, 1))
        score = self.objective(dream).unflatten(0, (len(rows), n)).float().cpu()
        finite = score.isfinite()
        worst = torch.where(finite, score, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
        return torch.where(finite, score, worst)  # or what cannot be imagined would be the best

    def _first_moves(self, n: int, origin: Float[Tensor, "b a"] | None) -> Float[Tensor, "b t a"]:
        """What is searched around without a better guess: standing still, or the middle of the range."""
        middle = torch.zeros_like(self._low) if origin is not None else (self._low + self._high) / 2
        return middle.repeat(n, self.search.horizon, 1)

    def _noise(self, seed: int, step: int, number: int) -> Float[Tensor, "n t a"]:
        """Standard normal noise whose neighbouring steps are correlated."""
        shape = (self.search.candidates, self.search.horizon, len(self._low))
        apart = torch.arange(self.search.horizon).float()
        correlation = self.search.noise_correlation ** (apart[:, None] - apart).abs()
        return torch.linalg.cholesky(correlation) @ torch.randn(shape, generator=generator(seed, step, number))

    def _init_std(self) -> Float[Tensor, " a"]:
        """Standard deviation of the first iteration."""
        if self.search.init_std is not None:
            return torch.full_like(self._low, self.search.init_std)
        return torch.full_like(self._low, INIT_STEP_STD) if self._targets else (self._high - self._low) / 2

    def _actions(
        self, moves: Float[Tensor, "b *n t a"], origin: Float[Tensor, "b a"] | None
    ) -> Float[Tensor, "b *n t a"]:
        """Allowed actions: a joint target is where the joint is now and all moves up to then."""
        if origin is not None:
            moves = _beside(origin, moves) + moves.clamp(-MAX_STEP, MAX_STEP).cumsum(-2)
        return torch.clamp(moves, self._low, self._high)

    @staticmethod
    def _moves(action: Float[Tensor, "b *n t a"], origin: Float[Tensor, "b a"] | None) -> Float[Tensor, "b *n t a"]:
        """The inverse of `_actions`."""
        return action if origin is None else torch.diff(action, dim=-2, prepend=_beside(origin, action)[..., :1, :])

    def _look(self, obs: Observation) -> tuple["_Seen", Sequence[bool]]:
        """What is known of the present, and which episodes have succeeded, so that they need no plan."""
        if self.env is None:
            return _Seen(obs, None, None), [False] * len(obs.state)
        info = self.env.observe()[1]
        known = torch.as_tensor(np.array(info["privileged"], np.float32)) if "privileged" in info else None
        physics = self.env.physics if isinstance(self.env, Restorable) else None
        return _Seen(obs, known, physics), np.asarray(info["success"], bool).tolist()

    def _context(self) -> Trajectory:
        """What was seen and done last; the last row is the present, in which nothing has been done yet."""
        seen = [row.obs for row in self._seen]
        done = [*self._done, torch.zeros(len(self._seeds), len(self._low))]
        known = [row.privileged for row in self._seen if row.privileged is not None]
        physics = [row.physics for row in self._seen if row.physics is not None]
        blank = torch.zeros(len(self._seeds), len(seen))
        return Trajectory(
            obs=Observation(
                {name: torch.stack([o.images[name] for o in seen], 1) for name in seen[0].images},
                torch.stack([o.state for o in seen], 1),
                seen[-1].task,
            ),
            action=torch.stack(done, 1),
            reward=blank,
            terminated=blank.bool(),
            success=blank.bool(),
            valid=~blank.bool(),
            physics=torch.stack(physics, 1) if physics else None,
            privileged=torch.stack(known, 1) if known else None,
        )


class _Seen(NamedTuple):
    """A row of the past."""

    obs: Observation
    privileged: Tensor | None
    physics: Tensor | None


def _beside(origin: Float[Tensor, "b a"], moves: Float[Tensor, "b *n t a"]) -> Float[Tensor, "b *n t a"]:
    """The origin of every move."""
    return origin.reshape(len(origin), *[1] * (moves.ndim - 2), -1).expand_as(moves)
