"""This file knows where everything lies in the work folder, and how a file is written: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.errors import UserError


@dataclass(frozen=True)
class Workspace:
    """The paths of one work folder. Each room writes only below its own folder."""

    root: Path

    @property
    def folds(self) -> Path:
        return self.root / "folds"

    @property
    def manifest(self) -> Path:
        return self.folds / "manifest.csv"

    @property
    def folds_csv(self) -> Path:
        return self.folds / "folds.csv"

    @property
    def folds_json(self) -> Path:
        return self.folds / "folds.json"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def fold(self, run: str, fold: int | str) -> Path:
        return self.models / run / f"fold{fold}"

    @property
    def ensemble(self) -> Path:
        return self.root / "ensemble"

    @property
    def blend(self) -> Path:
        return self.ensemble / "blend.json"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"


def digest(data: bytes | memoryview) -> str:
    """16 hexadecimal digits (64 bits of BLAKE2b) that stand for the bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to; on leaving it is synced and takes the name of `path`, on an error it is gone.

    Raises UserError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as err:
        hint = "free some room or choose another folder with `--work DIR`"
        raise UserError(f"cannot write {path}: {err.strerror or err}", hint=hint) from err
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, *, hint: str) -> Any:
    """The value in a JSON file. Raises UserError, with `hint`, where it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise UserError(f"{path} does not exist", hint=hint) from err
    except (ValueError, OSError) as err:
        raise UserError(f"{path} is damaged: {err}", hint=hint) from err
