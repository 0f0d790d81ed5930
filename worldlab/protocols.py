"""The roles that meet in worldlab. Nothing inherits from them; having the methods is enough."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor, nn

from worldlab.trajectory import Observation, Spec, Trajectory

type Arrays = Mapping[str, NDArray[np.generic]]


@runtime_checkable
class Environment(Protocol):
    """What `rollout` needs of a `gymnasium.vector.VectorEnv` in lockstep (autoreset disabled).

    Observations are a dict with "state" and "images.<camera>"; `info` holds "task" (n strings), "success" (n,) and, in
    simulation, "privileged" (n, z), at reset and at every step. A finished environment stands still.
    """

    num_envs: int
    metadata: dict[str, object]

    @property
    def contract(self) -> Spec:
        """What a policy must agree with."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Arrays, dict[str, object]]:
        """Begin one episode per environment; environment i starts from seed + i."""
        ...

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Arrays, NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]]:
        """Observation, reward, terminated, truncated and info after actions of shape (n, a)."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Maps observations to chunks of actions."""

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed. Whatever is random in episode i is keyed by (seeds[i], step)."""
        ...

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """The next k >= 1 actions of each episode, in environment units; all k are executed.

        `obs` has one leading axis: row i is what the episode of `seeds[i]` shows now.
        """
        ...


@runtime_checkable
class WorldModel[S](Protocol):
    """Predicts what follows actions. `S` is its belief: opaque to callers, safe to keep and to reuse."""

    @property
    def spec(self) -> Spec:
        """The contract of the world that is imagined."""
        ...

    def observe(self, context: Trajectory) -> S:
        """The belief after seeing `context`, leading axes (b, t); its last valid row is the present."""
        ...

    def imagine(
        self, belief: S, action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, S]:
        """What follows each action, and the belief after the last.

        Row t of the result is the *consequence* of action[t]: the observation, reward, terminated and success after
        it. With one generator, `imagine(a1 a2)` equals `imagine(a1)` followed by `imagine(a2)`. Without one, nothing is
        drawn: the same belief and actions always give the same dream.
        """
        ...


@runtime_checkable
class Indexable(Protocol):
    """A belief of which rows can be taken, as planners do: a tensor, or a class with this method."""

    def __getitem__[B](self: B, index: Tensor, /) -> B:
        """The rows `index`, which may repeat."""
        ...


@runtime_checkable
class Sketching[S](Protocol):
    """A world model that can leave the pictures out of its dreams, which are most of their cost."""

    def sketch(
        self, belief: S, action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, S]:
        """`WorldModel.imagine` without images."""
        ...


@runtime_checkable
class Featured[S](Protocol):
    """A world model whose belief can be read off by a probe."""

    def features(self, belief: S) -> Float[Tensor, "b f"]:
        """What it believes, as a vector."""
        ...


@runtime_checkable
class Observable(Protocol):
    """An environment that can be looked at without acting."""

    def observe(self) -> tuple[Arrays, dict[str, object]]:
        """The present observation and info, as `Environment.step` returns them."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """An environment whose simulator can be saved and branched."""

    @property
    def physics(self) -> Float64[Tensor, "n p"]:
        """The simulator's whole integration state of each environment."""
        ...

    def restore(self, physics: Float64[Tensor, "n p"], task: tuple[str, ...]) -> None:
        """Continue from saved states with the given instructions, as if never left."""
        ...


@runtime_checkable
class Displaceable(Environment, Restorable, Protocol):
    """An environment whose saved states can be perturbed by small random displacements of its objects."""

    def displaced(self, physics: Float64[Tensor, "n p"], metres: float, seed: int) -> Float64[Tensor, "n p"]:
        """Saved states whose objects lie elsewhere along the table, by a normal distribution keyed by (seed, row)."""
        ...

    def spare(self, n: int) -> Environment:
        """So many more simulations of the same world, without cameras."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """Anything `worldlab.training.fit` can train (a `torch.nn.Module` with a loss)."""

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The scalar to minimise and what to log, for a batch with leading axes (b, t)."""
        ...


@runtime_checkable
class Compilable(Protocol):
    """A model that names the methods worth compiling for `--compile`; of any other model `loss` is compiled."""

    @property
    def compiles(self) -> Sequence[tuple[nn.Module, str]]:
        """Methods: (module, name)."""
        ...


@runtime_checkable
class Batches(Protocol):
    """A source of training batches, asked for in order.

    Batch i is a pure function of i, or of i and the model as it is then (`worldlab.online`); that makes resuming exact.
    """

    def __getitem__(self, step: int) -> Trajectory:
        """The batch of training step `step`, leading axes (b, t)."""
        ...
