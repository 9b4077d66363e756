"""Trains fastai's `vision_learner(...).fine_tune(...)` with its own defaults on the folds of a work folder.

It is a script for another Python, one that has fastai, since fastai is no dependency here:
`PYTHON fastai_rival.py WORK --data DATA --weights FILE --seed 0 --epochs 5 --fold 0,1,2 --out OUT`. It reads folds.csv
and folds.json, trains a resnet18 from the JPEG files, and after each fold rewrites OUT.npz (image_id, fold, classes,
probs, tta) and OUT.json: top-3 errors, and seconds of each fold. The last line that it prints is that JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, set_seed, vision_learner
from fastai.vision.learner import model_meta
from safetensors.torch import load_file

ITEM_PIXELS = 2  # pictures are cut to squares of so many times the input's side before augmentation, as fastai advises


def main() -> None:
    options = parse()
    folds = pd.read_csv(options.work / "folds" / "folds.csv", dtype={"image_id": str, "label": str})
    if options.images:
        folds = folds.groupby(["fold", "label"]).head(1).head(options.images)  # a try-out: one picture of each class
    classes = json.loads((options.work / "folds" / "folds.json").read_text())["classes"]
    done: list[dict] = []
    for fold in options.fold:
        done.append(train_fold(folds, classes, fold, options))
        figures = write(done, folds, classes, options)
    print(json.dumps(figures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a work folder in which `prepare` and `split` are done")
    parser.add_argument("--data", type=Path, required=True, help="the folder that `path` in folds.csv starts from")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors of a resnet18")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5, help="of which the first one trains the head alone")
    parser.add_argument("--fold", type=lambda text: [int(k) for k in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=64, help="side of the network's input, in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--images", type=int, help="for a try-out: so many images")
    parser.add_argument("--out", type=Path, required=True, help="OUT.npz and OUT.json are written")
    return parser.parse_args()


def train_fold(folds: pd.DataFrame, classes: list[str], fold: int, options: argparse.Namespace) -> dict:
    """Train on all folds but one; probabilities of that one, in the order of `classes`, plain and under its TTA."""
    start, cpu = time.perf_counter(), cpu_seconds()
    set_seed(1000 * options.seed + fold, reproducible=True)
    learner = make_learner(folds.assign(is_valid=folds["fold"] == fold), options)
    with learner.no_bar():
        learner.fine_tune(options.epochs - 1)
        trained, trained_cpu = time.perf_counter() - start, cpu_seconds() - cpu
        probs, _ = learner.get_preds(dl=learner.dls.valid)
        seconds, seconds_cpu = time.perf_counter() - start, cpu_seconds() - cpu
        tta, _ = learner.tta(dl=learner.dls.valid)
    rows = learner.dls.valid.items.index.to_numpy()
    place = [classes.index(label) for label in learner.dls.vocab]
    return {
        "fold": fold,
        "rows": rows,
        "probs": in_order(probs, place, len(classes)),
        "tta": in_order(tta, place, len(classes)),
        "train_seconds": trained,
        "train_cpu_seconds": trained_cpu,
        "seconds": seconds,
        "cpu_seconds": seconds_cpu,
        "tta_seconds": time.perf_counter() - start - seconds,
        "images_per_second": options.epochs * (len(folds) - len(rows)) / trained,
    }


def make_learner(rows: pd.DataFrame, options: argparse.Namespace):
    """fastai's own head, splitter, rates and augmentations, as for its resnet18; ours has local weights."""

    def local_resnet18(weights=None):
        network = torchvision.models.resnet18(num_classes=len(load_file(options.weights)["fc.bias"]))
        network.load_state_dict(load_file(options.weights))
        return network

    model_meta[local_resnet18] = model_meta[torchvision.models.resnet18]
    loaders = ImageDataLoaders.from_df(
        rows, path=options.data, fn_col="path", label_col="label", valid_col="is_valid",
        item_tfms=Resize(ITEM_PIXELS * options.size), batch_tfms=aug_transforms(size=options.size),
        bs=options.batch_size, num_workers=options.workers, device=device(),
    )  # fmt: skip
    return vision_learner(loaders, local_resnet18)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_order(probs: torch.Tensor, place: list[int], n_classes: int) -> np.ndarray:
    ordered = np.zeros((len(probs), n_classes), np.float32)
    ordered[:, place] = probs.numpy()
    return ordered


def cpu_seconds() -> float:
    """Processor seconds of this process and of its workers that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def write(done: list[dict], folds: pd.DataFrame, classes: list[str], options: argparse.Namespace) -> dict:
    """Whole files, after every fold; returns the figures."""
    rows = np.concatenate([one["rows"] for one in done])
    probs, tta = (np.concatenate([one[name] for one in done]) for name in ("probs", "tta"))
    chosen = folds.loc[rows]
    target = chosen["target"].to_numpy()
    figures = {
        "rival": "fastai",
        "seed": options.seed,
        "epochs": options.epochs,
        "images": len(rows),
        "folds": [one["fold"] for one in done],
        "top3_error": top3_error(probs, target),
        "top3_error_tta": top3_error(tta, target),
        "per_fold": [{k: v for k, v in one.items() if k not in ("rows", "probs", "tta")} for one in done],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_name(f".{options.out.name}.npz")
    np.savez(
        temporary, image_id=chosen["image_id"].to_numpy(dtype=str), fold=chosen["fold"].to_numpy(),
        classes=np.array(classes), probs=probs, tta=tta,
    )  # fmt: skip
    os.replace(temporary, options.out.with_name(f"{options.out.name}.npz"))
    options.out.with_name(f"{options.out.name}.json").write_text(json.dumps(figures, indent=1))
    return figures


def top3_error(probs: np.ndarray, target: np.ndarray) -> float:
    """Share of images whose class is not among the first three; ties go to the lower class."""
    top = np.argsort(-probs, axis=1, kind="stable")[:, :3]
    return float((top != target[:, None]).all(axis=1).mean())


if __name__ == "__main__":
    main()
