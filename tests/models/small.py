"""Makes a small work folder, and trains small nets on it."""

import torch
from safetensors.torch import save_file

from folds.base.workspace import Workspace
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import load_folds, split
from models.backbones import build_network, resolve_backbone
from models.jobs.plan import plan_job, train_runs
from models.predict.again import predict_run
from models.runs import plan_runs
from models.settings import PredictSettings, TrainSettings
from models.train.fold import make_trainer
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


def prepared(folder):
    """A work folder with pixels and two folds of 4 classes x 8 images."""
    workspace = Workspace(folder / "work")
    prepare(workspace, make_competition(folder / "data"), PrepareSettings(store_size=32, workers=1))
    split(workspace, SplitSettings(n_folds=2), seed=0)
    return workspace


def save_body(path, *, seed=3, n_classes=7):
    """A weights file of test_resnet, as a hub would have it."""
    torch.manual_seed(seed)
    save_file(build_network(resolve_backbone("test_resnet"), n_classes, size=32).state_dict(), path)
    return path


def trainer(workspace, settings=SETTINGS, *, fold=0, lr=1e-3):
    folds = load_folds(workspace)
    job = plan_job(workspace, plan_runs(settings, {})[0], folds, fold, seed=0)
    return make_trainer(workspace, job, folds, open_store(workspace), lr=lr)


def predict_anew(workspace, run, views=VIEWS):
    """Predict as if nothing had been predicted before; returns the events."""
    for path in (workspace.models / run).glob("fold*/test.npz"):
        path.unlink()
    return [one.event for one in predict_run(workspace, run, views, device_name="cpu")]


def train(workspace, settings=SETTINGS, *, seed=0, views=VIEWS, **options):
    return [one.event for one in train_runs(workspace, plan_runs(settings, {}), views, seed=seed, **options)]
