"""Putting stores together that several writers filled, each its own."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldlab.datasets import header
from worldlab.datasets.files import Content
from worldlab.datasets.store import EpisodeStore
from worldlab.errors import UsageError


def merge(
    store: EpisodeStore, parts: Sequence[EpisodeStore], episodes: Sequence[tuple[int, int]] | None = None
) -> None:
    """Move the episodes of other stores into `store`: their files get a new place, and their content is not copied.

    All of them or none. A part that was merged before, and whose removal was interrupted, is only removed.

    Args:
        store: gets them after its own.
        parts: stores of the same kind in the same place (file system or bucket), which are gone afterwards.
        episodes: (part, episode) in the order in which they follow in `store`; None is all in their order. What is
            left out is lost.

    Raises:
        UsageError: a part is of another kind, is being written, or is somewhere else.
    """
    store.become_writer()
    for part in parts:
        part.become_writer()
        store.spec.check(part.spec, (f"'{store.path}'", f"'{part.path}'"))
    fresh = [i for i, part in enumerate(parts) if part.header.id not in store.header.merged and len(part)]
    if fresh:
        everything = [(i, episode) for i in fresh for episode in range(len(parts[i]))]
        chosen = [
            (fresh.index(i), episode) for i, episode in (everything if episodes is None else episodes) if i in fresh
        ]
        with store.writing():
            _adopt(store, [parts[i] for i in fresh], chosen)
    for part in reversed(parts):  # so that those that an interruption leaves are still found one after another
        part.close()
        part.files.delete(first=header.FILE)  # half removed it must not look like a damaged store


def _adopt(store: EpisodeStore, parts: Sequence[EpisodeStore], chosen: Sequence[tuple[int, int]]) -> None:
    """Give the files of parts a second name beyond the store's last row, and commit the chosen episodes."""
    layouts = store.layouts or parts[0].layouts
    for part in parts:
        if part.layouts != layouts:
            raise UsageError(f"'{part.path}' has other columns than '{store.path}', or stores them otherwise.")
    align = max(layout.shard for layout in layouts)
    end, tasks, tables = store.header.rows, dict.fromkeys(store.tasks), list[NDArray[np.int64]]()
    for part in parts:
        base = math.ceil(end / align) * align
        for layout in layouts:
            for k in range(math.ceil(part.header.rows / layout.shard)):
                if part.files.exists(layout.file(k)):  # a part that was itself merged from parts has gaps
                    store.files.adopt(layout.file(base // layout.shard + k), part.files, layout.file(k))
        tasks |= dict.fromkeys(part.tasks)
        number = np.array([list(tasks).index(task) for task in part.tasks])
        start, length, seed, task = part.table.T
        tables.append(np.stack([start + base, length, seed, number[task]], 1))
        end = base + part.header.rows
    content: Content = {}
    for column in store.define(layouts).values():
        content |= column.resized(end)
    table = np.array([tables[part][episode] for part, episode in chosen], np.int64).reshape(-1, 4)
    store.commit(content, table, tuple(tasks), end, tuple(part.header.id for part in parts))
