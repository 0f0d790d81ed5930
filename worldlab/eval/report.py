"""One HTML file that shows what was found: no script, no request to anywhere, readable on a laptop and on a phone."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from worldlab.eval.charts import Curve, line_chart
from worldlab.eval.rates import Interval, wilson
from worldlab.runs import Json, write_atomically

type Cell = str | int | float | None


@dataclass(frozen=True)
class Fact:
    """A headline number."""

    value: str
    """As it is to be read: "97 %"."""
    label: str
    """What it is the value of."""
    detail: str = ""
    """Its n and interval."""


@dataclass(frozen=True)
class Title:
    """The head of the page."""

    kind: ClassVar = "title"
    title: str
    lead: str
    """What was done, in a few sentences."""
    facts: tuple[Fact, ...] = ()
    provenance: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """Who made this (`worldlab.runs.provenance`); printed at the foot of the page."""


@dataclass(frozen=True)
class Bar:
    """The success rate of one policy."""

    label: str
    successes: int
    n: int
    role: Literal["policy", "baseline", "control"] = "policy"
    """A baseline is there to be compared with; a control is the same policy with something taken away."""

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(self.successes, self.n)


@dataclass(frozen=True)
class SuccessBars:
    """Success rates with their intervals."""

    kind: ClassVar = "bars"
    title: str
    bars: tuple[Bar, ...]
    command: str
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines over a horizon or a severity, with intervals as bands."""

    kind: ClassVar = "curves"
    title: str
    curves: tuple[Curve, ...]
    x_label: str
    y_label: str
    command: str
    reference: tuple[float, str] | None = None
    """A value to mark, and what it means."""
    note: str = ""

    def svg(self, width: float, height: float) -> str:
        """The chart, in inches."""
        return line_chart(self.curves, self.x_label, self.y_label, self.reference, (width, height))


@dataclass(frozen=True)
class Video:
    """One video and what is to be seen in it."""

    caption: str
    mp4: bytes
    """From `worldlab.eval.video.encode`."""
    outcome: Literal["success", "failure"] | None = None

    @property
    def url(self) -> str:
        """The whole video as a data URL."""
        return "data:video/mp4;base64," + base64.b64encode(self.mp4).decode("ascii")


@dataclass(frozen=True)
class VideoStrip:
    """Videos beside each other, as many in a row as fit."""

    kind: ClassVar = "videos"
    title: str
    videos: tuple[Video, ...]
    command: str
    width: int = 140
    """Least width of a video on the page, in CSS pixels; four at most stand in a row."""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers."""

    kind: ClassVar = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    command: str
    note: str = ""


@dataclass(frozen=True)
class Note:
    """Paragraphs of text, parted by blank lines."""

    kind: ClassVar = "note"
    title: str
    text: str


type Section = Title | SuccessBars | Curves | VideoStrip | Table | Note


def write_report(sections: Sequence[Section], path: str | Path) -> Path:
    """Write the sections as one self-contained HTML file.

    Args:
        sections: in the order in which they are to be read; the title first.
        path: of the file; its folder is made if needed.

    Returns:
        The path.
    """
    import jinja2

    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page.filters |= {"cell": _cell, "percent": _percent}
    html = page.get_template("report.html.j2").render(sections=sections)
    write_atomically(Path(path), html)
    return Path(path)


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"
