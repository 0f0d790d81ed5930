"""Statistics of a store, which a model needs to scale its inputs and outputs."""

import numpy as np
import torch

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
    episodes = np.flatnonzero(store.lengths)
    acted = torch.ones(int(store.lengths.sum()), dtype=torch.bool)
    acted[torch.from_numpy(np.cumsum(store.lengths[episodes]) - 1)] = False
    privileged = Moments.of(store.read("privileged", episodes)) if "privileged" in store.columns else None
    return Statistics(
        Moments.of(store.read("state", episodes)), Moments.of(store.read("action", episodes)[acted]), privileged
    )
