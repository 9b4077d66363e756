"""Keeps on disk what a frozen backbone sees of every image, asked once for the heads of all folds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, read_json, replacing, reserve, write_json
from folds.manifest.manifest import read_manifest_bytes
from folds.pixels.store import PixelStore
from models.input.batches import gather_batches
from models.input.inputs import network_input
from models.input.views import view_boxes
from models.probe.frozen import FrozenBody, ask_frozen, refuse_odd

VERSION = 1  # of these files and of what is asked of the backbone: files of another version are made anew
# Half the bytes of float32: 420 MB for 102,576 images x 2,048 features under one view. What bfloat16 finds is kept to
# the last bit; OOF top-3 error of frozen resnet18 on Caltech-101: 0.1983, with float32 on disk 0.1986.
STORED = np.float16
LARGEST = float(np.finfo(STORED).max)


def image_features(
    workspace: Workspace,
    store: PixelStore,
    rows: np.ndarray,
    body: FrozenBody,
    *,
    views: Sequence[str],
    batch_size: int = 128,
    what: str = "features",
    track: Track = silently,
) -> list[FeatureFile]:
    """The features of store rows under each view, from disk where they lie there, else made in one pass for all views.

    rows  (n,) int rows of the store; the files are for these images in this order, and other rows get others
    """
    facts = {**body.facts(), **_facts_of_images(workspace, store, rows)}
    files = [_file(workspace, {**facts, "view": view}) for view in views]
    lacking = [file for file in files if not file.is_whole()]
    if lacking:
        _make(lacking, store, rows, body, batch_size=batch_size, what=what, track=track)
    return files


@dataclass(frozen=True)
class FeatureFile:
    """Features of n images under one view: `path` holds (n, D) float16, and a JSON file beside it says of what."""

    path: Path
    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for everything that the features depend on."""
        return self.path.stem

    def load(self) -> np.ndarray:
        """(n, D) float16, read-only, memory-mapped."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def is_whole(self) -> bool:
        """Whether the file is there and holds what was written; a damaged or foreign one counts as absent."""
        try:
            head = read_json(self.path.with_suffix(".json"), hint="")
            return head["facts"] == self.facts and head["digest"] == _digest(self.load())
        except (UserError, OSError, ValueError, EOFError, KeyError, TypeError):
            return False

    def describe(self) -> None:
        """Write the JSON file, last of all: without it the features do not count as there."""
        features = self.load()
        head = {"facts": self.facts, "shape": list(features.shape), "digest": _digest(features)}
        write_json(self.path.with_suffix(".json"), head)


def _file(workspace: Workspace, facts: dict[str, Any]) -> FeatureFile:
    key = digest(json.dumps(facts, sort_keys=True).encode())
    return FeatureFile(workspace.features / f"{key}.npy", facts)


def _facts_of_images(workspace: Workspace, store: PixelStore, rows: np.ndarray) -> dict[str, Any]:
    """Which images, and which pixels of theirs: the manifest holds a sum of each image's row in the store."""
    return {
        "version": VERSION,
        "manifest": digest(read_manifest_bytes(workspace)),
        "store": store.identity,
        "images": digest("\n".join([*store.split[rows], *store.image_id[rows]]).encode()),
    }


def _digest(features: np.ndarray) -> str:
    return digest(np.ascontiguousarray(features).data.cast("B")) if features.size else ""


def _make(
    files: Sequence[FeatureFile],
    store: PixelStore,
    rows: np.ndarray,
    body: FrozenBody,
    *,
    batch_size: int,
    what: str,
    track: Track,
) -> None:
    """One pass over the rows for all files; host memory holds a batch, not the features."""
    with ExitStack() as stack:
        paths = [stack.enter_context(replacing(file.path)) for file in files]
        pieces = _feature_batches(
            [file.facts["view"] for file in files], store, rows, body, batch_size=batch_size, what=what, track=track
        )
        arrays: list[np.memmap] = []
        start = 0
        for piece in pieces:  # (V, B, D)
            shape = (len(rows), piece.shape[2])
            arrays = arrays or [_new_array(path, shape) for path in paths]
            for array, seen in zip(arrays, piece, strict=True):
                array[start : start + len(seen)] = seen
            start += piece.shape[1]
        for array in arrays:
            array.flush()
    for file in files:
        file.describe()


def _new_array(path: Path, shape: tuple[int, int]) -> np.memmap:
    """An npy file of zeros, mapped, whose room on the disk is its own."""
    array = np.lib.format.open_memmap(path, "w+", STORED, shape)
    reserve(path, path.stat().st_size)
    return array


def _feature_batches(
    views: Sequence[str],
    store: PixelStore,
    rows: np.ndarray,
    body: FrozenBody,
    *,
    batch_size: int,
    what: str,
    track: Track,
) -> Iterator[np.ndarray]:
    """(V, B, D) float16 for one batch after another; one of no images where there are no rows."""
    network, backbone = body.network(), body.backbone
    boxes = [
        view_boxes(view, width=store.width[rows], height=store.height[rows], crop_share=backbone.crop_share)
        for view in views
    ]
    starts = range(0, len(rows), batch_size)
    batches = [rows[start : start + batch_size] for start in starts]
    gathered = track(gather_batches(store.pixels, batches, body.device), what=what, total=len(rows), each=batch_size)
    for start, pixels in zip(starts, gathered, strict=True):
        seen = [
            network_input(pixels, box[start : start + batch_size], size=body.size, backbone=backbone) for box in boxes
        ]
        features = ask_frozen(network, seen, body)
        refuse_odd(features, store.image_id[batches[start // batch_size]], body)
        yield features.clamp(-LARGEST, LARGEST).cpu().numpy().astype(STORED)
    if not len(rows):
        none = torch.zeros(1, 3, body.size, body.size, device=body.device)
        yield ask_frozen(network, [none] * len(views), body)[:, :0].cpu().numpy().astype(STORED)
