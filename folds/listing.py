"""This file lists the files of a data folder: everything below it, links and odd names included, nothing outside it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from folds.errors import UserError

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
    """files: sorted by path; hidden: hidden and system files and folders, left out; folders: those right below root."""

    root: Path
    files: tuple[File, ...]
    hidden: tuple[str, ...]
    folders: tuple[str, ...]


def list_files(root: Path) -> Listing:
    """Every file below `root`. Links are followed inside `root` only, each folder is entered once, so loops end.

    Raises UserError where `root` is no folder, cannot be read, or holds no file.
    """
    if not root.is_dir():
        what = f"{root} is not a folder" if root.exists() else f"there is no folder {root}"
        raise UserError(what, hint="give the folder that holds the training images: `python run.py prepare DATA`")
    try:
        files, hidden, folders = _walk(root)
    except OSError as err:  # not permitted, or a path that is too long
        raise UserError(f"cannot read the folder {err.filename}: {err.strerror}") from err
    if not files:
        raise UserError(f"{root} holds no file", hint="`python run.py prepare DATA` with the folder of the images")
    return Listing(
        root, tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(hidden)), tuple(sorted(folders))
    )


def _walk(root: Path) -> tuple[list[File], list[str], list[str]]:
    files: list[File] = []
    hidden: list[str] = []
    folders: list[str] = []
    inside = os.path.realpath(root)
    seen = {_identity(os.stat(root))}
    waiting: list[str] = [""]
    links: list[str] = []
    while waiting or links:  # real folders first: a link to a folder of the data never gives its files their names
        prefix = waiting.pop() if waiting else links.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = prefix + entry.name
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                    hidden.append(_as_text(path))
                elif entry.is_symlink() and not _leads_inside(entry.path, inside):
                    files.append(File(_as_text(path), fault=_link_fault(entry.path)))
                elif entry.is_dir():
                    if not prefix:
                        folders.append(_as_text(path))
                    if entry.is_symlink():
                        links.append(path + "/")
                    elif _first_visit(entry, seen):
                        waiting.append(path + "/")
                else:
                    files.append(_file(path, entry))
        if not waiting:
            links = [link for link in sorted(links, reverse=True) if _first_visit(os.path.join(root, link), seen)]
            waiting, links = links, []
    return files, hidden, folders


def _file(path: str, entry: os.DirEntry[str]) -> File:
    facts = entry.stat()
    if not stat.S_ISREG(facts.st_mode):
        return File(path, fault="not a regular file")  # a pipe or a device: opening it might never end
    fault = "" if _as_text(path) == path else "its name is not UTF-8"
    return File(_as_text(path), bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, fault=fault)


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _first_visit(folder: os.DirEntry[str] | str, seen: set[tuple[int, int]]) -> bool:
    identity = _identity(os.stat(folder))
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _leads_inside(path: str, inside: str) -> bool:
    target = os.path.realpath(path)
    return os.path.exists(target) and (target + os.sep).startswith(inside.rstrip(os.sep) + os.sep)


def _link_fault(path: str) -> str:
    return "a link that leads outside the data" if os.path.exists(path) else "a broken link"


def _as_text(path: str) -> str:
    """The name as it can stand in a UTF-8 file: bytes that are not UTF-8 become `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
