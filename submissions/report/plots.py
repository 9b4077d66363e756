"""Charts as SVG, in plain functions: numbers in, a dict of the numbers and their picture (`svg`) out.

Text stays text, and every colour is a variable of the page, so that a chart follows it into dark and onto paper.
Not drawn by matplotlib: five regular expressions had to give its SVG the page's fonts and colours, the page was larger,
and a report took a second longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from folds.base.errors import first_few

Chart = dict[str, Any]  # kind, key (unique on the page), title, alt (what is seen, in words), svg, and the numbers
Rows = Sequence[tuple[Any, ...]]  # a label, then numbers

WIDTH, SMALL = 440, 300  # units of the SVG; a page shows them as 300 to 530 pixels
MOST_BARS = 300  # more would be thinner than a pixel: an outline is drawn instead
MOST_NAMES = 26  # labels below bars
LETTER = 6.3  # units: the mean width of a letter of 11.5 units; a Chinese one takes twice that
MOST_LETTERS = 28  # of a label at the left


def bars(key: str, title: str, *, rows: Rows, y_title: str, is_log: bool = False) -> Chart:
    """A standing bar for each (label, value); above 300 an outline. Names stand below where they have room."""
    labels, (values,) = _columns(rows, 1)
    n, bottom = len(labels), 200
    low = max(0.5, min([one for one in values if one > 0], default=1) / 2) if is_log else 0.0
    y = Axis(low, max(*values, low * 2, 1e-9) * 1.04, bottom, 24, is_log)
    left = left_of(y)
    wide = (WIDTH - left) / max(n, 1)
    tops = [y.at(max(value, low)) for value in values]
    parts = y_grid(y, left, WIDTH, y_title)
    if n <= MOST_BARS:
        parts += [
            f'<rect id="{escape(key)}-{i}" x="{left + (i + 0.1) * wide:.1f}" y="{top:.2f}" width="{wide * 0.8:.1f}" '
            f'height="{bottom - top:.2f}" rx="1.5" class="one"><title>{escape(label)}: {value:,.0f}</title></rect>'
            for i, (label, value, top) in enumerate(zip(labels, values, tops, strict=True))
        ]
    else:
        steps = "".join(f"V{top:.1f}H{left + (i + 1) * wide:.1f}" for i, top in enumerate(tops))
        parts.append(path(f"M{left:.1f} {bottom}{steps}V{bottom}Z", "one"))
    if n <= MOST_NAMES and all(width_of(label) < wide for label in labels):
        parts += [text(left + (i + 0.5) * wide, bottom + 16, label, "mid") for i, label in enumerate(labels)]
    else:
        parts.append(text((left + WIDTH) / 2, bottom + 18, f"{n:,} classes, rarest first", "mid soft"))
    alt = f"{title}: {n:,} classes, {min(values, default=0):,.0f} to {max(values, default=0):,.0f} {y_title}"
    numbers = {"labels": labels, "values": values, "y_title": y_title, "is_log": is_log}
    return _chart("bars", key, title, alt, (WIDTH, bottom + 24), parts, **numbers)


def lines(
    key: str,
    title: str,
    *,
    series: Sequence[dict[str, Any]],
    x_title: str,
    y_title: str = "",
    is_log_x: bool = False,
    has_diagonal: bool = False,
    mark: tuple[str, float] | None = None,
    is_small: bool = False,
) -> Chart:
    """Lines of {"name", "role": train or valid, "x", "y"}; one name for all of a kind.

    mark: words beside an upright line, and its place
    """
    width, bottom = (SMALL, 150) if is_small else (WIDTH, 200)
    xs, ys = ([one for line in series for one in line[of]] for of in "xy")
    y = Axis(min(0.0, *ys), max(*ys, 1e-9) * 1.04, bottom, 24)
    x = Axis(*span_of([*xs, 0.0, 1.0] if has_diagonal else xs, is_log_x), left_of(y), width - 8, is_log_x)
    names = dict.fromkeys((line["name"], line["role"]) for line in series)
    parts = [*y_grid(y, x.start, width, y_title), *x_labels(x, bottom, x_title, is_whole=x_title == "epoch")]
    if has_diagonal:
        parts.append(path(f"M{x.at(0):.1f} {y.at(0):.1f}L{x.at(1):.1f} {y.at(1):.1f}", "rule"))
    if mark:
        at = x.at(mark[1])
        parts.append(path(f"M{at:.1f} 24V{bottom}", "rule"))
        parts.append(text(at - 4, 34, mark[0], "end soft") if at > width * 0.6 else text(at + 4, 34, mark[0], "soft"))
    for i, line in enumerate(series):
        points = [f"{x.at(a):.2f},{y.at(b):.2f}" for a, b in zip(line["x"], line["y"], strict=True)]
        faint = " faint" if len(series) > len(names) else ""
        dots = "".join('<circle cx="{}" cy="{}" r="2"/>'.format(*one.split(",")) for one in points)
        drawn = f'<polyline points="{" ".join(points)}"/>' + (dots if len(points) <= 20 else "")
        parts.append(f'<g id="{escape(key)}-{i}" class="line {line["role"]}{faint}">{drawn}</g>')
    right = float(width)
    for name, role in reversed(names if len(names) > 1 else {}):  # the legend, from the right, each after its line
        start = right - width_of(name)
        parts.append(text(start, 11, name))
        parts.append(f'<g class="line {role}"><polyline points="{start - 23:.1f},7 {start - 5:.1f},7"/></g>')
        right = start - 36
    ends = [f"{line['name']} {line['y'][-1]:.3g}" for line in series]
    alt = f"{title}; at the end: {first_few(ends, most=5)}"
    words = {"x_title": x_title, "y_title": y_title, "is_log_x": is_log_x, "has_diagonal": has_diagonal}
    return _chart("lines", key, title, alt, (width, bottom + 38), parts, series=list(series), **words)


def points(
    key: str,
    title: str,
    *,
    rows: Rows,
    x_title: str,
    y_title: str,
    is_log: bool = False,
    has_diagonal: bool = False,
    named: Sequence[int] = (),
) -> Chart:
    """A point for each (label, x, y), those at `named` with words. is_log: x, and with a diagonal y too."""
    labels, (x, y) = _columns(rows, 2)
    bottom, is_log_y = (300, is_log) if has_diagonal else (220, False)
    shown_x, shown_y = (off_zero(x) if is_log else x), (off_zero(y) if is_log_y else y)
    span_x = span_of([*shown_x, *shown_y] if has_diagonal else shown_x, is_log, room=0.06)
    up = Axis(*(span_x if has_diagonal else (0.0, max(*y, 1e-9) * 1.08)), bottom, 24, is_log_y)
    right = Axis(*span_x, left_of(up), WIDTH - 10, is_log)
    places = [(right.at(a), up.at(b)) for a, b in zip(shown_x, shown_y, strict=True)]
    parts = [*y_grid(up, right.start, WIDTH, y_title), *x_labels(right, bottom, x_title)]
    if has_diagonal:
        parts.append(path(f"M{right.start:.1f} {bottom}L{right.stop:.1f} 24", "rule"))
    dots = [
        f'<circle cx="{a:.2f}" cy="{b:.2f}" r="3.2"><title>{escape(label)}</title></circle>'
        for label, (a, b) in zip(labels, places, strict=True)
    ]
    parts.append(f'<g id="{escape(key)}-points" class="dots">{"".join(dots)}</g>')
    taken: list[tuple[float, float]] = []
    for i in named:  # a name that would fall on an earlier one is left out
        (a, b), width = places[i], width_of(labels[i]) + 8
        if all(abs(a - c) > width or abs(b - d) > 11 for c, d in taken):
            taken.append((a, b))
            is_at_the_edge = a + width > WIDTH
            parts.append(text(a - 6, b - 4, labels[i], "end") if is_at_the_edge else text(a + 6, b - 4, labels[i]))
    extremes = [f"{labels[i]} with {y[i]:.4g} at {x[i]:.4g}" for i in named]
    alt = f"{title}, {len(labels):,} classes: {y_title} over {x_title}{'; ' if extremes else ''}{first_few(extremes)}"
    numbers = {"labels": labels, "x": x, "y": y, "x_title": x_title, "y_title": y_title}
    flags = {"is_log": is_log, "has_diagonal": has_diagonal, "named": list(named)}
    return _chart("points", key, title, alt, (WIDTH, bottom + 38), parts, **numbers, **flags)


def ranges(
    key: str,
    title: str,
    *,
    rows: Rows,
    x_title: str,
    strong: int | None = None,
    hollow: Sequence[float] = (),
    has_zero: bool = False,
    most: float = math.inf,
) -> Chart:
    """Each (label, value, low, high): a dot on its interval. strong: the row that stands out; hollow: second values.

    most  where the axis ends at the latest; of a value beyond, which would squash the others, the number is written
    """
    labels, (values, low, high) = _columns(rows, 3)
    left = max(map(width_of, map(short, labels))) + 14
    bottom = 14 + 24 * len(labels)
    drawn = [one for one in [*values, *low, *high, *hollow, *([0.0] if has_zero else [])] if one <= most]
    x = Axis(*span_of(drawn, False, room=0.03), left, WIDTH - 12)
    parts = [path(f"M{x.at(tick):.1f} 8V{bottom}", "grid") for tick, _ in x.ticks()]
    parts += x_labels(x, bottom, x_title)
    if has_zero:
        parts.append(path(f"M{x.at(0):.1f} 8V{bottom}", "zero"))
    for i, label in enumerate(labels):
        y, tone = 24 + 24 * i, "one" if strong in (None, i) else "soft"
        parts.append(text(left - 10, y + 4, short(label), "end strong" if strong == i else "end"))
        if low[i] <= x.high:
            parts.append(path(f"M{x.at(low[i]):.1f} {y}H{x.at(min(high[i], x.high)):.1f}", f"reach {tone}"))
        if hollow:
            parts.append(f'<circle class="hollow {tone}" cx="{x.at(hollow[i]):.2f}" cy="{y}" r="3.6"/>')
        if values[i] > x.high:
            parts.append(text(WIDTH - 12, y + 4, f"{values[i]:.4f} \u2192", "end soft"))
            continue
        words = f"{label}: {values[i]:.4f}, {low[i]:.4f} to {high[i]:.4f}"
        dot = f'id="{escape(key)}-{i}" class="{tone}" cx="{x.at(values[i]):.2f}" cy="{y}" r="4"'
        parts.append(f"<circle {dot}><title>{escape(words)}</title></circle>")
    alt = f"{title}: {first_few([f'{label} {value:.4f}' for label, value, *_ in rows], most=5)}"
    numbers = {"labels": labels, "values": values, "low": low, "high": high, "x_title": x_title, "end": x.high}
    flags = {"strong": strong, "hollow": list(hollow) or None, "has_zero": has_zero}
    return _chart("ranges", key, title, alt, (WIDTH, bottom + 38), parts, **numbers, **flags)


def _chart(
    kind: str, key: str, title: str, alt: str, size: tuple[float, float], parts: Iterable[str], **numbers: Any
) -> Chart:
    view = f'role="img" aria-label="{escape(alt)}" viewBox="0 0 {size[0]:g} {size[1]:.0f}"'
    svg = f'<svg data-chart="{escape(key)}" {view}>' + "\n".join(parts) + "</svg>"
    return {"kind": kind, "key": key, "title": title, "alt": alt, "svg": svg, **numbers}


def _columns(rows: Rows, n: int) -> tuple[list[str], list[list[float]]]:
    return [str(row[0]) for row in rows], [[row[i] for row in rows] for i in range(1, n + 1)]


def text(x: float, y: float, words: str, tone: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{tone}">{escape(words)}</text>'


def path(steps: str, tone: str) -> str:
    return f'<path class="{tone}" d="{steps}"/>'


@dataclass(frozen=True)
class Axis:
    """Values from low to high, drawn from start to stop."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high, value = map(math.log, (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the axis, at most seven, with their text."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [step * 10.0**power for power in powers for step in steps]
                found = [one for one in found if self.low <= one <= self.high]
                if len(found) <= 7:
                    break
            return [(one, f"{one:,.0f}" if one >= 1 else f"{one:g}") for one in found]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * (1 - 1e-9))
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        count = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        form = f",.{places}f" if places <= 4 else ".2g"
        return [(one * step, f"{one * step:{form}}".replace("-", "\u2212" if one else "")) for one in count]


def y_grid(y: Axis, left: float, right: float, title: str) -> list[str]:
    """Lines across with their values, and the axis's words above."""
    made = [text(0, 11, title, "soft")] if title else []
    for value, words in y.ticks():
        made.append(path(f"M{left:.1f} {y.at(value):.1f}H{right}", "grid"))
        made.append(text(left - 7, y.at(value) + 4, words, "end soft"))
    return made


def x_labels(x: Axis, bottom: float, title: str, *, is_whole: bool = False) -> list[str]:
    """Values below a lying axis, as many as have room, and its words. is_whole: whole numbers only."""
    ticks = [(value, words) for value, words in x.ticks() if not is_whole or value == round(value)]
    while len(ticks) > 1 and sum(width_of(words) + 10 for _, words in ticks) > x.stop - x.start:
        ticks = ticks[::2]
    made = [text(x.at(value), bottom + 15, words, "mid soft") for value, words in ticks]
    return [*made, text((x.start + x.stop) / 2, bottom + 33, title, "mid soft")]


def span_of(values: Sequence[float], is_log: bool, *, room: float = 0.0) -> tuple[float, float]:
    """The least and the largest value, and some room on both sides; never the same number twice."""
    low, high = min(values), max(values)
    if is_log:
        return (low / 1.3, high * 1.3) if room or low == high else (low, high)
    apart = (high - low) or max(abs(high), 1.0) * 0.5
    return (low - room * apart, high + room * apart) if high > low else (low - apart, high + apart)


def off_zero(values: Sequence[float]) -> list[float]:
    """Zeros at half of the least value above them: a logarithmic axis has no place for them."""
    least = min([one for one in values if one > 0], default=2.0) / 2
    return [max(one, least) for one in values]


def left_of(y: Axis) -> float:
    """Where an upright axis stands: right of its numbers."""
    return max((width_of(text) for _, text in y.ticks()), default=0.0) + 9


def short(label: str) -> str:
    begin = MOST_LETTERS // 4  # the ends tell `tf_efficientnet_lite0-probe: centre` from `..._lite1-probe: mirror`
    return label if len(label) <= MOST_LETTERS else f"{label[:begin]}\u2026{label[1 + begin - MOST_LETTERS :]}"


def width_of(text: str) -> float:
    return LETTER * sum(2 if ord(one) > 0x2E7F else 1 for one in text)
