"""Finds the file that an id means, and keeps ids and names from leading out of the data folder."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from folds.base.errors import UserError, first_few
from folds.find.listing import File


class Lookup:
    """Finds the file that an id means among the files that were listed; an id never makes a path to be opened."""

    def __init__(self, files: Iterable[File], folder: str) -> None:
        self.files, self.folder = list(files), folder
        self.indexed: list[dict[str, list[File]]] = []  # the files by each kind of name

    def find(self, image_id: str) -> File | None:
        """The file with this path, else this path without extension, name, or name without extension; None if none.

        Raises UserError where several files fit.
        """
        key = _composed(image_id.removeprefix("./"))
        kinds: tuple[Callable[[File], str], ...] = (
            lambda file: relative(file.path, self.folder),
            lambda file: file.path,
            lambda file: stem(relative(file.path, self.folder)),
            lambda file: stem(file.path),
            lambda file: file.name,
            lambda file: stem(file.name),
        )
        for number, kind in enumerate(kinds):
            if number == len(self.indexed):  # most ids are of one of the first kinds, so the others are indexed late
                index: dict[str, list[File]] = {}
                for file in self.files:
                    index.setdefault(_composed(kind(file)), []).append(file)
                self.indexed.append(index)
            found = self.indexed[number].get(key, [])
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
