"""Makes the report: gathers each section, writes `relabel.csv`, `report.json` and `index.html`."""

# ruff: noqa: RUF001  # dashes and minus signs are what a page is set with

from __future__ import annotations

import base64
import io
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image as Pillow

from ensemble.blend.expected import expected_words
from folds.base.errors import UserError
from folds.base.terminal import duration
from folds.base.workspace import Workspace, digest, read_json, write_bytes, write_json
from folds.find.reasons import RELABELLED, UNLABELLED, Reason
from folds.manifest.manifest import csv_bytes
from folds.manifest.summary import reason_rows
from submissions.report.blend import blend_section
from submissions.report.data import data_section
from submissions.report.mistakes import mistakes_section
from submissions.report.scores import scores_section
from submissions.report.test_set import test_set_section
from submissions.report.training import training_section
from submissions.report.workfolder import Image, WorkFolder, best_oof, run_ranks
from submissions.settings import ReportSettings

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 15_000_000  # of the page: what a mail or a phone takes
TAG = 200  # bytes of a picture's element beside its content
QUALITY = 62  # of WebP: a picture of 112 pixels takes about 2 KB
COLUMNS = ("image_id", "label", "suggested", "label_probability", "suggested_probability", "note")  # of relabel.csv


@dataclass(frozen=True)
class ReportResult:
    """What was written. refused: pictures that the page had no room for; relabel: where suspected labels lie."""

    path: Path
    bytes: int
    refused: int
    suspects: int
    relabel: Path | None
    is_relabel_kept: bool
    problems: tuple[str, ...]
    next_command: str


def make_report(
    workspace: Workspace, settings: ReportSettings, planned: Sequence[str], *, same_place: str = ""
) -> ReportResult:
    """Write `work/report/`. planned: the runs that the settings ask for; same_place: flags of the next command.

    Raises UserError where not even `prepare` is done; whatever else is missing or damaged is named on the page.
    """
    work = WorkFolder(workspace)
    report = gather_report(work, settings, planned, same_place=same_place)
    bare = render(report, Thumbnails(work, side=settings.thumbnail_pixels, most_bytes=0))
    room = max(0, MOST_BYTES - len(bare.encode()))
    thumbnails = Thumbnails(work, side=settings.thumbnail_pixels, most_bytes=room)
    page = render(report, thumbnails).encode()
    path = workspace.report / "index.html"
    write_bytes(path, page)
    charts: dict[str, Any] = {}
    write_json(workspace.report / "report.json", {"charts": charts, **_plain(report, charts)})
    relabel, mistakes = report["relabel"], report["mistakes"]
    return ReportResult(
        path=path,
        bytes=len(page),
        refused=thumbnails.refused,
        suspects=len(mistakes["suspects"]) if mistakes else 0,
        relabel=workspace.report / "relabel.csv" if relabel else None,
        is_relabel_kept=bool(relabel and relabel["is_kept"]),
        problems=tuple(report["problems"]),
        next_command=report["scores"]["next_command"],
    )


def gather_report(
    work: WorkFolder, settings: ReportSettings, planned: Sequence[str], *, same_place: str = ""
) -> dict[str, Any]:
    """Every section by its name, None where it has nothing to show; writes `relabel.csv`, which the page refers to."""
    ranks = run_ranks(work)
    oof = best_oof(work, ranks)
    mistakes = mistakes_section(work, oof, settings) if oof is not None else None
    data = data_section(work, settings)
    return {
        "work": work.workspace.root.resolve().name,
        "scores": scores_section(work, ranks, planned),
        "data": data,
        "training": training_section(work),
        "mistakes": mistakes,
        "relabel": write_relabel_csv(work, mistakes["suspects"]) if mistakes else None,
        "blend": blend_section(work, oof),
        "test": test_set_section(work, oof, settings, copies=data["copies"]),
        "problems": work.problems,
        "same_place": same_place,
        "shown_suspects": settings.suspects,
    }


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


def render(report: Mapping[str, Any], thumbnails: Thumbnails) -> str:
    """The page as HTML, with as many pictures as `thumbnails` has room for."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return _page().render(report=report, thumbnails=thumbnails, style=Markup(style))


@cache
def _page() -> Template:
    """The template of the page, compiled once: a page is rendered without pictures, and then with them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.filters.update(
        typed=shlex.quote,
        expected=expected_words,
        svg=lambda chart: Markup(chart["svg"]),  # its words are escaped where it is drawn
        error=lambda value: "–" if value is None or value != value else f"{value:.4f}",
        signed=_signed,
        percent=lambda value: f"{value:.0%}" if value < 0.0005 or value >= 0.0995 else f"{value:.1%}",
        count=lambda value: "–" if value is None else f"{value:,.0f}",
        duration=lambda seconds: "–" if seconds is None else duration(seconds),
        ids=lambda text, most=28: text if len(text) <= most else f"…{text[1 - most :]}",  # an id's end tells most
        prose=_prose,
    )
    return env.get_template("page.html")


def _signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("+0.0000", "0.0000").replace("-", "−")


def _prose(text: str) -> Markup:
    """Text whose backticks set off what can be typed."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


class Thumbnails:
    """Makes thumbnails until `most_bytes` of text are used up, and counts those that it had to refuse.

    side: pixels of the longer side
    """

    def __init__(self, work: WorkFolder, *, side: int, most_bytes: int) -> None:
        self.work, self.side, self.bytes_left, self.refused = work, side, most_bytes, 0

    def __call__(self, image: Image) -> dict[str, Any] | None:
        """{"uri", "width", "height"}; None where no picture was kept (a file that is none), or the page is full."""
        picture = self._picture(image) if self.bytes_left > 0 else None
        if picture is None:
            self.refused += self.bytes_left <= 0
            return None
        picture.thumbnail((self.side, self.side), Pillow.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) + TAG > self.bytes_left:
            self.refused += 1
            return None
        self.bytes_left -= len(uri) + TAG
        return {"uri": uri, "width": picture.width, "height": picture.height}

    def _picture(self, image: Image) -> Pillow.Image | None:
        """From the pixel store, which keeps what `prepare` left out too, with the aspect ratio of the file."""
        row, store = self.work.store_row(image), self.work.store
        if row is None or store is None:
            return None
        width, height = int(store.width[row]), int(store.height[row])
        longer, pixels = max(width, height, 1), np.asarray(store.pixels[row])
        size = [max(1, round(len(pixels) * side / longer)) for side in (width, height)]
        return Pillow.fromarray(pixels).resize((size[0], size[1]), Pillow.Resampling.BICUBIC)


def write_relabel_csv(work: WorkFolder, suspects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the CSV, unless it has edits that `prepare` has not seen; returns {"path", "digest", "is_kept"}.

    An unedited file given to `prepare` changes nothing: `label` is the label that the image has. Images that were
    relabelled before stand first, since the file is the whole difference to DATA.
    """
    path = work.workspace.report / "relabel.csv"
    try:
        written = str(read_json(work.workspace.report / "report.json", hint="")["relabel"]["digest"])
    except (UserError, KeyError, TypeError):  # no report is there that wrote one
        written = ""
    decided = _decided(work)
    found = [
        (one["image"]["image_id"], one["label"], label, f"{one['true_prob']:.4f}", f"{prob:.4f}", "")
        for one in suspects
        for label, prob in one["top"][:1]
    ]
    table = pd.DataFrame([*decided, *found], columns=list(COLUMNS)).astype(str)
    data = csv_bytes(table.drop_duplicates("image_id"))
    is_unedited = not path.is_file() or digest(path.read_bytes()) in (written, digest(data))
    if not is_unedited and not _is_applied(path, work, decided):
        return {"path": str(path), "digest": written, "is_kept": True}
    write_bytes(path, data)
    return {"path": str(path), "digest": digest(data), "is_kept": False}


def _is_applied(path: Path, work: WorkFolder, decided: Sequence[tuple[str, ...]]) -> bool:
    """Whether the manifest has every label of the file: `prepare` was given it, and a new file repeats it."""
    try:
        edited = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("image_id")["label"]
    except (ValueError, KeyError, OSError):
        return False  # it is no such file any more
    train = work.manifest[work.manifest["split"] == "train"]
    now = dict(zip(train["image_id"], train["label"], strict=True))
    now |= {image_id: label for image_id, label, *_ in decided}
    return all(now.get(image_id) == label for image_id, label in edited.items())


def _decided(work: WorkFolder) -> list[tuple[str, ...]]:
    """The images that `prepare --relabel` changed: without them in it, the next file would undo that."""
    rows = reason_rows(work.manifest)
    rows = rows[rows["code"].isin([RELABELLED, UNLABELLED])]
    cells = (rows[name].tolist() for name in ("image_id", "label", "code", "detail"))
    return [
        (image_id, "" if code == UNLABELLED else label, "", "", "", str(Reason(code, detail)))
        for image_id, label, code, detail in zip(*cells, strict=True)
    ]


def report_summary(result: ReportResult) -> str:
    """The path and size of the page, what it could not show, and what to do with suspected labels."""
    sentences = [f"{result.path}: {result.bytes / 1e6:.1f} MB, one file that any browser opens"]
    sentences += [f"warning: {problem}" for problem in result.problems]
    if result.refused:
        sentences.append(f"{result.refused:,} pictures were left out, so that the page stays below 15 MB")
    if result.is_relabel_kept:
        sentences.append(f"{result.relabel} has edits and is left as it is until `prepare --relabel` has read it")
    elif result.suspects:
        errors = "error" if result.suspects == 1 else "errors"
        sentences.append(
            f"{result.suspects:,} suspected label {errors}: edit {result.relabel}, then"
            f" `python run.py prepare DATA --relabel {shlex.quote(str(result.relabel))}`"
        )
    return "\n".join(sentences)
