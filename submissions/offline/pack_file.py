"""The format of a pack: a zip file, or a folder with what was in it, of `pack.json` and tensors as safetensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemble.blend.blend_json import frozen
from ensemble.weights.recipe import Pool, Recipe
from folds.base.errors import UserError
from folds.base.workspace import digest, replacing
from folds.settings import StoreForm

if TYPE_CHECKING:
    from models.predict.packed import PackedRun

VERSION = 4
HEAD = "pack.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the zip, so that the same ensemble is the same bytes
HINT = "`python run.py pack` writes it again"


@dataclass(frozen=True)
class Smaller:
    """A part of the ensemble, for less time or room.

    members   those that are left, by name, each with the views that are left of it
    oof_top3_error  of the kept weights on the out-of-fold images (in-sample)    cost  share of the whole's, in (0, 1]
    """

    members: Mapping[str, tuple[str, ...]]
    oof_top3_error: float
    cost: float


@dataclass(frozen=True)
class PackedMember:
    """A member's weight, the runs that it averages, and the views of them that it uses."""

    weight: float
    runs: tuple[str, ...]
    views: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    """An ensemble that can predict any picture. Everything but tensors; plain JSON.

    images_per_class  of the training images: unreadable pictures get the most frequent classes
    header, separator, label_separator  of the CSV       bias  by class, of a log pool
    smaller  the whole ensemble first, then ever cheaper parts of it
    files    digest of each file of tensors
    """

    classes: tuple[str, ...]
    images_per_class: tuple[int, ...]
    header: tuple[str, ...]
    separator: str
    label_separator: str
    store_size: int
    store_form: StoreForm
    pool: Pool
    bias: tuple[float, ...] | None
    members: Mapping[str, PackedMember]
    runs: Mapping[str, PackedRun]
    smaller: tuple[Smaller, ...]
    is_half: bool
    expected_top3_error: float
    folds_digest: str
    files: Mapping[str, str]

    def recipe(self, members: Iterable[str]) -> Recipe:
        """The weights of some members, in the order of their names; what the others had is shared out among them."""
        names = sorted(members)
        weights = np.array([self.members[name].weight for name in names])
        if len(names) < len(self.members):
            weights *= sum(member.weight for member in self.members.values()) / weights.sum()
        return Recipe(self.pool, weights, None if self.bias is None else np.array(self.bias))


def save_pack(path: Path, pack: Pack, files: Iterable[tuple[str, bytes]]) -> int:
    """Write the zip, one file after another; returns its length in bytes. The digests in `pack.files` are made here."""
    digests: dict[str, str] = {}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            digests[name] = digest(data)
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
        head = {"version": VERSION, **asdict(pack), "files": digests}
        archive.writestr(zipfile.ZipInfo(HEAD, EPOCH), json.dumps(head, indent=1, ensure_ascii=False).encode())
    return path.stat().st_size


class OpenPack:
    """A pack on disk: its head, and its files by name. digest: of the head, which names the digests of all others."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where there is no pack, or where it is damaged or of another version."""
        self.path = path
        self.archive = None
        try:
            if not path.is_dir():
                self.archive = zipfile.ZipFile(path)
            head = self._bytes(HEAD)
            stored = json.loads(head)
        except FileNotFoundError as err:
            raise UserError(f"there is no pack {path}", hint="`python run.py pack` writes one") from err
        except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as err:
            raise UserError(f"{path} is no pack, or a damaged one: {err}", hint=HINT) from err
        if not isinstance(stored, dict) or stored.get("version") != VERSION:
            found = stored.get("version") if isinstance(stored, dict) else None
            raise UserError(f"{path} has version {found}, and this kit reads version {VERSION}", hint=HINT)
        self.digest = digest(head)
        try:
            self.pack = _from_json(stored)
        except (KeyError, TypeError, AttributeError) as err:
            raise UserError(f"{path} is damaged: {type(err).__name__} {err}", hint=HINT) from err

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises UserError where it lacks or is not what was packed."""
        try:
            data = self._bytes(name)
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as err:
            raise UserError(f"{self.path} lacks {name}, or it is damaged: {err}", hint=HINT) from err
        if digest(data) != self.pack.files.get(name):
            raise UserError(f"{self.path}: checksum mismatch, {name} changed after it was packed", hint=HINT)
        return data

    def _bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes() if self.archive is None else self.archive.read(name)


def _from_json(stored: dict[str, Any]) -> Pack:
    from models.predict.packed import PackedRun

    fields = {name: frozen(stored[name]) for name in Pack.__dataclass_fields__}

    def packed(one: dict[str, Any]) -> PackedRun:
        return PackedRun(**{**one, "beside": tuple(map(packed, one["beside"]))})

    fields["members"] = {name: PackedMember(**one) for name, one in fields["members"].items()}
    fields["runs"] = {name: packed(one) for name, one in fields["runs"].items()}
    fields["smaller"] = tuple(Smaller(**one) for one in fields["smaller"])
    return Pack(**fields)
