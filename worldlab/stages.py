"""What a stage bought: measured on episodes that it was not trained on, beside chance and closed eyes."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from worldlab import datasets
from worldlab.eval.rates import wilson
from worldlab.policies.captioning import Captioning
from worldlab.policies.captions import Question, questions
from worldlab.policies.contrastive import Contrastive, retrieved
from worldlab.policies.stage import equal
from worldlab.runs import Json, Run, to_json, write_atomically
from worldlab.trajectory import Trajectory

_BATCH = 64
"""Images of a batch, among whose captions the right one must be found."""


def measure(model: nn.Module, store: datasets.EpisodeStore, held: Sequence[int], run: Run) -> dict[str, Json]:
    """What a trained stage bought, left in its run as stage.json; nothing for a model that is no stage."""
    if not isinstance(model, Contrastive | Captioning):
        return {}
    values = evaluate_stage(model, store, held)
    write_atomically(run.path / "stage.json", json.dumps(values, indent=1))
    return values


def evaluate_stage(
    stage: Contrastive | Captioning, store: datasets.EpisodeStore, held: Sequence[int], batches: int = 8, seed: int = 0
) -> dict[str, Json]:
    """What the stage is for, on random frames of held-out episodes.

    contrastive: how often an image finds its caption among those of 64 frames, "chance" being that of a random one.
    align: nats per token of captions and how often a token is right, with images and with grey ones ("blind").
    instruct: how often the answer is right, with images, with grey ones, and by the commonest answer to the same
        question in as many frames of the episodes trained on ("majority"); also for each kind of question.
    """
    stage.eval()
    with torch.no_grad():
        if isinstance(stage, Contrastive):
            return _retrieval(stage, _frames(stage, store, held, batches, seed))
        if stage.config.kind == "align":
            return _captions(stage, _frames(stage, store, held, batches, seed))
        seen = sorted(set(range(len(store))) - set(held))
        common = _commonest(stage, _frames(stage, store, seen, batches, seed))
        return _answers(stage, _frames(stage, store, held, batches, seed), common)


def _frames(
    stage: Contrastive | Captioning, store: datasets.EpisodeStore, episodes: Sequence[int], batches: int, seed: int
) -> Iterator[Trajectory]:
    windows = datasets.Windows(store, length=1, batch=_BATCH, seed=seed, episodes=episodes)
    device = next(stage.parameters()).device
    return (windows[i].to(device) for i in range(batches))


def _blind(batch: Trajectory) -> Trajectory:
    grey = {name: torch.full_like(image, 128) for name, image in batch.obs.images.items()}
    return replace(batch, obs=replace(batch.obs, images=grey))


def _retrieval(stage: Contrastive, frames: Iterator[Trajectory]) -> dict[str, Json]:
    hits, chance, n = 0.0, 0.0, 0
    for batch in frames:
        captions = stage.captions(batch)
        match = torch.tensor(equal(captions), device=stage.scale.device)
        hits += float(retrieved(stage.texts(captions) @ stage.images(batch).T, match)) * len(captions)
        chance += float(match.float().mean()) * len(captions)
        n += len(captions)
    return {"retrieved": hits / n, "interval": to_json(wilson(round(hits), n)), "chance": chance / n, "n": n}


def _captions(stage: Captioning, frames: Iterator[Trajectory]) -> dict[str, Json]:
    sums = Counter[str]()
    n = 0
    for batch in frames:
        for name, shown in (("", batch), ("blind_", _blind(batch))):
            metrics = stage.loss(shown)[1]
            sums[f"{name}nats"] += float(metrics["tokens"])  # pyright: ignore[reportArgumentType]
            sums[f"{name}token_accuracy"] += float(metrics["token_accuracy"])  # pyright: ignore[reportArgumentType]
        n += 1
    return {**{name: total / n for name, total in sums.items()}, "n": n * _BATCH}


def _drawn(stage: Captioning, frames: Iterator[Trajectory]) -> Iterator[tuple[Trajectory, list[Question]]]:
    """Of each kind of question one for each frame, where it has any: the first in a random order."""
    for i, batch in enumerate(frames):
        generator = torch.Generator().manual_seed(i)
        asked = [questions(sight) for sight in stage.sights(batch)]
        for kind in sorted({kind for found in asked for kind in found}):
            rows = [row for row, found in enumerate(asked) if kind in found]
            choices = [asked[row][kind] for row in rows]
            chosen = [of[int(torch.randint(len(of), (), generator=generator))] for of in choices]
            index = torch.tensor(rows, device=batch.valid.device)
            obs = replace(batch.obs.map(lambda x, index=index: x[index]), task=tuple(batch.obs.task[r] for r in rows))
            yield replace(batch, obs=obs), chosen


def _commonest(stage: Captioning, frames: Iterator[Trajectory]) -> dict[str, str]:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, chosen in _drawn(stage, frames):
        for question in chosen:
            answers[question.text][question.answer] += 1
    return {text: counts.most_common(1)[0][0] for text, counts in answers.items()}


def _answers(stage: Captioning, frames: Iterator[Trajectory], common: Mapping[str, str]) -> dict[str, Json]:
    right: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for batch, chosen in _drawn(stage, frames):
        texts, answers = [q.text for q in chosen], [q.answer for q in chosen]
        count = right[chosen[0].kind]
        given[chosen[0].kind].update(answers)
        count["n"] += len(chosen)
        count["majority"] += sum(common.get(q.text) == q.answer for q in chosen)
        for name, shown in (("accuracy", batch), ("blind", _blind(batch))):
            logits, words, said = stage.forced(shown.obs.map(lambda x: x[:, 0]), texts, answers)
            count[name] += int(((logits.argmax(-1) == words) | ~said).all(-1).sum())
    total = sum(right.values(), Counter[str]())
    rates = ("accuracy", "blind", "majority")
    kinds = {k: {r: c[r] / c["n"] for r in rates} | {"n": c["n"], "answers": dict(given[k])} for k, c in right.items()}
    interval = to_json(wilson(total["accuracy"], total["n"]))
    return {
        **{r: total[r] / total["n"] for r in rates},
        "interval": interval,
        "n": total["n"],
        "kinds": to_json(kinds),
    }
