"""Renders the report: templates, charts and thumbnails become one page that needs no other file."""

# ruff: noqa: RUF001  # dashes and minus signs are what a page is set with

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from folds.base.terminal import duration
from submissions.report.thumbnails import Thumbnails

TEMPLATES = Path(__file__).parent / "templates"


def render(report: Mapping[str, Any], thumbnails: Thumbnails) -> str:
    """The page as HTML, with as many pictures as `thumbnails` has room for."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.globals.update(report=report, thumbnails=thumbnails)
    env.filters.update(
        typed=shlex.quote,
        svg=lambda chart: Markup(chart["svg"]),  # its words are escaped where it is drawn
        error=_error,
        signed=_signed,
        percent=lambda value: f"{value:.0%}" if value < 0.0005 or value >= 0.0995 else f"{value:.1%}",
        count=lambda value: "–" if value is None else f"{value:,.0f}",
        duration=lambda seconds: "–" if seconds is None else duration(seconds),
        ids=lambda text, most=28: text if len(text) <= most else f"…{text[1 - most :]}",  # an id's end tells most
        prose=_prose,
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return env.get_template("page.html").render(style=Markup(style))


def _error(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("+0.0000", "0.0000").replace("-", "−")


def _prose(text: str) -> Markup:
    """Text whose backticks set off what can be typed."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
