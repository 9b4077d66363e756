"""Axes of the charts: from values to places in the SVG, round values at the ticks, and room for their text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LETTER = 6.3  # units: the mean width of a letter of 11.5 units; a Chinese one takes twice that
MOST_LETTERS = 28  # of a label at the left


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
            found: list[float] = []
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
        return [(one * step, _number(one * step, places)) for one in count]


def y_grid(y: Axis, left: float, right: float, title: str) -> list[str]:
    """Lines across with their values, and the axis's words above."""
    made = [f'<text x="0" y="11" class="soft">{escape(title)}</text>'] if title else []
    for value, text in y.ticks():
        made.append(f'<path class="grid" d="M{left:.1f} {y.at(value):.1f}H{right}"/>')
        made.append(f'<text x="{left - 7:.1f}" y="{y.at(value) + 4:.1f}" class="end soft">{text}</text>')
    return made


def x_labels(x: Axis, bottom: float, title: str, *, is_whole: bool = False) -> list[str]:
    """Values below a lying axis, as many as have room, and its words. is_whole: whole numbers only."""
    ticks = [(value, text) for value, text in x.ticks() if not is_whole or value == round(value)]
    while len(ticks) > 1 and sum(width_of(text) + 10 for _, text in ticks) > x.stop - x.start:
        ticks = ticks[::2]
    made = [f'<text x="{x.at(value):.1f}" y="{bottom + 15}" class="mid soft">{text}</text>' for value, text in ticks]
    centre = (x.start + x.stop) / 2
    return [*made, f'<text x="{centre:.1f}" y="{bottom + 33}" class="mid soft">{escape(title)}</text>']


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


def _number(value: float, places: int) -> str:
    text = f"{value:,.{places}f}" if places <= 4 else f"{value:.2g}"
    return text.replace("-", "\u2212") if value else text.lstrip("-")


def short(label: str) -> str:
    half = MOST_LETTERS // 2
    return label if len(label) <= MOST_LETTERS else f"{label[:half]}\u2026{label[1 - half :]}"


def width_of(text: str) -> float:
    return LETTER * sum(2 if ord(one) > 0x2E7F else 1 for one in text)
