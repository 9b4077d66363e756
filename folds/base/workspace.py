"""The paths of the work folder, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from folds.base.errors import CannotWriteError, UserError

SEAL = "seal"  # the last key of each JSON object that is written: the digest of all before it
ABANDONED_SECONDS = 3600  # a temporary file of another host that was not written to for so long has no writer any more


class _Below:
    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, workspace: Workspace, owner: type) -> Path:
        return workspace.root / self.path


@dataclass(frozen=True)
class Workspace:
    """The paths of one work folder. Each room writes only below its own folder."""

    root: Path
    folds = _Below("folds")
    manifest = _Below("folds/manifest.csv")
    sample = _Below("folds/sample_submission.csv")  # copies of DATA's CSVs, bytes as they came, if it has them:
    labels = _Below("folds/labels.csv")  # `split` may want their columns
    prepare_json = _Below("folds/prepare.json")  # what `prepare` depended on, so that a second one does nothing
    folds_csv = _Below("folds/folds.csv")
    folds_json = _Below("folds/folds.json")
    models = _Below("models")
    features = _Below("models/_features")  # what frozen backbones saw, and heads: kept for speed, safe to remove
    ensemble = _Below("ensemble")
    blend = _Below("ensemble/blend.json")
    early_blend = _Below("ensemble/probe.json")  # of the probes alone; `all` makes it before it trains
    members = _Below("ensemble/members")  # made by other tools
    submissions = _Below("submissions")
    report = _Below("report")

    def fold(self, run: str, fold: int | str) -> Path:
        return self.models / run / f"fold{fold}"

    def refit(self, run: str) -> Path:
        """Where the network lies that was trained on every image."""
        return self.models / run / "all"

    def lock(self, what: str) -> Path:
        """The file that says who is at work on something; there as long as somebody is."""
        return self.root / "locks" / f"{what}.lock"


def digest(data: bytes | memoryview) -> str:
    """16 hexadecimal digits (64 bits of BLAKE2b) that stand for the bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to; on leaving it is synced and takes the name of `path`, on an error it is gone.

    Raises CannotWriteError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{this_host()}.{os.getpid()}.tmp")
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a read-only folder says so even of a file that it lacks
            temporary.unlink(missing_ok=True)


@contextmanager
def refusing(path: Path, *, hint: str | None = None) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into a CannotWriteError."""
    try:
        yield
    except OSError as err:
        way_out = "make it writable" if err.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "free some room"
        hint = hint or f"{way_out} or choose another folder with `--work DIR`"
        raise CannotWriteError(f"cannot write {path}: {err.strerror or err}", hint=hint) from err


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in a folder: temporary files whose writer is no more."""
    for temporary in folder.glob(".*.tmp"):
        *_, host, pid, _ = temporary.name.split(".")
        try:
            if host != this_host():
                is_left = time.time() - temporary.stat().st_mtime > ABANDONED_SECONDS
            else:
                is_left = pid.isdigit() and not is_alive(int(pid))
            if is_left:
                temporary.unlink(missing_ok=True)
        except OSError:
            continue  # another process was faster, or the folder is read-only: it is not needed to go on


def reserve(path: Path, size: int) -> None:
    """Give a file its bytes on the disk now: writing to a map of a sparse file ends in a crash once the disk is full.

    Raises OSError where there is no room; a file system that cannot promise room is believed to have it.
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return
    with open(path, "rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as err:
            if err.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Write the whole file or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, keys in the order given; an object ends with the seal of its content."""
    if isinstance(value, dict):
        value = {**value, SEAL: _seal(value)}
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, *, hint: str) -> Any:
    """The value in a JSON file, without its seal.

    Raises UserError, with `hint`, where it is absent or damaged, or not what was sealed: a byte changed in any value.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise UserError(f"{path} does not exist", hint=hint) from err
    except (ValueError, OSError, RecursionError) as err:
        raise UserError(f"{path} is damaged: {err}", hint=hint) from err
    if isinstance(value, dict) and SEAL in value:
        seal = value.pop(SEAL)
        if seal != _seal(value):
            raise UserError(f"{path} is damaged: its content is not what was written", hint=hint)
    return value


def read_json_if_whole(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where it is absent or damaged, since what it tells is made again then."""
    try:
        value = read_json(path, hint="")
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def _seal(value: dict[str, Any]) -> str:
    return digest(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))


@cache
def this_host() -> str:
    """8 hexadecimal digits: this machine since it was started, and the container, where process numbers are unique."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read().strip())
        except OSError:
            parts.append("")
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine; one that has ended and is not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1] != ["Z"]
    except OSError:
        return True  # not Linux
