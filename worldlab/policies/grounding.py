"""What does the instruction name, and where is it? A softmax over patches, trained on the simulator's labels.

Imitation alone leaves a small policy reaching for any cube. Asking it to point at the named one, and handing the point
to the action head, is what makes language matter. A share of the rows asks for another object that is present, so that
a scene cannot be memorised together with its target. Where to bring it is pointed at too: at a second object that the
instruction names, or at the zone.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldlab.errors import UsageError
from worldlab.trajectory import Spec

Referent = Literal["first", "second", "zone"]
"""The object to be moved, another that the instruction names, the goal zone."""


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """The pointing task."""

    at: tuple[Referent, ...] = ("first",)
    """What to point at."""

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
    point: Float[Tensor, "b p 2"]
    """(u, v) of each thing that is pointed at, in the image, 0 to 1 from the top left."""
    known: Bool[Tensor, "b p"]
    """Whether it is labelled and inside the image."""
    changed: Bool[Tensor, " b"]
    """Whether the instruction was relabelled, so that the recorded actions do not follow it."""


class Labels:
    """Reads pixels out of `Trajectory.privileged`."""

    def __init__(self, spec: Spec, camera: str, at: tuple[Referent, ...] = ("first",)) -> None:
        """Find the columns "<colour>_cube.<camera>.u" and their like.

        Raises:
            UsageError: the zone is to be pointed at, and the data say where cubes are seen but not where the zone is.
        """
        pattern = re.compile(rf"(\w+)_cube\.{re.escape(camera)}\.u")
        self.colours = tuple(m[1] for name in spec.privileged if (m := pattern.fullmatch(name)))
        self.at = at
        index = {name: i for i, name in enumerate(spec.privileged)}

        def column(suffix: str) -> Tensor:
            return torch.tensor([index[f"{colour}_cube.{suffix}"] for colour in self.colours], dtype=torch.long)

        self.uv = torch.stack([column(f"{camera}.{axis}") for axis in "uv"], -1)
        self.present, self.target = column("present"), column("target")
        self.zone = [index[name] for axis in "uv" if (name := f"zone.{camera}.{axis}") in index]
        if "zone" in at and self.colours and not self.zone:
            raise UsageError(
                f"the policy is to point at the zone, and these data do not say where camera '{camera}' sees one; "
                "collect them again."
            )

    def draw(self, task: tuple[str, ...], privileged: Float[Tensor, "b z"], share: float) -> Pointing:
        """The labels of a batch, a random share of it relabelled to another present object."""
        target = privileged[:, self.target]
        chosen = target.argmax(-1)
        others = (privileged[:, self.present] > 0.5) & (target < 0.5)
        known = (target > 0.5).any(-1)
        changed = (torch.rand(len(task), device=privileged.device) < share) & others.any(-1) & known
        other = (others + 1e-9).float().multinomial(1)[:, 0]
        wanted = torch.where(changed, other, chosen)
        renamed = tuple(
            rename(text, self.colours[before], self.colours[after]) if change else text
            for text, before, after, change in zip(
                task, chosen.tolist(), wanted.tolist(), changed.tolist(), strict=True
            )
        )
        second, named = self._beside(renamed, wanted)
        seen: dict[Referent, tuple[Tensor, Tensor]] = {
            "first": (self._pixels(privileged, wanted), known),
            "second": (self._pixels(privileged, second), known & named),
            "zone": (privileged[:, self.zone], torch.ones_like(known)),
        }
        point = torch.stack([seen[name][0] for name in self.at], 1)
        labelled = torch.stack([seen[name][1] for name in self.at], 1)
        return Pointing(renamed, point, labelled & ((point >= 0) & (point <= 1)).all(-1), changed)

    def _pixels(self, privileged: Float[Tensor, "b z"], which: Int[Tensor, " b"]) -> Float[Tensor, "b 2"]:
        """(u, v) of one object of each row."""
        return privileged.gather(1, self.uv.to(which.device)[which])

    def _beside(self, task: tuple[str, ...], first: Int[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
        """The object that each instruction names beside the first, and whether it names one."""
        number = {colour: i for i, colour in enumerate(self.colours)}
        found: list[int] = []
        for text, one in zip(task, first.tolist(), strict=True):
            named = [number[word] for word in re.findall(r"\w+", text) if word in number]
            found.append(next((i for i in named if i != one), -1))
        second = first.new_tensor(found)
        return second.clamp(min=0), second >= 0


def rename(text: str, before: str, after: str) -> str:
    """Exchange two words of an instruction."""
    swap = {before: after, after: before}
    return re.sub(rf"\b({re.escape(before)}|{re.escape(after)})\b", lambda m: swap[m[1]], text)


class Grounding(nn.Module):
    """Points at what the instruction names."""

    centres: Tensor
    cells: Tensor

    def __init__(self, words: int, features: int, centres: Float[Tensor, "m 2"], points: int = 1) -> None:
        """`words` and `features` are the widths of `Prefix.words` and `Prefix.map`.

        `centres` are the places (u, v) of the features, a whole grid in any order; `points` are pointed at.
        """
        super().__init__()
        self.points = points
        self.query, self.key = nn.Linear(words, points * words), nn.Linear(features, words)
        cells = torch.tensor([len(centres[:, axis].unique()) for axis in (0, 1)])
        if cells.prod() != len(centres):
            raise ValueError(f"{len(centres)} centres are no grid of {' x '.join(map(str, cells.tolist()))}")
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("cells", cells, persistent=False)

    def forward(
        self, words: Float[Tensor, "b l d"], spoken: Bool[Tensor, "b l"], features: Float[Tensor, "b m e"]
    ) -> Float[Tensor, "b p m"]:
        """Log-probability of each patch."""
        weight = spoken[..., None].to(words.dtype)
        query = self.query((words * weight).sum(1) / weight.sum(1).clamp(min=1)).unflatten(-1, (self.points, -1))
        scores = (self.key(features)[:, None] * query[:, :, None]).sum(-1) / query.shape[-1] ** 0.5
        return scores.float().log_softmax(-1)

    def point(self, logp: Float[Tensor, "*b m"]) -> Float[Tensor, "*b 2"]:
        """The expected (u, v)."""
        return (logp.exp()[..., None] * self.centres).sum(-2)  # a product of matrices would be rounded to bf16

    def share(self, point: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b m"]:
        """The bilinear weights of a point among the patch centres: the distribution whose mean is the point."""
        near = (1 - (point[..., None, :] - self.centres).abs() * self.cells).clamp(min=0).prod(-1)
        return near / near.sum(-1, keepdim=True).clamp(min=1e-6)

    def loss(self, logp: Float[Tensor, "b p m"], labels: Pointing) -> tuple[Tensor, Tensor]:
        """Cross entropy plus L1 in patches, and the L1 error in image widths, over the points with a label."""
        rows = labels.known.to(logp.dtype)
        point = torch.minimum(torch.maximum(labels.point, 0.5 / self.cells), 1 - 0.5 / self.cells)
        entropy = -(self.share(point) * logp).sum(-1)
        error = (self.point(logp) - point).abs()
        n = rows.sum().clamp(min=1)
        total = entropy + (self.cells * error).mean(-1)
        return (rows * total).sum() / n, (rows * error.mean(-1)).sum() / n
