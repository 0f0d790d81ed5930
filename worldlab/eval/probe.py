"""Reads the simulator's state off the belief of a model that was never told of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.eval.branches import CONTEXT, Episodes
from worldlab.eval.positions import informative
from worldlab.protocols import Featured, WorldModel
from worldlab.seeding import generator
from worldlab.trajectory import Spec, Trajectory, join, stack

ROWS = 2048
"""Moments of training episodes that a probe is fitted on."""
BATCH = 64
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Of ridge regression, as shares of the features' mean variance; the best on a quarter of the rows is taken."""


@dataclass(frozen=True)
class Probe:
    """A linear map from the features of a belief to privileged columns (Alain and Bengio 2016)."""

    names: tuple[str, ...]
    """Of the columns."""
    weight: Float[Tensor, "f z"]
    bias: Float[Tensor, " z"]
    n: int
    """Moments that it was fitted on."""

    def __call__(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b z"]:
        """The columns, in the simulator's units."""
        return features.cpu().float() @ self.weight + self.bias


class Probed[S]:
    """A world model that imagines privileged state because a probe reads it off its belief."""

    def __init__(self, model: WorldModel[S], probe: Probe) -> None:
        """The probe must have been fitted to this model."""
        assert isinstance(model, Featured)
        self.model, self.probe, self._features = model, probe, model.features

    @property
    def spec(self) -> Spec:
        """The model's, with the columns of the probe."""
        return replace(self.model.spec, privileged=self.probe.names)

    def observe(self, context: Trajectory) -> S:
        """The model's belief."""
        return self.model.observe(context)

    def imagine(
        self, belief: S, action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, S]:
        """The model's dream, step by step, each step with what the probe says of the belief."""
        steps: list[Trajectory] = []
        known: list[Tensor] = []
        for now in action.split(1, 1):
            step, belief = self.model.imagine(belief, now, generator)
            steps.append(step.to("cpu"))
            known.append(self.probe(self._features(belief)))
        return replace(join(steps), privileged=torch.stack(known, 1)), belief


def fit_probe[S](model: WorldModel[S], store: Episodes, episodes: Sequence[int], seed: int) -> Probed[S]:
    """A model with a probe, fitted by ridge regression on random moments of the episodes it was trained on.

    Raises:
        UsageError: the model shows no features, or the episodes hold no privileged state.
    """
    if not isinstance(model, Featured):
        raise UsageError("this world model shows no features that a probe could read.")
    features: list[Tensor] = []
    targets: list[Tensor] = []
    known: list[Tensor] = []
    for first in range(0, ROWS, BATCH):
        contexts = [_moment(store, episodes, seed, i) for i in range(first, first + BATCH)]
        if any(c.privileged is None for c in contexts):
            raise UsageError("the store holds no privileged state, so no probe can be fitted.")
        belief = model.observe(stack(contexts))
        features.append(model.features(belief).detach().cpu().double())
        told = torch.stack([c.privileged[-1] for c in contexts if c.privileged is not None])
        targets.append(told.double())
        known.append(informative(told, store.spec))
    names = tuple(name for name in store.spec.privileged if not name.startswith("expert."))
    x, y, said = (torch.cat(parts) for parts in (features, targets, known))
    return Probed(model, _fit(x, y[:, : len(names)], said[:, : len(names)], names))


def _fit(x: Float[Tensor, "n f"], y: Float[Tensor, "n z"], said: Bool[Tensor, "n z"], names: tuple[str, ...]) -> Probe:
    """A column is fitted on the moments that say anything of it, together with all that the same moments speak of."""
    weight, bias = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype), y.new_zeros(y.shape[1])
    for rows in torch.unique(said, dim=1).unbind(1):
        columns = (said == rows[:, None]).all(0)
        if rows.sum() > 1:
            weight[:, columns], bias[columns] = _ridge(x[rows], y[rows][:, columns])
    return Probe(names, weight.float(), bias.float(), len(x))


def _moment(store: Episodes, episodes: Sequence[int], seed: int, i: int) -> Trajectory:
    """The rows up to a random one."""
    g = generator(seed, i)
    episode = store[episodes[int(torch.randint(len(episodes), (), generator=g))]]
    row = int(torch.randint(len(episode.valid), (), generator=g))
    return episode.rows(max(0, row + 1 - CONTEXT), row + 1)


def _ridge(x: Float[Tensor, "n f"], y: Float[Tensor, "n z"]) -> tuple[Float[Tensor, "f z"], Float[Tensor, " z"]]:
    """Weight and bias of a ridge regression, its penalty chosen on the last quarter of the rows."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y, seen = x - mean_x, y - mean_y, 3 * len(x) // 4
    scale = x.square().mean() * len(x)

    def solve(rows: slice, penalty: float) -> Tensor:
        gram = x[rows].T @ x[rows] + penalty * scale * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(gram, x[rows].T @ y[rows])

    def error(penalty: float) -> float:
        return float((x[seen:] @ solve(slice(seen), penalty) - y[seen:]).square().mean())

    weight = solve(slice(None), min(PENALTIES, key=error))
    return weight, mean_y - mean_x @ weight
