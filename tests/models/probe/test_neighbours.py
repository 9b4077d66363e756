"""Checks nearest neighbours and prototypes: against slow versions, blind to a fold's own images, and as runs."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ensemble.analysis.test_likeness import kept_features
from ensemble.blend.blend_json import load_blend
from folds.base.errors import UserError
from folds.base.metrics import topk_error
from folds.base.workspace import read_json, write_json
from folds.manifest.manifest import read_manifest, usable_rows
from folds.split.assign import load_folds
from models.predict.again import predict_run
from models.predict.gradcam import class_maps
from models.probe import neighbours
from models.probe.knn import knn_run
from models.probe.neighbours import GRID, Choice, Memory, choose, recall
from models.probe.probe import probe_run
from models.runs import plan_runs
from models.settings import PredictSettings
from models.watch.events import FoldDone
from submissions.offline.make_pack import make_pack
from submissions.settings import PackSettings
from tests.competition import fingerprint, refusal
from tests.models.probe.test_heads import disturbed, of_rows, small_folds, small_problem
from tests.models.small import SETTINGS, VIEWS, check_full_run, copied, only, prepared, stored, train

CHOICE = Choice(count=7, temperature=0.1, share=0.25, prior=0.5)


def test_neighbours_are_scikit_learns():
    features, target = small_problem(n=90)
    memory = Memory(features[:60].clone(), target[:60], n_classes=4)
    unit = memory._unit(features - memory.mean)
    theirs = KNeighborsClassifier(7, metric="cosine", weights=lambda d: np.exp((d.min(1, keepdims=True) - d) / 0.1))
    votes = theirs.fit(unit[:60], target[:60]).predict_proba(unit[60:])
    centres = np.stack([unit[:60][target[:60] == c].sum(0) for c in range(4)])
    logits = unit[60:].numpy() @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T / 0.1
    weight = np.exp(logits) * (np.bincount(target[:60]) / 60) ** 0.5
    expected = 0.75 * votes + 0.25 * weight / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(memory.log_probs(features[60:], CHOICE).exp().numpy(), expected, atol=1e-5)


def test_after_whitening_the_classes_spread_alike_but_for_the_mean_variance_that_was_added():
    features, target = small_problem(n=4000)
    inside = features - torch.stack([features[target == c].mean(0) for c in range(4)])[target]
    memory = Memory(features.clone(), target, n_classes=4)
    covariance = inside.T @ inside / 4000
    expected = covariance + torch.eye(12) * covariance.diagonal().mean()
    torch.testing.assert_close(memory.factor @ memory.factor.T, expected, atol=1e-2, rtol=1e-3)


def test_blocks_of_queries_change_nothing(monkeypatch):
    features, target = small_problem()
    memory = Memory(features.clone(), target, n_classes=4)
    before = memory.log_probs(features, CHOICE), memory.losses(features, target)
    monkeypatch.setattr(neighbours, "BLOCK_VALUES", 64 * len(features))
    after = memory.log_probs(features, CHOICE), memory.losses(features, target)
    torch.testing.assert_close(after[0], before[0])
    np.testing.assert_allclose(after[1], before[1], rtol=1e-5)


def test_the_loss_of_each_choice_is_that_of_its_probabilities():
    features, target = small_problem(n=120)
    memory = Memory(features[:80].clone(), target[:80], n_classes=4)
    losses = memory.losses(features[80:], target[80:])
    for i in range(0, len(GRID), 41):
        log_probs = memory.log_probs(features[80:], GRID[i])
        assert losses[i] == pytest.approx(-float(log_probs[torch.arange(40), target[80:]].sum()), rel=1e-4)


def test_a_class_without_images_gets_the_probability_of_half_an_image():
    features, target = small_problem()
    memory = Memory(features.clone(), target, n_classes=6)
    probs = memory.log_probs(features, dataclasses.replace(CHOICE, share=1.0)).exp().numpy()
    np.testing.assert_allclose(probs[:, 4:], 1 / (400 + 2), rtol=1e-3)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("n_folds", [2, 4])
def test_a_folds_own_images_and_labels_have_no_say_in_its_choice_and_memory(n_folds):
    features, target = small_problem(n=120)
    folds = small_folds(target, n_folds=n_folds)
    plain, other = (of_rows(features), folds), disturbed(features, folds, 1)
    assert choose(*other, 1) == choose(*plain, 1)
    one, two = (recall(*each, np.flatnonzero(folds.fold != 1)) for each in (plain, other))
    assert torch.equal(one.images, two.images)


@pytest.fixture(scope="module")
def probed(tmp_path_factory, weights):
    """(work folder, plans): a probe of one backbone, one of two, and a trained run."""
    workspace = prepared(tmp_path_factory.mktemp("knn"))
    settings = dataclasses.replace(SETTINGS, weights=(f"test_resnet={weights}",), epochs=1, head="random")
    plans = plan_runs(dataclasses.replace(settings, backbone=("test_resnet", "test_resnet+test_efficientnet")), {})
    for plan in plans:
        list(probe_run(workspace, plan, VIEWS))
    train(workspace, settings)
    return workspace, plans


@pytest.fixture
def own(probed, tmp_path):
    return copied(probed[0], tmp_path), probed[1]


def look_up(workspace, of, plans, views=VIEWS):
    """Whether each fold was made now."""
    events = [one.event for one in knn_run(workspace, of, plans, views, device_name="cpu")]
    return [done.trained for done in only(FoldDone, events)]


@pytest.mark.parametrize("of", ["test_resnet-probe", "test_resnet+test_efficientnet-probe", "test_resnet"])
def test_neighbours_are_a_full_run_of_any_features_and_done_folds_stay(own, of):
    workspace, plans = own
    assert look_up(workspace, of, plans) == [True, True]
    check_full_run(workspace, f"{of}-knn")
    folds, before = load_folds(workspace), fingerprint(workspace.models)
    for fold in (0, 1):
        probs = stored(workspace, f"{of}-knn", fold).probs()
        assert topk_error(probs, folds.target[folds.fold == fold], k=1) < 0.4  # by chance 0.75
    assert look_up(workspace, of, plans) == [False, False]
    assert fingerprint(workspace.models) == before
    (workspace.fold(f"{of}-knn", 1) / "done.json").unlink()
    assert look_up(workspace, of, plans) == [False, True]
    after = fingerprint(workspace.models)
    assert all(after[name][0] == data for name, (data, _) in before.items() if "npz" in name)


def test_each_fold_of_a_trained_run_is_seen_by_its_own_network(own):
    workspace, plans = own
    files = set(workspace.features.glob("*.json"))
    look_up(workspace, "test_resnet", plans)
    assert len(set(workspace.features.glob("*.json")) - files) == 2 * 2 * 2  # networks, splits, views
    manifest = read_manifest(workspace)
    pairs = list(kept_features(workspace, [usable_rows(manifest, split=split) for split in ("train", "test")]))
    assert {train.tag.split(".")[0] for train, _ in pairs} == {"test_resnet", "test_efficientnet"}
    assert len(pairs) == 4  # a trained network tells its training images apart: it says nothing of likeness


def test_other_views_and_a_run_that_changed_are_looked_up_again(own):
    workspace, plans = own
    look_up(workspace, "test_resnet-probe", plans)
    other = PredictSettings(views=("whole",))
    assert look_up(workspace, "test_resnet-probe", plans, other) == [True, True]
    path = workspace.fold("test_resnet-probe", 0) / "done.json"
    record = read_json(path, hint="")
    write_json(path, {**record, "files": {**record["files"], "head.safetensors": "0" * 16}})
    assert sorted(look_up(workspace, "test_resnet-probe", plans, other)) == [False, True]


def test_what_has_no_features_or_no_network_is_refused_in_one_sentence(own):
    workspace, plans = own
    look_up(workspace, "test_resnet-probe", plans)
    name = "test_resnet-probe-knn"
    assert refusal(look_up, workspace, name, plans)[0] == f"{name} is made of nearest neighbours already"
    assert refusal(look_up, workspace, "never", plans)[0] == "the run never has no fold that is done"
    with pytest.raises(UserError, match=f"^the run {name} is made of nearest neighbours, and has no network") as no:
        list(predict_run(workspace, name, VIEWS, device_name="cpu"))
    assert no.value.hint == "`python run.py knn --run test_resnet-probe --views centre,mirror`"
    assert class_maps(workspace, {name: ["0"]}, "0/0-0.jpg", fold=0) == (
        None,
        [f"{name}: no network that was trained here"],
    )
    for file in workspace.features.iterdir():
        file.unlink()
    shutil.rmtree(workspace.models / name)
    with pytest.raises(
        UserError, match=r"^test_resnet-probe is a probe of test_resnet\.r160_in1k with the weights "
    ) as no:
        look_up(workspace, "test_resnet-probe", plan_runs(SETTINGS, {}))
    assert no.value.hint.startswith("`python run.py knn --backbone test_resnet.r160_in1k --weights FILE`")


def test_they_blend_from_the_command_line_and_a_pack_carries_those_of_a_probe_alone(own, typed):
    workspace, plans = own
    place = ["--work", str(workspace.root)]
    blend = ["blend", *place, "--keep", "equal", "--trials", "16", "--half-samples", "2"]
    flags = [*place, "--weights", f"test_resnet={plans[0].weights}", "--backbone", "test_resnet", "--device", "cpu"]
    out = typed("knn", *flags, "--run", "test_resnet-probe").out
    assert "test_resnet-probe-knn fold 0: " in out
    assert "neighbours at a temperature of " in out
    assert f"next: python run.py blend {' '.join(place)}" in out
    typed(*blend)
    assert len(load_blend(workspace.blend).weights) == 4
    for command in (["submit"], ["status"], ["compare", "test_resnet-probe", "test_resnet-probe-knn"], ["views"]):
        typed(*command, *place)
    assert "test_resnet-probe-knn" in make_pack(workspace, PackSettings(), plans, device="cpu").pack.members
    typed("knn", *flags, "--run", "test_resnet")
    typed(*blend)
    without = "test_resnet,test_resnet+test_efficientnet-probe,test_resnet-probe,test_resnet-probe-knn"
    with pytest.raises(UserError, match=r"^test_resnet-knn has a memory of its own for every fold's network, ") as no:
        make_pack(workspace, PackSettings(), plans, device="cpu")
    assert no.value.hint == f"`python run.py blend --members {without}` blends without"
