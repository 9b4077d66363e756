"""Renders a report: templates, charts and pictures become one page that needs nothing beside itself."""

# ruff: noqa: RUF001  # dashes and minus signs are what a page is set with

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from submissions.report.album import Album, Thumbnail
from submissions.report.blending import Blending
from submissions.report.charts import Chart
from submissions.report.data import Data
from submissions.report.drawing import draw
from submissions.report.mistakes import Mistakes
from submissions.report.relabel_csv import RelabelCsv
from submissions.report.source import Picture
from submissions.report.standing import Standing
from submissions.report.testing import Testing
from submissions.report.training import Training

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Report:
    """All that a report says; None for what there is nothing to say of yet.

    same_place  the flags that lead a command to this work folder and its settings
    """

    work: str
    standing: Standing
    data: Data
    training: Training
    mistakes: Mistakes | None
    relabel: RelabelCsv | None
    blending: Blending
    testing: Testing
    problems: tuple[str, ...]
    same_place: str
    shown_suspects: int


def render(report: Report, album: Album, drawn: dict[str, str]) -> str:
    """The page as HTML, pictures as far as the album has room. drawn: charts by key, which are drawn once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def thumbnail(picture: Picture) -> Thumbnail | None:
        return album.thumbnail(picture)

    def chart(one: Chart) -> str:
        if one.key not in drawn:
            drawn[one.key] = draw(one)
        return Markup(drawn[one.key])  # its words are escaped where it is drawn

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.globals.update(thumbnail=thumbnail, chart=chart, album=album)
    env.filters.update(
        typed=shlex.quote,
        error=_error,
        clock=_clock,
        count=_count,
        signed=_signed,
        percent=_percent,
        ids=_short,
        prose=_prose,
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return env.get_template("page.html").render(report=report, style=Markup(style))


def _error(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("+0.0000", "0.0000").replace("-", "−")


def _percent(value: float) -> str:
    return f"{value:.0%}" if value < 0.0005 or value >= 0.0995 else f"{value:.1%}"


def _clock(seconds: Any) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _prose(text: str) -> Markup:
    """Text whose backticks set off what can be typed."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _short(text: str, most: int = 28) -> str:
    """An id that fits below a small picture: its end tells more than its start."""
    return text if len(text) <= most else f"…{text[1 - most :]}"
