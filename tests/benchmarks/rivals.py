"""Rivals on the same images and folds, each where it can be imported: another Python may have it.

    python tests/benchmarks/rivals.py autogluon|hillclimbers FOLDER
    python tests/benchmarks/rivals.py timm|fastai WORK DATA --labels CSV
        --backbone NAME --weights FILE --lr 1e-4 --epochs 12

The first two blend what `tests.benchmarks.blend` leaves in FOLDER: probs.npy (M, N, C), target.npy and fold.npy. The
others fine-tune from the weights and images of a work folder on all folds but the first, predict the test images, and
score them on labels that were kept aside, `id,label`. `timm`: AdamW, one rate, warm-up and cosine, timm's own training
transform, two views. `fastai`: `fine_tune` with its own transforms, head, schedule and views. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import sys
import time
from pathlib import Path

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

BATCH = 64


def top3_error(target, probs):
    own = probs[np.arange(len(target)), target][:, None]
    return float(((probs > own).sum(axis=1) >= 3).mean())


def autogluon(probs, target):
    """25 steps, as by default, on the top-3 error."""
    from autogluon.core.metrics import make_scorer
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    scorer = make_scorer("top3", lambda y, p: 1 - top3_error(np.asarray(y), p), optimum=1, needs_proba=True)
    selection = EnsembleSelection(ensemble_size=25, problem_type="multiclass", metric=scorer)
    selection.fit(list(probs), target)
    return np.asarray(selection.weights_, float)


def hillclimbers(probs, target):
    """Precision 0.05; it knows vectors only, so that the (N, C) matrices travel as columns of rows."""
    from hillclimbers import climb_hill

    frame = pd.DataFrame({f"m{m:02d}": probs[m].reshape(-1) for m in range(len(probs))})
    truth = pd.DataFrame({"y": np.zeros(len(frame), np.int8)})
    with contextlib.redirect_stdout(io.StringIO()):
        made = climb_hill(
            train=truth, oof_pred_df=frame, test_pred_df=pd.DataFrame(np.eye(len(probs)), columns=frame.columns),
            target="y", objective="minimize", precision=0.05, plot_hill=False,
            # hillclimbers asks for the name of a partial's function
            eval_metric=functools.partial(lambda y, p: top3_error(target, np.asarray(p).reshape(probs.shape[1:]))),
        )  # fmt: skip
    return np.asarray(made, float)  # the blend of the unit vectors is the weights


def blend(name: str, folder: str) -> None:
    probs, target, fold = (np.load(f"{folder}/{part}.npy") for part in ("probs", "target", "fold"))
    fit = {"autogluon": autogluon, "hillclimbers": hillclimbers}[name]
    try:
        fit(probs[:, :200], target[:200])
    except ImportError as err:
        print(json.dumps({"skipped": str(err)}))
        return
    start = time.perf_counter()
    weights = fit(probs, target)
    seconds, missed = time.perf_counter() - start, 0.0
    for k in np.unique(fold):
        part = fit(probs[:, fold != k], target[fold != k])
        missed += (fold == k).sum() * top3_error(target[fold == k], np.tensordot(part, probs[:, fold == k], 1))
    in_sample = top3_error(target, np.tensordot(weights, probs, 1))
    print(json.dumps({"seconds": seconds, "in_sample": in_sample, "crossfit": missed / len(target)}))


def fine_tune() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rival", choices=["timm", "fastai"])
    parser.add_argument("work", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folds = pd.read_csv(options.work / "folds" / "folds.csv", dtype={"image_id": str, "label": str})
    manifest = pd.read_csv(options.work / "folds" / "manifest.csv", dtype={"image_id": str})
    kept = pd.read_csv(options.labels, dtype=str)
    kept.columns = ["image_id", "label"]
    test = manifest[(manifest["split"] == "test") & (manifest["status"] == "usable")][["image_id", "path"]]
    test = test.merge(kept, on="image_id", validate="one_to_one")
    assert len(test), f"{options.labels} has the labels of no test image"
    classes = json.loads((options.work / "folds" / "folds.json").read_text())["classes"]
    target = np.array([classes.index(label) for label in test["label"]])
    import torch
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True  # test images may be cut off, and are to be predicted all the same
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002  fastai's transforms draw from it
    began = time.perf_counter()
    train = {"timm": train_timm, "fastai": train_fastai}[options.rival]
    probs = train(folds[folds["fold"] != 0], test, classes, options)
    rank = (probs > probs[np.arange(len(target)), target][:, None]).sum(1)
    figures = {name: getattr(options, name) for name in ("rival", "backbone", "lr", "epochs", "size", "seed")}
    figures |= {"top1_error": float((rank >= 1).mean()), "top3_error": float((rank >= 3).mean())}
    figures |= {"images": len(target), "seconds": round(time.perf_counter() - began)}
    print(json.dumps(figures))


class Pictures:
    def __init__(self, paths: list[Path], target: list[int], transform) -> None:
        self.paths, self.target, self.transform = paths, target, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        from PIL import Image

        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.target[i]


def train_timm(rows: pd.DataFrame, test: pd.DataFrame, classes: list[str], options) -> np.ndarray:
    import timm
    import torch
    from timm.data import create_transform, resolve_model_data_config
    from timm.scheduler import CosineLRScheduler
    from torch.utils.data import DataLoader

    network = timm.create_model(
        options.backbone,
        pretrained=True,
        num_classes=len(classes),
        pretrained_cfg_overlay={"file": str(options.weights)},
    ).to(memory_format=torch.channels_last)
    config = resolve_model_data_config(network) | {"input_size": (3, options.size, options.size)}
    shown = Pictures(
        [options.data / path for path in rows["path"]],
        [classes.index(label) for label in rows["label"]],
        create_transform(**config, is_training=True),
    )
    loader = DataLoader(shown, BATCH, shuffle=True, drop_last=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.05)
    steps = options.epochs * len(loader)
    schedule = CosineLRScheduler(optimiser, t_initial=steps, warmup_t=len(loader), warmup_lr_init=options.lr / 100)
    step = 0
    for _ in range(options.epochs):
        network.train()
        for images, target in loader:
            schedule.step(step)
            step += 1
            loss = torch.nn.functional.cross_entropy(network(images.to(memory_format=torch.channels_last)), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()
    hidden = Pictures([options.data / path for path in test["path"]], [0] * len(test), create_transform(**config))
    with torch.inference_mode():
        probs = [
            (network(images).softmax(1) + network(images.flip(3)).softmax(1)) / 2
            for images, _ in DataLoader(hidden, 2 * BATCH)
        ]
    return torch.cat(probs).numpy()


def train_fastai(rows: pd.DataFrame, test: pd.DataFrame, classes: list[str], options) -> np.ndarray:
    import torch
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, vision_learner

    loaders = ImageDataLoaders.from_df(
        rows, path=options.data, fn_col="path", label_col="label", valid_pct=0.02, seed=options.seed,
        item_tfms=Resize(2 * options.size), batch_tfms=aug_transforms(size=options.size), bs=BATCH, num_workers=0,
    )  # fmt: skip
    overlay = {"file": str(options.weights)}
    learner = vision_learner(loaders, options.backbone, pretrained_cfg_overlay=overlay)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(options.epochs - 1, base_lr=options.lr)  # one epoch of the head alone, then these
        shown = learner.dls.test_dl(test, with_labels=False)
        views = [learner.get_preds(dl=shown)[0]]
        views.append(learner.tta(dl=shown, beta=0)[0])  # the mean of four augmented views
    place = [classes.index(label) for label in learner.dls.vocab]
    probs = np.zeros((len(test), len(classes)))
    probs[:, place] = torch.stack(views).mean(0).numpy()
    return probs


if __name__ == "__main__":
    blend(*sys.argv[1:]) if sys.argv[1:2] in (["autogluon"], ["hillclimbers"]) else fine_tune()
