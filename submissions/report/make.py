"""Makes the report: gathers each section, writes `relabel.csv`, `report.json` and `index.html`."""

# ruff: noqa: RUF001  # dashes and minus signs are what a page is set with

from __future__ import annotations

import base64
import io
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image as Pillow

from ensemble.blend.expected import expected_words
from folds.base.errors import counted
from folds.base.terminal import duration
from folds.base.workspace import Workspace, write_bytes, write_json
from folds.manifest.manifest import UNREADABLE
from submissions.report.blend import blend_section
from submissions.report.data import data_section
from submissions.report.mistakes import mistakes_section, write_relabel_csv
from submissions.report.scores import scores_section
from submissions.report.test_set import test_set_section
from submissions.report.training import training_section
from submissions.report.workfolder import Image, WorkFolder, best_oof, score_runs
from submissions.settings import ReportSettings, Wanted

MOST_BYTES = 15_000_000  # of the page: what a mail or a phone takes
TAG = 200  # bytes of a picture's element beside its content
QUALITY = 62  # of WebP: a picture of 112 pixels takes about 2 KB
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {
    "typed": shlex.quote,
    "expected": expected_words,
    "svg": lambda chart: Markup(chart["svg"]),  # its words are escaped where it is drawn
    "error": lambda value: "–" if value is None or value != value else f"{value:.4f}",
    "signed": lambda value: "–" if value is None else f"{value:+.4f}".replace("+0.0000", "0.0000").replace("-", "−"),
    "percent": lambda value: f"{value:.0%}" if value < 0.0005 or value >= 0.0995 else f"{value:.1%}",
    "count": lambda value: "–" if value is None else f"{value:,.0f}",
    "duration": lambda seconds: "–" if seconds is None else duration(seconds),
    "ids": lambda text, most=28: text if len(text) <= most else f"…{text[1 - most :]}",  # an id's end tells most
    "prose": lambda text: Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))),  # what can be typed
}


@dataclass(frozen=True)
class ReportResult:
    """What was written. refused: pictures that the page had no room for; suspects: labels in `relabel.csv`."""

    path: Path
    bytes: int
    refused: int
    suspects: int
    is_relabel_kept: bool
    problems: tuple[str, ...]
    next_command: str


def make_report(
    workspace: Workspace, settings: ReportSettings, wanted: Wanted, *, same_place: str = ""
) -> ReportResult:
    """Write `work/report/`. same_place: flags of the next command.

    Raises UserError where not even `prepare` is done; whatever else is missing or damaged is named on the page.
    """
    work = WorkFolder(workspace)
    runs = score_runs(work)
    oof = best_oof(work, runs)
    mistakes = mistakes_section(work, oof, settings) if oof is not None else None
    data = data_section(work, settings)
    relabel = write_relabel_csv(work, mistakes["suspects"]) if mistakes else None
    report: dict[str, Any] = {  # every section by its name, None where it has nothing to show
        "work": workspace.root.resolve().name,
        "scores": scores_section(work, runs, wanted),
        "data": data,
        "training": training_section(work),
        "mistakes": mistakes,
        "relabel": relabel,
        "blend": blend_section(work, oof),
        "test": test_set_section(work, oof, settings, copies=data["copies"]),
        "problems": work.problems,
        "same_place": same_place,
        "shown_suspects": settings.suspects,
    }
    template, side = TEMPLATES.get_template("page.html"), settings.thumbnail_pixels
    bare = template.render(report=report, thumbnails=Thumbnails(work, side=side, bytes_left=0)).encode()
    thumbnails = Thumbnails(work, side=side, bytes_left=MOST_BYTES - len(bare))
    page = template.render(report=report, thumbnails=thumbnails).encode()
    path = workspace.report / "index.html"
    write_bytes(path, page)
    charts: dict[str, Any] = {}
    write_json(workspace.report / "report.json", {"charts": charts, **_plain(report, charts)})
    return ReportResult(
        path=path,
        bytes=len(page),
        refused=thumbnails.refused,
        suspects=len(mistakes["suspects"]) if mistakes else 0,
        is_relabel_kept=bool(relabel and relabel["is_kept"]),
        problems=tuple(work.problems),
        next_command=report["scores"]["next_command"],
    )


def _plain(value: Any, charts: dict[str, Any]) -> Any:
    """The value as JSON: NaN is null; a chart goes to `charts` without its picture, and its key stays.

    Of a dataclass there is what its repr shows: the ids of all images that were compared are not.
    """
    if is_dataclass(value):
        return _plain({one.name: getattr(value, one.name) for one in fields(value) if one.repr}, charts)
    if isinstance(value, Mapping):
        if "svg" not in value:
            return {key: _plain(one, charts) for key, one in value.items()}
        charts[value["key"]] = {key: one for key, one in value.items() if key != "svg"}
        return value["key"]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), charts)
    if isinstance(value, tuple | list):
        return [_plain(one, charts) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Thumbnails:
    """Makes thumbnails until `bytes_left` of text are used up, and counts those that it had to refuse.

    side: pixels of the longer side
    """

    def __init__(self, work: WorkFolder, *, side: int, bytes_left: int) -> None:
        self.work, self.side, self.bytes_left, self.refused = work, side, bytes_left, 0

    def __call__(self, image: Image) -> dict[str, Any] | None:
        """{"uri", "width", "height"}; None where no picture was kept (a file that is none), or the page is full.

        From the pixel store, which keeps what `prepare` left out too, with the aspect ratio of the file. Row i of the
        store is row i of the manifest.
        """
        if self.bytes_left <= 0:
            self.refused += 1
            return None
        row, store = self.work.row_of.get((image["split"], image["image_id"])), self.work.store
        if row is None or store is None or self.work.manifest["status"].iat[row] == UNREADABLE:
            return None
        pixels = self.work.attempt(lambda: np.asarray(store.pixels[row]))
        if pixels is None:  # its JPEG is damaged, which the page says
            return None
        width, height = int(store.width[row]), int(store.height[row])
        longer = max(width, height, 1)
        size = [max(1, round(len(pixels) * side / longer)) for side in (width, height)]
        picture = Pillow.fromarray(pixels).resize((size[0], size[1]), Pillow.Resampling.BICUBIC)
        picture.thumbnail((self.side, self.side), Pillow.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) + TAG > self.bytes_left:
            self.refused += 1
            return None
        self.bytes_left -= len(uri) + TAG
        return {"uri": uri, "width": picture.width, "height": picture.height}


def report_summary(result: ReportResult) -> str:
    """The path and size of the page, what it could not show, and what to do with suspected labels."""
    relabel = result.path.with_name("relabel.csv")
    sentences = [f"{result.path}: {result.bytes / 1e6:.1f} MB, one file that any browser opens"]
    sentences += [f"warning: {problem}" for problem in result.problems]
    if result.refused:
        sentences.append(f"{result.refused:,} pictures were left out, so that the page stays below 15 MB")
    if result.is_relabel_kept:
        sentences.append(f"{relabel} has edits and is left as it is until `prepare --relabel` has read it")
    elif result.suspects:
        labels = counted(result.suspects, "label", "labels")
        sentences.append(
            f"{labels} that may be wrong, the most suspicious first on the page; where one is, edit {relabel}, then"
            f" `python run.py prepare DATA --relabel {shlex.quote(str(relabel))}`"
        )
    return "\n".join(sentences)
