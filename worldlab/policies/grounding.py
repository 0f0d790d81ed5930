"""Which object does the instruction name, and where is it? A softmax over patches, trained on the simulator's labels.

Imitation alone leaves a small policy reaching for any cube. Asking it to point at the named one, and handing the point
to the action head, is what makes language matter. A share of the rows asks for another object that is present, so that
a scene cannot be memorised together with its target.
"""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldlab.trajectory import Spec


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """The pointing task."""

    weight: float = 1.0
    """Weight of its loss; 0 removes the pointing and the point from the model (the ablation)."""
    relabel: float = 0.25
    """Share of rows whose instruction is changed to another object that is present; they train the pointing alone."""
    camera: str = "front"
    """Where to point."""


@dataclass(frozen=True)
class Pointing:
    """A batch's instructions and where what they name is."""

    task: tuple[str, ...]
    point: Float[Tensor, "b 2"]
    """(u, v) of the named object in the image, 0 to 1 from the top left."""
    known: Bool[Tensor, " b"]
    """Whether the object is labelled and inside the image."""
    changed: Bool[Tensor, " b"]
    """Whether the instruction was relabelled, so that the recorded actions do not follow it."""


class Labels:
    """Reads the named object's pixel out of `Trajectory.privileged`."""

    def __init__(self, spec: Spec, camera: str) -> None:
        """Find the columns "<colour>_cube.<camera>.u" and their like."""
        pattern = re.compile(rf"(\w+)_cube\.{re.escape(camera)}\.u")
        self.colours = tuple(m[1] for name in spec.privileged if (m := pattern.fullmatch(name)))
        index = {name: i for i, name in enumerate(spec.privileged)}

        def column(suffix: str) -> Tensor:
            return torch.tensor([index[f"{colour}_cube.{suffix}"] for colour in self.colours], dtype=torch.long)

        self.u, self.v = column(f"{camera}.u"), column(f"{camera}.v")
        self.present, self.target = column("present"), column("target")

    def draw(self, task: tuple[str, ...], privileged: Float[Tensor, "b z"], share: float) -> Pointing:
        """The labels of a batch, a random share of it relabelled to another present object."""
        target = privileged[:, self.target]
        chosen = target.argmax(-1)
        others = (privileged[:, self.present] > 0.5) & (target < 0.5)
        changed = (torch.rand(len(task), device=privileged.device) < share) & others.any(-1) & (target > 0.5).any(-1)
        other = (others + 1e-9).float().multinomial(1)[:, 0]
        wanted = torch.where(changed, other, chosen)
        point = torch.stack([privileged[:, c].gather(1, wanted[:, None])[:, 0] for c in (self.u, self.v)], -1)
        inside = ((point >= 0) & (point <= 1)).all(-1)
        renamed = tuple(
            rename(text, self.colours[before], self.colours[after]) if change else text
            for text, before, after, change in zip(
                task, chosen.tolist(), wanted.tolist(), changed.tolist(), strict=True
            )
        )
        return Pointing(renamed, point, inside & (target > 0.5).any(-1), changed)


def rename(text: str, before: str, after: str) -> str:
    """Exchange two words of an instruction."""
    swap = {before: after, after: before}
    return re.sub(rf"\b({re.escape(before)}|{re.escape(after)})\b", lambda m: swap[m[1]], text)


class Grounding(nn.Module):
    """Points at what the instruction names."""

    centres: Tensor
    cells: Tensor

    def __init__(self, words: int, features: int, centres: Float[Tensor, "m 2"]) -> None:
        """`words` and `features` are the widths of `Prefix.words` and `Prefix.map`.

        `centres` are the places (u, v) of the features, a whole grid in any order.
        """
        super().__init__()
        self.query, self.key = nn.Linear(words, words), nn.Linear(features, words)
        cells = torch.tensor([len(centres[:, axis].unique()) for axis in (0, 1)])
        if cells.prod() != len(centres):
            raise ValueError(f"{len(centres)} centres are no grid of {' x '.join(map(str, cells.tolist()))}")
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("cells", cells, persistent=False)

    def forward(
        self, words: Float[Tensor, "b l d"], spoken: Bool[Tensor, "b l"], features: Float[Tensor, "b m e"]
    ) -> Float[Tensor, "b m"]:
        """Log-probability of each patch."""
        weight = spoken[..., None].to(words.dtype)
        query = self.query((words * weight).sum(1) / weight.sum(1).clamp(min=1))
        scores = (self.key(features) * query[:, None]).sum(-1) / query.shape[-1] ** 0.5
        return scores.float().log_softmax(-1)

    def point(self, logp: Float[Tensor, "b m"]) -> Float[Tensor, "b 2"]:
        """The expected (u, v)."""
        return logp.exp() @ self.centres

    def share(self, point: Float[Tensor, "b 2"]) -> Float[Tensor, "b m"]:
        """The bilinear weights of a point among the patch centres: the distribution whose mean is the point."""
        near = (1 - (point[:, None] - self.centres).abs() * self.cells).clamp(min=0).prod(-1)
        return near / near.sum(-1, keepdim=True).clamp(min=1e-6)

    def loss(self, logp: Float[Tensor, "b m"], labels: Pointing) -> tuple[Tensor, Tensor]:
        """Cross entropy plus L1 in patches, and the L1 error in image widths, over the rows with a label."""
        rows = labels.known.to(logp.dtype)
        point = torch.minimum(torch.maximum(labels.point, 0.5 / self.cells), 1 - 0.5 / self.cells)
        entropy = -(self.share(point) * logp).sum(-1)
        error = (self.point(logp) - point).abs()
        n = rows.sum().clamp(min=1)
        total = entropy + (self.cells * error).mean(-1)
        return (rows * total).sum() / n, (rows * error.mean(-1)).sum() / n
