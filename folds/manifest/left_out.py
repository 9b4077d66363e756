"""Keeps small pictures of what was left out: those files have no row in the pixel store, and people look."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from folds.base.workspace import Workspace, write_bytes
from folds.manifest.manifest import LEFT_OUT
from folds.pixels.store import Pixels

MOST = 500  # pictures; 96 x 96 pixels take up to 27 KB each
SIDE = 96  # pixels; squashed like the store's


def left_out_path(workspace: Workspace) -> Path:
    return workspace.folds / "left-out.npz"


def write_left_out(workspace: Workspace, manifest: pd.DataFrame, pixels: Pixels) -> None:
    """Keep the pictures of the first left-out files that decoded. pixels (rows of the manifest, S, S, 3) uint8."""
    rows = np.flatnonzero(manifest["status"] == LEFT_OUT)[:MOST]
    side = min(SIDE, pixels.shape[1])
    small = [np.asarray(Image.fromarray(pixels[row]).resize((side, side), Image.Resampling.BOX)) for row in rows]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        path=manifest["path"].to_numpy(dtype=str)[rows],
        pixels=np.stack(small) if small else np.empty((0, side, side, 3), np.uint8),
    )
    write_bytes(left_out_path(workspace), buffer.getvalue())


def read_left_out(workspace: Workspace) -> Mapping[str, np.ndarray]:
    """(side, side, 3) uint8 by the path below DATA; empty where nothing was kept."""
    try:
        with np.load(left_out_path(workspace), allow_pickle=False) as arrays:
            return dict(zip(arrays["path"].tolist(), arrays["pixels"], strict=True))
    except (OSError, ValueError, KeyError, EOFError):
        return {}
