"""Finds the file that an id means, and keeps ids and names from leading out of the data folder."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from folds.base.errors import UserError, first_few
from folds.find.listing import File


class Lookup:
    """Finds the file that an id means among the files that were listed; an id never makes a path to be opened."""

    def __init__(self, files: Iterable[File], folder: str) -> None:
        self.folder = folder
        self.levels: list[dict[str, list[File]]] = [{} for _ in range(6)]
        for file in files:
            path = relative(file.path, folder)
            keys = (path, file.path, stem(path), stem(file.path), file.name, stem(file.name))
            for level, key in zip(self.levels, keys, strict=True):
                level.setdefault(_composed(key), []).append(file)

    def find(self, image_id: str) -> File | None:
        """The file with this path, else this path without extension, name, or name without extension; None if none.

        Raises UserError where several files fit.
        """
        key = _composed(image_id.removeprefix("./"))
        for level in self.levels:
            found = level.get(key, [])
            if len(found) > 1:
                exact = [file for file in found if image_id in (file.path, relative(file.path, self.folder))]
                found = exact or found
            if len(found) > 1:
                raise UserError(f"the id {image_id} fits {len(found)} files: {first_few([f.path for f in found])}")
            if found:
                return found[0]
        return None


def relative(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/") if folder else path


def stem(path: str) -> str:
    """The path without the extension of its name."""
    head, slash, name = path.rpartition("/")
    return head + slash + (name.rpartition(".")[0] or name)


def refuse_outside(ids: Iterable[str], *, name: str) -> None:
    """Refuse ids of the file `name` that are absolute paths or hold `..`."""
    outside = [text for text in ids if re.match(r"[/\\]|[A-Za-z]:[/\\]", text) or ".." in re.split(r"[/\\]", text)]
    if outside:
        raise UserError(f"{name} names {first_few(outside)}, which may lead outside the data folder: it is not read")


def _composed(text: str) -> str:
    """One spelling for names that a Mac wrote decomposed and a CSV has composed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
