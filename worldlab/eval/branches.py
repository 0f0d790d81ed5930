"""Where counterfactuals begin, and what is done in each branch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.seeding import generator
from worldlab.trajectory import Spec, Trajectory

CONTEXT = 8
"""Rows a model may look back on before it dreams."""
PERSISTENCE = 0.8
"""Correlation of a smooth disturbance from one control step to the next."""


@runtime_checkable
class Episodes(Protocol):
    """What is needed of a store: `worldlab.datasets.EpisodeStore`, or a list of episodes with a spec."""

    @property
    def spec(self) -> Spec:
        """What the episodes hold."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, episode: int, /) -> Trajectory:
        """One episode, leading axes (t,)."""
        ...


@dataclass(frozen=True)
class BranchStart:
    """A recorded moment."""

    context: Trajectory
    """The last rows up to it, leading axes (t,)."""
    actions: Float[Tensor, "t a"]
    """All actions of its episode."""
    row: int
    """Which row of the episode it is."""
    episode: int
    """Which of the store."""

    @property
    def task(self) -> str:
        """The instruction."""
        return self.context.obs.task[0]


def choose_starts(
    store: Episodes, episodes: Sequence[int], starts: int, horizon: int, seed: int
) -> tuple[BranchStart, ...]:
    """Random moments of the episodes in turn, with `horizon` recorded actions after them where an episode is so long.

    Raises:
        UsageError: there are no episodes, or they lack what it takes to restore the simulator.
    """
    if not episodes:
        raise UsageError("there are no episodes to branch from.")

    def begin(i: int) -> BranchStart:
        episode = store[episodes[i % len(episodes)]]
        if episode.physics is None:
            raise UsageError("the store holds no physics, so the simulator cannot be restored to its rows.")
        acted = len(episode.valid) - 1
        row = int(torch.randint(max(1, acted - horizon + 1), (), generator=generator(seed, i)))
        context = episode.rows(max(0, row + 1 - CONTEXT), row + 1)
        return BranchStart(context, episode.action[:acted], row, episodes[i % len(episodes)])

    return tuple(begin(i) for i in range(starts))


WAYS = ("hold", "zero", "shuffled", "perturbed", "random")
"""What a branch can do besides what was recorded, without being told; see `actions_of`."""


def kinds_of(branches: int) -> tuple[str, ...]:
    """What the actions of each branch are, where only their number is given."""
    alternatives = islice(cycle(("shuffled", "perturbed", "random")), max(0, branches - 2))
    return ("recorded", "hold", *alternatives)[:branches]


def actions_of(
    i: int,
    starts: Sequence[BranchStart],
    kinds: Sequence[str],
    horizon: int,
    spec: Spec,
    seed: int,
    given: Mapping[str, Float[Tensor, "s t a"]] | None = None,
) -> Float[Tensor, "k t a"]:
    """The actions of every branch from start state i, within the limits of `spec`.

    * recorded: what was done; after the episode's end, hold.
    * hold: the present joint targets for ever, or zero where an action is not a joint position.
    * zero: the action zero, which sends joints to where their angles are zero.
    * shuffled: what was done at a random time of another start's episode; joint targets move along from the present
      ones instead of jumping to another place.
    * perturbed: recorded plus smooth noise, which for joint targets adds up to a random walk.
    * random: the present targets plus such a walk of the size of the recorded motion; for other actions, smooth noise.
    * any other name: what `given` says, for every start state.
    """
    start, position = starts[i], spec.control == "joint_position"
    present = start.actions[start.row - 1] if start.row else start.context.obs.state[-1]
    still = present.clone() if position else torch.zeros(len(spec.action))
    everything = [torch.diff(s.actions, dim=0) if position else s.actions for s in starts]
    size = torch.cat(everything).square().mean(0).sqrt()

    def following(actions: Tensor, row: int, rest: Tensor) -> Tensor:
        rows = actions[row : row + horizon]
        return torch.cat([rows, rest.expand(horizon - len(rows), -1)])

    recorded = following(start.actions, start.row, start.actions[-1] if position else still)

    def shuffled(g: torch.Generator) -> Tensor:
        other = starts[(i + 1 + int(torch.randint(max(1, len(starts) - 1), (), generator=g))) % len(starts)].actions
        row = int(torch.randint(max(1, len(other) - horizon), (), generator=g))
        moves = following(other, row, other[-1] if position else still)
        return moves - other[row] + still if position else moves

    def noise(g: torch.Generator) -> Tensor:
        steps = size * _smooth(horizon, len(spec.action), g)
        return steps.cumsum(0) if position else steps

    ways: dict[str, Callable[[torch.Generator], Tensor]] = {
        "recorded": lambda g: recorded,
        "hold": lambda g: still.expand(horizon, -1),
        "zero": lambda g: torch.zeros_like(recorded),
        "shuffled": shuffled,
        "perturbed": lambda g: recorded + noise(g),
        "random": lambda g: still + noise(g),
    }
    told = given or {}
    branches = [told[kind][i] if kind in told else ways[kind](generator(seed, i, k)) for k, kind in enumerate(kinds)]
    return torch.clamp(torch.stack(branches), torch.tensor(spec.low), torch.tensor(spec.high))


def _smooth(steps: int, width: int, g: torch.Generator) -> Float[Tensor, "t a"]:
    """Unit-variance noise in which neighbouring steps are correlated (an AR(1) process)."""
    fresh = torch.randn(steps, width, generator=g)
    rows = [fresh[0]]
    for new in fresh[1:]:
        rows.append(PERSISTENCE * rows[-1] + (1 - PERSISTENCE**2) ** 0.5 * new)
    return torch.stack(rows)
