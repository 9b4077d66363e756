"""Measures what it costs to bring a picture to the device: `python -m tests.benchmarks.input`.

Host time per image from the pixel store to a uint8 batch on the device, rows in random order, page cache warm; and of
the same pictures from their JPEG files through timm's `create_loader` and through torchvision's `ImageFolder` in a
`DataLoader`, both with the usual training transforms. The store's batches are cropped and normalised on the device
afterwards, which `tests.benchmarks.augment` measures. A rival's cost is that of three epochs less that of one, so that
starting its processes costs it nothing; what its processes compute counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, usable_rows
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings
from models.device import choose_device
from models.input.batches import gather_batches
from tests.benchmarks.measure import Cost, cost_of, finish, make_pictures, ranged, show, spread

EPOCHS_OF_OURS = 16  # in one go: an epoch of a few hundred images would measure the start of the thread
MOST_SECONDS, LEAST_TIMES = 25e-6, 20  # the goals
SIZE = 288  # of the store and of the rivals' crops
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(
    *, data: Path | None = None, pictures: int = 512, workers: int = 1, repeats: int = 3, record: bool = True
) -> None:
    """Measure, print the table, and append the figures to results.jsonl.

    data     a competition's folder; made-up pictures of 500 x 375 if none     pictures  how many of them, at most
    workers  processes of the rivals; timm's default is 1
    """
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as temporary:
        workspace, folder = Workspace(Path(temporary) / "work"), data or Path(temporary) / "data"
        if data is None:
            make_pictures(folder, pictures)
        prepare(workspace, folder, PrepareSettings(store_size=SIZE))
        files = link_pictures(workspace, folder, Path(temporary) / "classes", most=pictures)
        figures = measure(workspace, files, size=SIZE, batch=64, workers=workers, repeats=repeats, device=device)
    rows = [
        (
            name,
            ranged(cpu, scale=1e6),
            ranged(figures["wall_seconds_per_image"][name], scale=1e6),
            f"{figures['times_ours'][name]:,.0f}",
        )
        for name, cpu in figures["cpu_seconds_per_image"].items()
    ]
    goal = f"goal: at most {MOST_SECONDS * 1e6:.0f} us, rivals at least {LEAST_TIMES} times"
    headings = ("", "host CPU, us per image", "wall, us per image", "times the store's CPU")
    show(f"{figures['pictures']:,} pictures to {SIZE} x {SIZE}, {goal}", headings, rows)
    finish("input", figures, keep=record)


def link_pictures(workspace: Workspace, data: Path, folder: Path, *, most: int) -> Path:
    """The usable training pictures as a folder per class, of links: what ImageFolder reads."""
    usable = usable_rows(read_manifest(workspace), split="train").head(most)
    for path, label in zip(usable["path"], usable["label"], strict=True):
        link = folder / label / path.replace("/", "_")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((data / path).resolve())
    return folder


def measure(
    workspace: Workspace, files: Path, *, size: int, batch: int, workers: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Cost per image of the store and of each rival, by turns."""
    n = sum(1 for _ in files.rglob("*.*"))
    works: dict[str, Callable[[], Cost]] = {
        "store": lambda: ours(workspace, n, batch=batch, device=device),
        "timm": lambda: marginal(lambda: timm_loader(files, size=size, batch=batch, workers=workers, device=device)),
        "torchvision": lambda: marginal(lambda: torchvision_loader(files, size=size, batch=batch, workers=workers)),
    }
    rounds = [{name: work() for name, work in works.items()} for _ in range(repeats + 1)][1:]  # the first warms up
    costs = {name: [one[name] for one in rounds] for name in works}
    cpu = {name: spread(cost.cpu for cost in one) for name, one in costs.items()}
    return {
        "device": str(device),
        "pictures": n,
        "size": size,
        "batch": batch,
        "workers": workers,
        "cpu_seconds_per_image": cpu,
        "wall_seconds_per_image": {name: spread(cost.wall for cost in one) for name, one in costs.items()},
        "times_ours": {name: cpu[name]["median"] / cpu["store"]["median"] for name in cpu},
    }


def ours(workspace: Workspace, n: int, *, batch: int, device: torch.device) -> Cost:
    """Cost per image of some epochs of n rows, each in its own random order."""
    store, rng = open_store(workspace), np.random.default_rng(0)
    rows = [rng.permutation(n)[: n // batch * batch] for _ in range(EPOCHS_OF_OURS)]
    batches = np.concatenate(rows).reshape(-1, batch)

    def run() -> None:
        for _ in gather_batches(store.pixels, list(batches), device):
            pass

    return cost_of(run, device).per(batches.size)


def marginal(make: Callable[[], Any]) -> Cost:
    """Cost per image of an epoch, less the loader's start: of three epochs less one, by two."""
    seen = 0

    def run(epochs: int) -> None:
        nonlocal seen
        loader, seen = make(), 0
        for _ in range(epochs):
            for images, *_ in loader:
                seen += len(images)

    short = cost_of(lambda: run(1))
    long = cost_of(lambda: run(3))
    return long.minus(short).per(seen * 2 / 3)


def timm_loader(files: Path, *, size: int, batch: int, workers: int, device: torch.device) -> Any:
    """Its own defaults for training: random crop, mirror, colour jitter; its prefetcher normalises on the device."""
    dataset = create_dataset("", root=str(files), is_training=True)
    return create_loader(dataset, (3, size, size), batch, is_training=True, num_workers=workers, device=device)


def torchvision_loader(files: Path, *, size: int, batch: int, workers: int) -> Any:
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = ImageFolder(str(files), transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    return DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True)


if __name__ == "__main__":
    cyclopts.run(main)
