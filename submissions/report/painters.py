"""Paints each kind of chart on matplotlib's axes; what shows a number is named, so that tests find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from submissions.report.charts import Bars, Heat, Lines, Points, Ranges, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What matplotlib is told, and what stands in the SVG instead: variables of the page's style.
INK, MUTED, LINE, ONE, TWO, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
COLOURS = {INK: "ink", MUTED: "muted", LINE: "line", ONE: "one", TWO: "two", PAPER: "paper"}
ROLES = {"train": TWO, "valid": ONE, "plain": ONE}
MOST_BARS = 300  # above so many a bar is thinner than a pixel: an outline says the same
WORD = 0.05  # of an axis: about what a short label takes
MOST_NAMES = 26  # labels that fit below standing bars


def _bars(axes: Axes, chart: Bars) -> None:
    places = np.arange(len(chart.labels))
    if len(places) <= MOST_BARS:
        for i, bar in enumerate(axes.bar(places, chart.values, width=0.78, color=ONE)):
            bar.set_gid(f"{chart.key}-{i}")
    else:
        axes.fill_between(places, chart.values, step="mid", color=ONE, linewidth=0)
    if chart.is_log:
        _log_axis(axes, "y")
        axes.set_ylim(bottom=max(0.5, min(value for value in chart.values if value > 0) / 2))
    axes.set_xlim(-0.8, len(places) - 0.2)
    every = 1 if len(places) <= MOST_NAMES else None
    is_long = sum(map(len, chart.labels)) > 60
    axes.set_xticks(places if every else [], chart.labels if every else [], rotation=90 if is_long else 0)
    axes.set(xlabel="" if every else f"{len(places):,} classes, rarest first", ylabel=chart.y_title)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _lines(axes: Axes, chart: Lines) -> None:
    from matplotlib.ticker import MaxNLocator

    if chart.has_diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    for i, one in enumerate(chart.series):
        _line(axes, one, gid=f"{chart.key}-{i}")
    for words, place in chart.marks:
        _mark(axes, words, place)
    if chart.is_log_x:
        _log_axis(axes, "x", subs=(1,))
    if all(value >= 0 for one in chart.series for value in one.y):
        axes.set_ylim(bottom=0)
    if chart.x_title == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title)
    axes.grid(axis="y")
    named = {one.name: one for one in chart.series}
    if len(named) > 1:
        axes.legend(
            handles=[_legend_line(one) for one in named.values()], loc="lower right" if chart.has_diagonal else "best"
        )


def _mark(axes: Axes, words: str, place: float) -> None:
    """An upright line with words at its top."""
    axes.axvline(place, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.annotate(
        words,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        color=MUTED,
        fontsize=8,
    )


def _line(axes: Axes, one: Series, *, gid: str) -> None:
    style: Any = "-" if one.role != "train" else (0, (4, 1.5))
    marker = "o" if len(one.x) <= 20 else None
    axes.plot(
        one.x,
        one.y,
        color=ROLES[one.role],
        linestyle=style,
        marker=marker,
        markersize=2.4,
        linewidth=1.1 if one.is_faint else 1.7,
        alpha=0.75 if one.is_faint else 1.0,
        gid=gid,
    )


def _legend_line(one: Series) -> Any:
    from matplotlib.lines import Line2D

    style: Any = "-" if one.role != "train" else (0, (4, 1.5))
    return Line2D([], [], color=ROLES[one.role], linestyle=style, linewidth=1.7, label=one.name)


def _points(axes: Axes, chart: Points) -> None:
    x, y = np.array(chart.x), np.array(chart.y)
    if chart.is_log:
        _log_axis(axes, "x")
        if chart.has_diagonal:
            _log_axis(axes, "y")
            x, y = _off_zero(x), _off_zero(y)
    axes.scatter(x, y, s=16, color=ONE, alpha=0.65, linewidths=0, gid=f"{chart.key}-points")
    if chart.has_diagonal:
        both = np.concatenate([x, y])
        ends = [both.min() / 1.3, both.max() * 1.3] if chart.is_log else [0.0, both.max() * 1.08]
        axes.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        axes.set(xlim=ends, ylim=ends)
    for i in _apart(x, y, chart):
        axes.annotate(chart.labels[i], (x[i], y[i]), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title)
    axes.grid()


def _apart(x: np.ndarray, y: np.ndarray, chart: Points) -> list[int]:
    """The points of `named` whose words do not fall on those of an earlier one."""
    places = np.stack(
        [np.log(x) if chart.is_log else x, np.log(y) if chart.is_log and chart.has_diagonal else y], axis=1
    )
    places = places / np.maximum(np.ptp(places, axis=0), 1e-12)
    shown: list[int] = []
    for i in chart.named:
        if all(np.abs(places[i] - places[other]).max() > WORD for other in shown):
            shown.append(i)
    return shown


def _off_zero(values: np.ndarray) -> np.ndarray:
    """Zeros at half of the least value above them: a logarithmic axis has no place for them."""
    above = values[values > 0]
    return np.maximum(values, above.min() / 2 if len(above) else 1.0)


def _ranges(axes: Axes, chart: Ranges) -> None:
    from matplotlib.ticker import MaxNLocator

    places = np.arange(len(chart.labels))[::-1]
    if chart.zero is not None:
        axes.axvline(chart.zero, color=MUTED, linewidth=0.8)
    for i, place in enumerate(places):
        colour = ONE if i in chart.strong or not chart.strong else MUTED
        axes.plot(
            [chart.low[i], chart.high[i]],
            [place, place],
            color=colour,
            linewidth=2.2,
            alpha=0.45,
            solid_capstyle="butt",
        )
        if chart.hollow is not None:
            axes.plot(chart.hollow[i], place, "o", markerfacecolor="none", markeredgecolor=colour, markersize=5)
        axes.plot(chart.values[i], place, "o", color=colour, markersize=5.5, gid=f"{chart.key}-{i}")
    axes.set_yticks(places, chart.labels)
    for i, tick in enumerate(axes.get_yticklabels()):
        tick.set_color(INK)
        tick.set_fontweight("bold" if i in chart.strong else "normal")
    axes.set_ylim(-0.7, len(places) - 0.3)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(chart.x_title)
    axes.grid(axis="x")


def _heat(axes: Axes, chart: Heat) -> None:
    from matplotlib.patches import Rectangle

    n = len(chart.labels)
    for i, row in enumerate(chart.matrix):
        for j, value in enumerate(row):
            colour = LINE if i == j else ONE if value >= 0 else TWO
            axes.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5),
                    1,
                    1,
                    facecolor=colour,
                    alpha=min(abs(value), 1) * 0.8,
                    edgecolor=PAPER,
                    linewidth=1,
                    gid=f"{chart.key}-{i}-{j}",
                )
            )
            if n <= 12 and i != j:
                axes.text(j, i, f"{value:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(n), chart.labels, rotation=90 if sum(map(len, chart.labels)) > 30 else 0)
    axes.set_yticks(range(n), chart.labels)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
    axes.spines[:].set_visible(False)


PAINTERS: dict[type, Callable[[Any, Any], None]] = {
    Bars: _bars,
    Lines: _lines,
    Points: _points,
    Ranges: _ranges,
    Heat: _heat,
}


def _log_axis(axes: Axes, which: str, *, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
