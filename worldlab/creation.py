"""An untrained model for a recipe and its data: fresh, or going on from an earlier run."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from worldlab import datasets, dynamics
from worldlab.envs.tasks import NAMES, TASKS
from worldlab.seeding import key
from worldlab.trajectory import concatenate

if TYPE_CHECKING:
    from worldlab.policies import Trained
    from worldlab.policies.captioning import Captioning
    from worldlab.policies.contrastive import Contrastive
    from worldlab.policies.inherit import InitRun
    from worldlab.presets import TrainConfig

_EXAMPLES = 4096
"""Windows from which a head learns its words."""


def create_model(
    config: "TrainConfig", store: datasets.EpisodeStore, seed: int, init_run: "InitRun | None" = None
) -> "Trained | Contrastive | Captioning | dynamics.StateModel | dynamics.RSSM | dynamics.Dreamer":
    """An untrained model for the recipe and the data, its trunk built as an earlier run's if there is one."""
    from worldlab import policies
    from worldlab.policies import stages
    from worldlab.policies.stage import StageConfig

    torch.manual_seed(key(seed))
    if isinstance(config.model, StageConfig):
        return stages.create(config.model, store.spec, [*store.tasks, *instructions()], init_run)
    statistics = datasets.statistics(store)
    if isinstance(config.model, dynamics.StateModelConfig | dynamics.RSSMConfig | dynamics.DreamerConfig):
        return dynamics.create(config.model, store.spec, statistics)
    examples = None
    if policies.needs_examples(config.model):
        known, _ = config.split(len(store))
        chunks = datasets.Windows(store, length=config.model.chunk, batch=64, observed=1, seed=seed, episodes=known)
        # Words are of actions alone: the pictures of so many windows would not fit into memory.
        parts = (chunks[i] for i in range(_EXAMPLES // chunks.batch))
        examples = concatenate([replace(part, obs=replace(part.obs, images={})) for part in parts])
    return policies.create(config.model, store.spec, statistics, store.tasks, examples, init_run)


def instructions() -> list[str]:
    """Every phrase of every task, with every cube: words that a stage must know for the tasks after it."""
    phrases = [phrase for task in TASKS.values() for phrase in task.phrases]
    return [phrase.format(name, name) for phrase in phrases for name in NAMES]
