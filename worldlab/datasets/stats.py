"""Statistics of a store, which a model needs to scale its inputs and outputs."""

import numpy as np
import torch
from torch import Tensor

from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics


def statistics(store: EpisodeStore) -> Statistics:
    """Moments of state and privileged state over all rows, and of actions over the rows that have one.

    Raises:
        UsageError: the store holds no action yet.
    """
    if not (store.lengths > 1).any():
        raise UsageError(f"'{store.path}' holds no actions to take statistics of; collect episodes first.")
    stop = int((store.starts + store.lengths).max())
    seen = torch.zeros(stop, dtype=torch.bool)
    for start, length in zip(store.starts, store.lengths, strict=True):
        seen[start : start + length] = True
    acted = seen.clone()
    acted[torch.from_numpy(store.starts + np.maximum(store.lengths, 1) - 1)] = False

    def rows(column: str, which: Tensor) -> Moments:
        return Moments.of(store.read(column, 0, stop)[which])

    privileged = rows("privileged", seen) if "privileged" in store.columns else None
    return Statistics(rows("state", seen), rows("action", acted), privileged)
