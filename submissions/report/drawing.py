"""Draws charts as SVG: text stays text, and colours are the page's own, in light and in dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from submissions.report.charts import Chart, Heat, Lines, Points, Ranges
from submissions.report.painters import COLOURS, INK, LINE, MUTED, PAINTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = 3.4
WIDTH = 4.8  # inches of 72 units; the page shows it at 340 to 600 pixels, so that 9 units stay readable on a phone
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # a class may be called `$a$`
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderpad": 0,
    "legend.handlelength": 1.2,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.formatter.useoffset": False,
}


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element with its words for screen readers; the same chart is the same text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": chart.key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's fonts know more letters than matplotlib's
        figure = Figure(figsize=_size(chart), layout="constrained")
        axes = figure.subplots()
        painter: Callable[[Any, Any], None] = PAINTERS[type(chart)]
        painter(axes, chart)
        return _as_element(figure, chart)


def _size(chart: Chart) -> tuple[float, float]:
    """Width and height in inches: lying bars need a line each, a square needs its side."""
    if isinstance(chart, Ranges):
        return WIDTH, 0.75 + 0.27 * len(chart.labels)
    if isinstance(chart, Heat):
        return WIDTH, min(WIDTH, 1.0 + 0.42 * len(chart.labels))
    if isinstance(chart, Lines) and chart.is_small:
        return SMALL, SMALL * 0.66
    return WIDTH, WIDTH * (0.82 if isinstance(chart, Points) and chart.has_diagonal else 0.52)


def _as_element(figure: Figure, chart: Chart) -> str:
    """matplotlib's file as an element of a page: no head, and no ids but those that are referred to."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(rf' id="(?!{re.escape(chart.key)}-|[mpCi][0-9a-f]{{8,}})[^"]*"', "", body)
    body = re.sub(
        r"font: (?:(bold|700) )?([\d.]+)px [^;\"]*", lambda f: f"font: {f[1] or ''} {f[2]}px var(--font)", body
    )
    for colour, name in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body)
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg data-chart="{escape(chart.key)}" role="img" aria-label="{escape(chart.alt)}" '
        f'viewBox="0 0 {width:g} {height:.1f}" xmlns="http://www.w3.org/2000/svg">{body}'
    )
