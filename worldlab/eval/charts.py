"""Line charts as inline SVG whose colours and fonts are the page's own, in light and in dark."""

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

SERIES = 6
"""Number of distinct line colours, `--s0` … in the page's style sheet."""

# Matplotlib writes these colours, which nothing else uses; the page's variables take their places.
_INK, _LINE, _GRID = "#010101", "#020202", "#030303"
_PAGE = {_INK: "var(--ink-soft)", _LINE: "var(--line)", _GRID: "var(--grid)"} | {
    f"#0404{i:02x}": f"var(--s{i})" for i in range(SERIES)
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    x: tuple[float, ...] | tuple[int, ...]
    """Horizontal positions."""
    y: tuple[float, ...]
    """The estimate at each position."""
    n: int
    """The fewest independent cases behind a point."""
    low: tuple[float, ...] | None = None
    """Lower end of each point's 95 % interval."""
    high: tuple[float, ...] | None = None
    """Upper end."""
    dashed: bool = False
    """Set a baseline apart from what is measured."""


def line_chart(
    curves: tuple[Curve, ...],
    x_label: str,
    y_label: str,
    reference: tuple[float, str] | None,
    size: tuple[float, float],
) -> str:
    """The curves as an SVG element.

    Args:
        curves: line i takes the page's colour i.
        x_label: with its unit.
        y_label: with its unit.
        reference: a value to mark with a horizontal line, and what it means.
        size: width and height in inches; letters are 9.5 points.
    """
    from matplotlib.figure import Figure

    with _quiet_axes():
        figure = Figure(size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0, pad=5)
        axes.set_axisbelow(True)
        for i, curve in enumerate(curves):
            colour = f"#0404{i % SERIES:02x}"
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.14, linewidth=0)
            axes.plot(
                curve.x, curve.y, color=colour, linewidth=2, linestyle="--" if curve.dashed else "-", marker="o", ms=4
            )
        if reference is not None:
            value, meaning = reference
            axes.axhline(value, color=_INK, linewidth=1, linestyle=":")
            axes.annotate(meaning, (1, value), (0, 4), ("axes fraction", "data"), "offset points", ha="right")
        axes.set_xlabel(x_label, labelpad=6)
        axes.set_ylabel(y_label, labelpad=8)
        axes.set_ylim(0, None)
        ticks = np.unique(np.concatenate([curve.x for curve in curves]))
        if len(ticks) <= 8:
            axes.set_xticks(ticks)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _page_style(out.getvalue())


def _quiet_axes() -> AbstractContextManager[None]:
    """Matplotlib's settings for axes that leave the eye to the lines."""
    from matplotlib import rc_context

    return rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "worldlab",
            "font.size": 9.5,
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _LINE,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "grid.color": _GRID,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
        }
    )


def _page_style(svg: str) -> str:
    """Cut the SVG element out of its file and let the page decide its colours, font and size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for colour, variable in _PAGE.items():
        svg = svg.replace(colour, variable)
    return svg
