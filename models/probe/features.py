"""What a frozen backbone finds in every image, kept on disk: one pass serves the heads of all folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, digest, read_json, read_json_if_whole, replacing, reserve, write_json
from folds.manifest.manifest import read_manifest_bytes
from folds.pixels.store import PixelStore
from models.backbones import Backbone, build_network
from models.input.views import split_view, view_size
from models.predict.model import Model, Passes

VERSION = 2  # of these files and of what is asked of the backbone: files of another version are made anew
# Half the bytes of float32: 630 MB for 102,576 images x 3,072 features under one view. What bfloat16 finds is kept to
# the last bit; OOF top-3 error of frozen resnet18 on Caltech-101: 0.1983, with float32 on disk 0.1986.
STORED = np.float16
LARGEST = float(np.finfo(STORED).max)


@dataclass(frozen=True)
class FrozenBody:
    """A backbone that is not trained, or not any more, and how it is asked.

    weights     its file; None for random ones, drawn from `seed`     size  side of its input, in pixels
    is_trained  on images of this competition: it sees them unlike test images
    """

    backbone: Backbone
    weights: Path | None
    size: int
    device: torch.device
    precision: torch.dtype
    seed: int = 0
    is_trained: bool = False

    @property
    def precision_name(self) -> str:
        return str(self.precision).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """What decides the features of given pixels, to the last bit on one machine; plain JSON."""
        weights = digest(self.weights.read_bytes()) if self.weights else f"random, seed {self.seed}"
        own = {"weights": weights, "image_size": self.size, "precision": self.precision_name}
        facts = {**asdict(self.backbone), **own}
        facts |= {"is_trained": True} if self.is_trained else {}
        return dict(json.loads(json.dumps(facts)))

    def model(self) -> Model:
        """The network on its device, with a head that is not used."""
        with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on whether features lay on disk
            torch.manual_seed(self.seed)
            network = build_network(self.backbone, 1, size=self.size, weights=self.weights)
        network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return Model(network, self.backbone, self.size, self.device, self.precision, shift=np.zeros(1))


@dataclass(frozen=True)
class FeatureFile:
    """Features of n images under one view: `path` holds (n, D) float16, and a JSON file beside it records of what.

    The D columns are those of the `pooled_features`, side by side; the JSON file has their numbers as `widths`.
    """

    path: Path
    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hexadecimal digits: a digest of everything that the features depend on."""
        return self.path.stem

    def load(self) -> np.ndarray:
        """(n, D) float16, read-only, memory-mapped."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def stages(self) -> list[np.ndarray]:
        """Each of the `pooled_features`, (n, d) float16; what the classifier would get is the last."""
        widths = read_json(self.path.with_suffix(".json"), hint=f"remove {self.path.parent}")["widths"]
        return np.split(self.load(), np.cumsum(widths)[:-1], axis=1)

    def is_whole(self) -> bool:
        """Whether the file is there and holds what was written; a damaged one, or one of other images, does not."""
        head = read_json_if_whole(self.path.with_suffix(".json"))
        try:
            return head.get("facts") == self.facts and head.get("digest") == _digest(self.load())
        except (OSError, ValueError, EOFError, KeyError, TypeError):  # what numpy raises for a damaged file
            return False


def image_features(
    workspace: Workspace,
    store: PixelStore,
    rows: np.ndarray,
    body: FrozenBody,
    *,
    views: Sequence[str],
    **passes: Unpack[Passes],
) -> dict[str, FeatureFile]:
    """The features of store rows by view, read from disk where they are there, else made in one pass for all views.

    rows  (n,) int rows of the store; the files are for these images in this order, and other rows get others
    """
    facts = {
        **body.facts(),
        "version": VERSION,
        "manifest": digest(read_manifest_bytes(workspace)),  # it holds a checksum of each image's pixels
        "store": store.identity,
        "images": digest("\n".join([*store.split[rows], *store.image_id[rows]]).encode()),
    }
    files = {}
    for view in views:
        # A view that names its side is what a body of that side has under the plain view, and has its file.
        own = {**facts, "view": split_view(view)[0], "image_size": view_size(view, body.size)}
        files[view] = FeatureFile(workspace.features / f"{digest(json.dumps(own, sort_keys=True).encode())}.npy", own)
    seen = tuple(view for view, file in files.items() if not file.is_whole())
    lacking = [files[view] for view in seen]
    if not lacking:
        return files
    with ExitStack() as stack:
        paths = [stack.enter_context(replacing(file.path)) for file in lacking]
        arrays: list[np.memmap] = []
        start = 0
        for stages in body.model().features(store, rows, seen, **passes):
            widths = [one.shape[2] for one in stages]
            stop = start + stages[0].shape[1]  # stages (V, B, d): host memory holds a batch, not the features
            finite = torch.stack([torch.isfinite(one).all(dim=2).all(dim=0) for one in stages]).all(dim=0).cpu().numpy()
            if not finite.all():
                odd = first_few(list(store.image_id[rows[start:stop]][~finite]))
                raise UserError(f"{body.backbone.tag} has no finite features for {odd}", hint="`--precision fp32`")
            if not arrays:
                arrays = [np.lib.format.open_memmap(path, "w+", STORED, (len(rows), sum(widths))) for path in paths]
                for path in paths:
                    reserve(path, path.stat().st_size)
            for array, of_view in zip(arrays, stored(stages), strict=True):
                array[start:stop] = of_view
            start = stop
        for array in arrays:
            array.flush()
    for file in lacking:  # the JSON comes last: without it the features do not count as there
        features = file.load()
        head = {"facts": file.facts, "shape": list(features.shape), "widths": widths, "digest": _digest(features)}
        write_json(file.path.with_suffix(".json"), head)
    return files


def stored(stages: Sequence[Tensor]) -> np.ndarray:
    """Stages (V, B, d) side by side as they lie on disk, (V, B, D) float16."""
    return torch.cat(list(stages), dim=2).clamp(-LARGEST, LARGEST).cpu().numpy().astype(STORED)


def _digest(features: np.ndarray) -> str:
    return digest(np.ascontiguousarray(features).data.cast("B")) if features.size else ""
