"""Lists the files of a data folder, everything below it and behind its links, and finds the one that an id means."""

from __future__ import annotations

import errno
import heapq
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from folds.base.errors import UserError, counted, first_few
from folds.find.reasons import BARRED_LINK, BROKEN_LINK, NOT_REGULAR, NOT_UTF8, Reason

SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".html", ".pdf", ".xml", ".yaml", ".toml", ".zip", ".py", ".ipynb")
Key: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True)
class File:
    """One file. path: below the data folder, with `/`; fault: why it cannot be read, None if nothing is known."""

    path: str
    bytes: int = 0
    mtime_ns: int = 0
    fault: Reason | None = None

    @property
    def key(self) -> Key:
        """What tells an unchanged file: its path, its length in bytes, its time of change."""
        return self.path, self.bytes, self.mtime_ns


class Listing:
    """Every file below `root`, whatever is a link on the way. All lists are sorted.

    files    by path     hidden  hidden and system files and folders, left out     folders  those right below root
    same     links to a folder that is read under another path, with that path
    loops    links to a folder that they lie in, or that DATA lies in: they are not followed
    targets  the true paths of the folders that links lead to: part of the data, not to be written to
    Links are followed wherever they lead, once all real folders are entered, so that a link never names their files;
    each folder is entered once, so loops end.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[File] = []
        self.hidden: list[str] = []
        self.folders: list[str] = []
        self.same: dict[str, str] = {}
        self.loops: list[str] = []
        self.targets: list[str] = []
        self._waiting, self._links = [""], list[str]()  # prefixes to enter, and a heap of links to folders
        self._first_paths: dict[tuple[int, int], str] = {}  # of the folders, by device and inode
        self._first_path("")
        while self._waiting or self._links:
            if self._waiting:
                self._enter(self._waiting.pop())
            else:
                self._follow(heapq.heappop(self._links))
        self.files.sort(key=lambda file: file.path)
        self.folders = sorted(set(self.folders) - set(self.loops))
        self.same = dict(sorted(self.same.items()))
        for names in (self.hidden, self.loops, self.targets):
            names.sort()

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each kind of links that are not followed."""
        pairs = [f"{link} is {path or 'DATA'}" for link, path in self.same.items()]
        kinds = [("to a folder around it, not followed", self.loops), ("to a folder that is read already", pairs)]
        return tuple(
            f"{counted(len(links), 'link leads', 'links lead')} {where}: {first_few(links)}"
            for where, links in kinds
            if links
        )

    def below(self, folder: str) -> list[File]:
        """The files in a folder and its subfolders; all files for ''."""
        prefix = f"{folder}/" if folder else ""
        return [file for file in self.files if file.path.startswith(prefix)]

    def _enter(self, prefix: str) -> None:
        with os.scandir(os.path.join(self.root, prefix)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, name = prefix + entry.name, _as_text(prefix + entry.name)
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                    self.hidden.append(name)
                elif entry.is_symlink() and (fault := _link_fault(entry)):
                    self.files.append(File(name, fault=fault))
                elif entry.is_dir():
                    if not prefix:
                        self.folders.append(name)
                    if entry.is_symlink():
                        heapq.heappush(self._links, path)
                    elif self._first_path(path) == path:
                        self._waiting.append(path + "/")
                elif stat.S_ISREG((found := entry.stat()).st_mode):
                    fault = Reason(NOT_UTF8) if name != path else None
                    self.files.append(File(name, found.st_size, found.st_mtime_ns, fault))
                else:  # a pipe or a device: opening it might never end
                    self.files.append(File(name, fault=Reason(NOT_REGULAR)))

    def _follow(self, link: str) -> None:
        path = os.path.join(self.root, link)
        target = os.path.realpath(path)
        around = (os.path.realpath(inner) for inner in (os.path.dirname(path), self.root))
        if any((inner + os.sep).startswith(target.rstrip(os.sep) + os.sep) for inner in around):
            self.loops.append(_as_text(link))
        elif (first := self._first_path(link)) != link:
            self.same[_as_text(link)] = _as_text(first)
        else:
            self.targets.append(target)
            self._waiting.append(link + "/")

    def _first_path(self, path: str) -> str:
        """The path under which a folder is read: this one at the first visit."""
        found = os.stat(os.path.join(self.root, path))
        return self._first_paths.setdefault((found.st_dev, found.st_ino), path)


def list_files(root: Path) -> Listing:
    """The files of a folder. Raises UserError where it is no folder, cannot be read, or holds no file."""
    if not root.is_dir():
        what = f"{root} is not a folder" if root.exists() else f"there is no folder {root}"
        raise UserError(what, hint="give the folder that holds the training images: `python run.py prepare DATA`")
    try:
        listing = Listing(root)
    except OSError as err:  # not permitted, or a path that is too long
        raise UserError(f"cannot read the folder {err.filename}: {err.strerror}") from err
    if not listing.files:
        raise UserError(f"{root} holds no file", hint="`python run.py prepare DATA` with the folder of the images")
    return listing


class Lookup:
    """Finds the file that an id means among the files that were listed; an id never makes a path to be opened."""

    def __init__(self, files: Iterable[File], folder: str) -> None:
        self.files, self.folder = list(files), folder
        self.ids: dict[str, str] = {}  # by path, where they are known
        self.indexed: list[dict[str, list[File]]] = []  # the files by each kind of name, letter case aside

    @classmethod
    def of_images(cls, image_id: Iterable[str], path: Iterable[str]) -> Lookup:
        """Finds images by the ids and paths that the manifest has of them, as wherever a file or a user names some."""
        ids = dict(zip(path, image_id, strict=True))
        made = cls(map(File, ids), folder="")
        made.ids = ids
        return made

    def find(self, image_id: str) -> File | None:
        """The file with this path, else this path without extension, name, or name without extension; None if none.

        Before all of them comes the image of this very id, where the ids are known. Where no name is spelled so, it is
        the one file whose name differs in letter case alone: CSVs come from systems to which `X.jpg` is `X.JPG`.
        Raises UserError where several files fit.
        """
        key, alike = composed(image_id.removeprefix("./")), list[File]()
        kinds: tuple[Callable[[File], str], ...] = (
            *([lambda file: self.ids[file.path]] if self.ids else []),
            self._below,
            lambda file: file.path,
            lambda file: stem(self._below(file)),
            lambda file: stem(file.path),
            lambda file: file.path.rpartition("/")[2],
            lambda file: stem(file.path.rpartition("/")[2]),
        )
        for number, kind in enumerate(kinds):
            if number == len(self.indexed):  # most ids are of one of the first kinds, so the others are indexed late
                index: dict[str, list[File]] = {}
                for file in self.files:
                    index.setdefault(composed(kind(file)).casefold(), []).append(file)
                self.indexed.append(index)
            near = self.indexed[number].get(key.casefold(), [])
            alike = alike or near
            found = [file for file in near if composed(kind(file)) == key]
            if len(found) > 1:
                exact = [file for file in found if image_id in (file.path, self._below(file))]
                found = exact or [file for file in found if not file.path.lower().endswith(TEXTS)] or found
            if len(found) > 1:
                raise UserError(f"the id {image_id} fits {len(found)} files: {first_few([f.path for f in found])}")
            if found:
                return found[0]
        return alike[0] if len(alike) == 1 else None

    def _below(self, file: File) -> str:
        """The path below the folder of the images: their id, with the extension that a test image's may lack."""
        if not self.ids:
            return relative(file.path, self.folder)
        image_id, extension = self.ids[file.path], file.path[len(stem(file.path)) :]
        return image_id if image_id.endswith(extension) else image_id + extension


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


def composed(text: str) -> str:
    """One spelling for names that a Mac wrote decomposed and a CSV has composed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _link_fault(entry: os.DirEntry[str]) -> Reason | None:
    """Why a link cannot be followed; None if it can."""
    try:
        entry.stat()
    except OSError as err:
        is_broken = err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return Reason(BROKEN_LINK) if is_broken else Reason(BARRED_LINK, str(err.strerror))
    return None


def _as_text(path: str) -> str:
    """The name as it can stand in a UTF-8 file: bytes that are not UTF-8 become `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
