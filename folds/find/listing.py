"""Lists the files of a data folder: everything below it and behind its links, odd names included."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from folds.base.errors import UserError, first_few

SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})


@dataclass(frozen=True)
class File:
    """One file. path: below the data folder, with `/`; fault: why it cannot be read, empty if nothing is known."""

    path: str
    bytes: int = 0
    mtime_ns: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """files: sorted by path; hidden: hidden and system files and folders, left out; folders: those right below root.

    same     the path under which a folder is read, by the link that leads to it a second time
    loops    links to a folder that they lie in, or that DATA lies in: they are not followed
    targets  the true paths of the folders that links lead to, wherever they are: part of the data, not to be written to
    """

    root: Path
    files: tuple[File, ...]
    hidden: tuple[str, ...]
    folders: tuple[str, ...]
    same: Mapping[str, str]
    loops: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of links that were not followed, a sentence for each kind."""
        notes = []
        if self.loops:
            what = "link leads" if len(self.loops) == 1 else "links lead"
            notes.append(f"{len(self.loops):,} {what} to a folder around it, not followed: {first_few(self.loops)}")
        if self.same:
            pairs = [f"{link} is {path or 'DATA'}" for link, path in self.same.items()]
            what = "link leads" if len(pairs) == 1 else "links lead"
            notes.append(f"{len(pairs):,} {what} to a folder that is read already: {first_few(pairs)}")
        return tuple(notes)

    def place_of(self, folder: str) -> str:
        """Where the files of a folder are listed: elsewhere for a link to a folder that is read already."""
        return self.same.get(folder, folder)


def list_files(root: Path) -> Listing:
    """Every file below `root`. Links are followed wherever they lead; each folder is entered once, so loops end.

    Raises UserError where `root` is no folder, cannot be read, or holds no file.
    """
    if not root.is_dir():
        what = f"{root} is not a folder" if root.exists() else f"there is no folder {root}"
        raise UserError(what, hint="give the folder that holds the training images: `python run.py prepare DATA`")
    walk = _Walk(root)
    try:
        walk.go()
    except OSError as err:  # not permitted, or a path that is too long
        raise UserError(f"cannot read the folder {err.filename}: {err.strerror}") from err
    if not walk.files:
        raise UserError(f"{root} holds no file", hint="`python run.py prepare DATA` with the folder of the images")
    return Listing(
        root,
        files=tuple(sorted(walk.files, key=lambda file: file.path)),
        hidden=tuple(sorted(walk.hidden)),
        folders=tuple(sorted(set(walk.folders) - set(walk.loops))),
        same=dict(sorted(walk.same.items())),
        loops=tuple(sorted(walk.loops)),
        targets=tuple(sorted(walk.targets)),
    )


def linked_folders(root: Path) -> tuple[str, ...]:
    """The true paths of the folders that links below `root` lead to, of a folder that can be listed."""
    walk = _Walk(root)
    try:
        walk.go()
    except OSError:
        return ()  # `list_files` says why
    return tuple(walk.targets)


class _Walk:
    """A way through all folders: real ones first, so that a link to a folder of the data never names its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[File] = []
        self.hidden: list[str] = []
        self.folders: list[str] = []
        self.same: dict[str, str] = {}
        self.loops: list[str] = []
        self.targets: list[str] = []
        self.read_as: dict[tuple[int, int], str] = {_identity(os.stat(root)): ""}

    def go(self) -> None:
        waiting, links = [""], list[str]()
        while waiting or links:
            if waiting:
                folders, more_links = self._enter(waiting.pop())
                waiting += folders
                links += more_links
            else:
                links.sort(reverse=True)
                link = links.pop()
                if self._is_to_follow(link):
                    waiting.append(link + "/")

    def _enter(self, prefix: str) -> tuple[list[str], list[str]]:
        """Take in one folder; returns the folders and the links to folders in it, which are still to be entered."""
        folders: list[str] = []
        links: list[str] = []
        with os.scandir(os.path.join(self.root, prefix)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = prefix + entry.name
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                    self.hidden.append(_as_text(path))
                elif entry.is_symlink() and (fault := _link_fault(entry)):
                    self.files.append(File(_as_text(path), fault=fault))
                elif entry.is_dir():
                    if not prefix:
                        self.folders.append(_as_text(path))
                    if entry.is_symlink():
                        links.append(path)
                    elif self._is_first_visit(entry, path):
                        folders.append(path + "/")
                else:
                    self.files.append(_file(path, entry))
        return folders, links

    def _is_to_follow(self, link: str) -> bool:
        path = os.path.join(self.root, link)
        target = os.path.realpath(path)
        if any(_is_in(os.path.realpath(inner), target) for inner in (os.path.dirname(path), self.root)):
            self.loops.append(_as_text(link))
            return False
        if not self._is_first_visit(path, link):
            self.same[_as_text(link)] = _as_text(self.read_as[_identity(os.stat(path))])
            return False
        self.targets.append(target)
        return True

    def _is_first_visit(self, folder: os.DirEntry[str] | str, path: str) -> bool:
        return self.read_as.setdefault(_identity(os.stat(folder)), path) == path


def _file(path: str, entry: os.DirEntry[str]) -> File:
    facts = entry.stat()
    if not stat.S_ISREG(facts.st_mode):
        return File(path, fault="not a regular file")  # a pipe or a device: opening it might never end
    fault = "" if _as_text(path) == path else "its name is not UTF-8"
    return File(_as_text(path), bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, fault=fault)


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _is_in(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, both without links."""
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)


def _link_fault(entry: os.DirEntry[str]) -> str:
    """Why a link cannot be followed; empty if it can."""
    try:
        entry.stat()
    except OSError as err:
        is_broken = err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "a broken link" if is_broken else f"a link that cannot be followed: {err.strerror}"
    return ""


def _as_text(path: str) -> str:
    """The name as it can stand in a UTF-8 file: bytes that are not UTF-8 become `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
