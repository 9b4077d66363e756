"""Makes a small work folder, trains small nets on it, and reads what they left; fills in their settings."""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from folds.base.metrics import topk_error
from folds.base.workspace import Workspace, digest
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import load_folds, split
from models.jobs.plan import plan_job, train_runs
from models.predict.again import predict_run
from models.predict.predictions import load_predictions
from models.recipes import FullSettings, full_settings
from models.runs import done_folds, plan_runs
from models.settings import PredictSettings, TrainSettings
from models.train.fold import make_trainer
from models.train.stepper import Stepper
from models.watch.events import EpochRow, FoldStarted
from tests.competition import make_competition

SETTINGS = TrainSettings(
    backbone=("test_resnet",),
    pretrained=False,
    image_size=32,
    epochs=2,
    batch_size=8,
    lr=3e-3,
    head_lr_scale=1.0,
    precision="fp32",
    device="cpu",
)
VIEWS = PredictSettings(views=("centre", "mirror"))


def full(settings: TrainSettings | None = None, **values) -> FullSettings:
    """The settings, or some values, of a small net from scratch."""
    settings = settings or TrainSettings(**values)
    return full_settings(settings, tag="test_resnet.r160_in1k", has_weights=False, n_train=16)


def prepared(folder):
    """A work folder with pixels and two folds of 4 classes x 8 images."""
    shutil.copytree(_made_once().name, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
    return Workspace(folder / "work")


def copied(workspace, folder):
    return Workspace(shutil.copytree(workspace.root, folder / "work"))


def prepared_from(data, folder):
    """A work folder for other pictures."""
    workspace = Workspace(folder / "work")
    prepare(workspace, data, PrepareSettings(store_size=32, workers=1))
    split(workspace, SplitSettings(n_folds=2), seed=0)
    return workspace


@cache
def _made_once():
    made = TemporaryDirectory(prefix="foldblend-prepared-")
    prepared_from(make_competition(Path(made.name) / "data"), Path(made.name))
    return made


def save_body(path, name="test_resnet", *, n_classes=7, seed=3, **options):
    """A file with random weights of a net, as a hub would have it. options: of timm"""
    torch.manual_seed(seed)
    save_file(timm.create_model(name, pretrained=False, num_classes=n_classes, **options).state_dict(), path)
    return path


def trainer(workspace, settings=SETTINGS, *, lr=1e-3):
    folds = load_folds(workspace)
    job = plan_job(workspace, plan_runs(settings, {})[0], folds, 0, seed=0)
    return make_trainer(workspace, job, folds, open_store(workspace), lr=lr)


STEPS = full(batch_size=12, epochs=2, label_smoothing=0.1)


def stepper(settings=STEPS, backbone="test_vit", *, seed=0, n_classes=4, precision=torch.float32, batch_size=12):
    """A small net in training mode, for batches of 32 pixels, 5 of them an epoch."""
    torch.manual_seed(seed)
    network = timm.create_model(backbone, num_classes=n_classes, **({"img_size": 32} if "vit" in backbone else {}))
    given = {"batch_size": batch_size, "device": torch.device("cpu"), "precision": precision}
    made = Stepper(network, settings, lr=1e-3, epoch_steps=5, **given)
    made.train_mode()
    return made


def batch(seed=1):
    """12 images of noise, and targets of 4 classes."""
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(seed)), torch.arange(12) % 4


def moved(one, steps):
    for number in steps:
        one.step(number, *batch(number))
    return one


def predict_anew(workspace, run, views=VIEWS):
    """Predict as if nothing had been predicted before."""
    for path in (workspace.models / run).glob("fold*/test.npz"):
        path.unlink()
    list(predict_run(workspace, run, views, device_name="cpu"))


def stored(workspace, run, fold=0, name="oof"):
    return load_predictions(workspace.fold(run, fold) / f"{name}.npz", hint="")


def log_rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def check_full_run(workspace, run):
    """Each fold names its files by digest, predicts its own and the test images, and has the score of its mean view."""
    folds, done = load_folds(workspace), done_folds(workspace, run)
    assert done.keys() == {0, 1}
    for fold, record in done.items():
        folder, oof = workspace.fold(run, fold), stored(workspace, run, fold)
        assert {name: digest((folder / name).read_bytes()) for name in record["files"]} == record["files"]
        assert oof.image_id.tolist() == folds.image_id[folds.fold == fold].tolist()
        assert oof.classes.tolist() == ["0", "1", "2", "10"]
        assert oof.views.tolist() == ["centre", "mirror"]
        assert oof.folds_digest == folds.digest
        assert oof.log_probs.dtype == np.float32
        assert record["oof_top3_error"] == topk_error(oof.probs(), folds.target[folds.fold == fold])
        test = stored(workspace, run, fold, "test")
        assert test.image_id.tolist() == ["000", "001", "002", "003", "004", "005"]
        assert test.log_probs.shape == (6, 2, 4)


STARTED = FoldStarted("tag", 60, 30, 32, 32, 32, "cpu", "float32", 1e-3, False)


def epoch_row(epoch, *, seconds=10.0, **values):
    """The figures of an epoch: a train loss of 1 / epoch, a valid loss of 0.75."""
    row = EpochRow(epoch, 1e-3, 32, 1.0 / epoch, 0.75, 0.5, 0.25, 100.0, seconds)
    return dataclasses.replace(row, **values)


def only(kind, events):
    return [event for event in events if isinstance(event, kind)]


def train(workspace, settings=SETTINGS, *, seed=0, views=VIEWS, **options):
    return [one.event for one in train_runs(workspace, plan_runs(settings, {}), views, seed=seed, **options)]
