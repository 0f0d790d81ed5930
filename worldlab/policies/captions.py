"""What there is to say about a picture, and to ask: texts written from the simulator's state, so that all are true.

A caption is a list of sentences. Each richness has all sentences of the one before it, so that what better labels buy
can be measured (recaptioning). A question has exactly one right answer: where two cubes are nearly level, or the
gripper is nearly as far from two of them, nothing is said and nothing asked. What is hidden behind the arm counts as
seen; what is outside the image does not.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import dist
from typing import Literal

from worldlab.trajectory import Spec

Richness = Literal["plain", "spatial", "dense"]
"""plain: which cubes there are; spatial: and which is left of which; dense: and which is below which, what the
gripper is nearest to, and what is held."""

LEVEL = 0.02
"""Cubes whose centres differ by less, in widths or heights of the image, are not told apart."""
NEAR = 0.01
"""The nearest cube must be nearer to the gripper than the next one by so much, metres."""
GRASP = 0.03
"""A held cube is this near to the gripper, and its centre this high above the table, metres."""

PROMPT = "describe the image"
"""What asks for a caption."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Cube:
    """One that can be seen."""

    colour: str
    u: float
    """Of its centre in the image, 0 to 1 from the left."""
    v: float
    """The same, from the top."""
    away: float | None = None
    """From the gripper, metres; None where the data does not say."""
    height: float | None = None
    """Of its centre above the table, metres; None where the data does not say."""

    @property
    def held(self) -> bool:
        """Whether it is between the fingertips and off the table."""
        return self.away is not None and self.height is not None and self.away < GRASP < self.height


@dataclass(frozen=True)
class Sight:
    """What can be seen."""

    cubes: tuple[Cube, ...]
    """Those inside the image, in the order of `colours`."""
    colours: tuple[str, ...]
    """All that there can be."""

    @property
    def measured(self) -> bool:
        """Whether it is known how far the gripper is from the cubes."""
        return all(cube.away is not None and cube.height is not None for cube in self.cubes)

    @property
    def nearest(self) -> Cube | None:
        """The cube next to the gripper, if there is one without a rival."""
        order = sorted((cube for cube in self.cubes if cube.away is not None), key=lambda cube: cube.away or 0.0)
        if not self.measured or not order:
            return None
        first, rest = order[0], order[1:]
        return first if not rest or (rest[0].away or 0.0) - (first.away or 0.0) > NEAR else None

    def across(self) -> list[Cube]:
        """From left to right."""
        return sorted(self.cubes, key=lambda cube: cube.u)

    def down(self) -> list[Cube]:
        """From the top of the image to its bottom."""
        return sorted(self.cubes, key=lambda cube: cube.v)


class SceneReader:
    """Reads a row of `Trajectory.privileged`."""

    def __init__(self, spec: Spec, camera: str) -> None:
        """Find the columns "<colour>_cube.<camera>.u" and their like; `colours` is empty where there are none."""
        self._column = {name: i for i, name in enumerate(spec.privileged)}
        self._camera = camera
        pattern = re.compile(rf"(\w+)_cube\.{re.escape(camera)}\.u")
        self.colours = tuple(m[1] for name in spec.privileged if (m := pattern.fullmatch(name)))

    def __call__(self, row: Sequence[float]) -> Sight:
        """What the row says can be seen."""
        return Sight(tuple(cube for c in self.colours if (cube := self._cube(row, c)) is not None), self.colours)

    def _cube(self, row: Sequence[float], colour: str) -> Cube | None:
        u, v = (row[self._column[f"{colour}_cube.{self._camera}.{axis}"]] for axis in "uv")
        if row[self._column[f"{colour}_cube.present"]] < 0.5 or not (0 <= u <= 1 and 0 <= v <= 1):
            return None
        if "gripper.x" not in self._column:
            return Cube(colour, u, v)
        place = [row[self._column[f"{colour}_cube.{axis}"]] for axis in "xyz"]
        gripper = [row[self._column[f"gripper.{axis}"]] for axis in "xyz"]
        return Cube(colour, u, v, dist(place, gripper), place[2])


def caption(sight: Sight, richness: Richness) -> str:
    """Every sentence of a richness, each with its full stop."""
    sentences = [_listing(sight)]
    if richness != "plain":
        across = sight.across()
        sentences += [f"{a.colour} is left of {b.colour} ." for a, b in itertools.pairwise(across) if b.u - a.u > LEVEL]
    if richness == "dense":
        down = sight.down()
        sentences += [f"{b.colour} is below {a.colour} ." for a, b in itertools.pairwise(down) if b.v - a.v > LEVEL]
        if (nearest := sight.nearest) is not None:
            sentences.append(f"the gripper is nearest to {nearest.colour} .")
        if sight.measured:
            sentences += [f"{cube.colour} is held ." for cube in sight.cubes if cube.held] or ["nothing is held ."]
    return " ".join(sentences)


def _listing(sight: Sight) -> str:
    named = [f"a {cube.colour} cube" for cube in sight.cubes]
    if not named:
        return "no cube ."
    return f"{' , '.join(named[:-1])} and {named[-1]} ." if len(named) > 1 else f"{named[0]} ."


@dataclass(frozen=True)
class Question:
    """A question with its only right answer, a single word."""

    kind: str
    text: str
    answer: str


def questions(sight: Sight) -> dict[str, list[Question]]:
    """Kind -> all questions of that kind that have one right answer."""
    asked = {kind: [Question(kind, *pair) for pair in ask(sight)] for kind, ask in _KINDS.items()}
    return {kind: found for kind, found in asked.items() if found}


def _there(sight: Sight) -> list[tuple[str, str]]:
    seen = {cube.colour for cube in sight.cubes}
    return [(f"is there a {colour} cube ?", _yes(colour in seen)) for colour in sight.colours]


def _count(sight: Sight) -> list[tuple[str, str]]:
    return [("how many cubes are there ?", NUMBERS[len(sight.cubes)])]


def _end(sight: Sight) -> list[tuple[str, str]]:
    across = sight.across()
    if len(across) < 2:
        return []
    left = [("which cube is leftmost ?", across[0].colour)] if across[1].u - across[0].u > LEVEL else []
    right = [("which cube is rightmost ?", across[-1].colour)] if across[-1].u - across[-2].u > LEVEL else []
    return left + right


def _neighbour(sight: Sight) -> list[tuple[str, str]]:
    """The cube just left of another, with none level with it."""
    across = sight.across()
    clear = [b.u - a.u > LEVEL for a, b in itertools.pairwise(across)]
    return [
        (f"which cube is just left of {across[i + 1].colour} ?", across[i].colour)
        for i in range(len(clear))
        if all(clear[max(i - 1, 0) : i + 1])
    ]


def _side(sight: Sight) -> list[tuple[str, str]]:
    return [
        (f"is {a.colour} left of {b.colour} ?", _yes(a.u < b.u))
        for a in sight.cubes
        for b in sight.cubes
        if a is not b and abs(a.u - b.u) > LEVEL
    ]


def _nearest(sight: Sight) -> list[tuple[str, str]]:
    nearest = sight.nearest
    return [] if nearest is None else [("which cube is the gripper nearest to ?", nearest.colour)]


def _held(sight: Sight) -> list[tuple[str, str]]:
    if not sight.measured:
        return []
    return [(f"is the {cube.colour} cube held ?", _yes(cube.held)) for cube in sight.cubes]


_KINDS: dict[str, Callable[[Sight], list[tuple[str, str]]]] = {
    "there": _there,
    "count": _count,
    "end": _end,
    "neighbour": _neighbour,
    "side": _side,
    "nearest": _nearest,
    "held": _held,
}


def _yes(said: bool) -> str:
    return "yes" if said else "no"


def prompts(colours: Sequence[str]) -> list[str]:
    """Every question that can be asked, and what asks for a caption."""
    texts = [PROMPT, "how many cubes are there ?", "which cube is leftmost ?", "which cube is rightmost ?"]
    texts.append("which cube is the gripper nearest to ?")
    for a in colours:
        texts += [f"is there a {a} cube ?", f"is the {a} cube held ?", f"which cube is just left of {a} ?"]
        texts += [f"is {a} left of {b} ?" for b in colours if b != a]
    return texts


def replies(colours: Sequence[str]) -> list[str]:
    """Texts with every word of all captions and answers, the longest caption among them."""
    places = [(i + 1) / (len(colours) + 1) for i in range(len(colours))]
    row = tuple(Cube(c, x, x, 1 + x, 0.0) for c, x in zip(colours, places, strict=True))
    full = Sight(row, tuple(colours))
    held = "".join(f"{c} is held . " for c in colours)
    return [caption(full, "dense"), caption(Sight((), tuple(colours)), "dense"), held, "yes no", " ".join(NUMBERS)]
