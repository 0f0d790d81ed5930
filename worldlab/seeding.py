"""Randomness that depends on an episode and a step, never on the batch it happens to run in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def key(*parts: int) -> int:
    """A 63-bit seed from integers, stable across processes, platforms and versions.

    NumPy's `SeedSequence` mixes its entropy so that neighbouring keys give unrelated streams.
    """
    return int(np.random.SeedSequence([p % (1 << 32) for p in parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded by `key(*parts)`."""
    return torch.Generator().manual_seed(key(*parts))


def normal(seeds: Sequence[int], step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of shape (len(seeds), *shape): row i depends on (seeds[i], step) alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed, step)) for seed in seeds])


def uniform(seeds: Sequence[int], step: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform [0, 1) noise of shape (len(seeds), *shape): row i depends on (seeds[i], step) alone."""
    return torch.stack([torch.rand(shape, generator=generator(seed, step)) for seed in seeds])
