"""What a model makes of windows of episodes, and how errors over them are counted."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Sightings:
    """What was seen of objects in windows, row by row."""

    read: Float[Tensor, "b t r"]
    """In each frame by itself."""
    mixed: Float[Tensor, "b t r"]
    """With what was predicted of it."""
    slots: Float[Tensor, "b t w"]
    """What is believed then, without gradient."""


@dataclass(frozen=True)
class Filtered:
    """What a model makes of a batch of windows, row by row."""

    belief: Float[Tensor, "b t d"]
    """After seeing each row."""
    prior: Float[Tensor, "b t z c"]
    """Probabilities of the latents before seeing the row."""
    posterior: Float[Tensor, "b t z c"]
    """And after."""
    pushed: Float[Tensor, "b t n"]
    """What was done before each row, as the recurrence takes it."""
    sightings: Sightings | None
    """Where objects are, with `slots`."""


def mean_of(error: Float[Tensor, "b t"], valid: Bool[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Over the valid rows."""
    return torch.where(valid, error, 0.0).sum() / valid.sum().clamp(min=1)


def windows_of(x: Shaped[Tensor, "b t *d"], horizon: int) -> Shaped[Tensor, "n k *d"]:
    """Every run of horizon + 1 rows."""
    return x.unfold(1, horizon + 1, 1).movedim(-1, 2).flatten(0, 1)


def _some_now(real: Bool[Tensor, " n"], count: int) -> Int[Tensor, " k"]:
    """Where some of those are that are real, at random."""
    at = torch.nonzero(real)[:, 0]
    return at[torch.randperm(len(at))[:count].to(at.device)]


# How many there are is not known to a compiler, and Inductor (PyTorch 2.11) fails where all are taken.
some_of: Callable[[Tensor, int], Tensor] = torch.compiler.disable()(_some_now)
