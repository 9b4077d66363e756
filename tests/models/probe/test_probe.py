"""Probes tiny networks, from the command line too: a full run that blends, resumes and refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from safetensors.torch import load_file

import run
from ensemble.blend.blend_json import load_blend
from folds.base.errors import UserError
from folds.base.metrics import topk_error
from folds.base.workspace import digest
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.input.sizes import needed_store_size
from models.jobs.plan import refuse_runs
from models.predict.again import predict_run
from models.predict.onnx import onnx_bytes
from models.predict.packed import pack_run, packed_log_probs, state_bytes, view_costs
from models.predict.predictions import load_predictions
from models.probe.knn import knn_run
from models.probe.probe import probe_runs
from models.runs import done_folds, plan_runs
from models.settings import PredictSettings, TrainSettings
from models.watch.events import FoldDone, ProbeFitted, ProbeStarted
from tests.competition import fingerprint
from tests.models.small import SETTINGS, VIEWS, copied, prepared, save_body

RUN = "test_resnet-probe"
JOINT = "test_resnet+test_efficientnet"


def probe(workspace, settings=SETTINGS, *, views=VIEWS, names=()):
    return [one.event for one in probe_runs(workspace, plan_runs(settings, {}, names=names), views)]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    workspace = prepared(tmp_path_factory.mktemp("probed"))
    probe(workspace)
    return workspace


@pytest.fixture
def own(tmp_path, probed):
    """A copy of what was probed, to change."""
    return copied(probed, tmp_path)


def test_a_probe_is_a_full_run_whose_files_are_named_by_digest(probed):
    folds = load_folds(probed)
    for fold, done in done_folds(probed, RUN).items():
        folder = probed.fold(RUN, fold)
        assert list(done["files"]) == ["head.safetensors", "oof.npz", "test.npz"]
        assert {name: digest((folder / name).read_bytes()) for name in done["files"]} == done["files"]
        oof = load_predictions(folder / "oof.npz", hint="")
        assert oof.image_id.tolist() == folds.image_id[folds.fold == fold].tolist()
        assert oof.views.tolist() == ["centre", "mirror"]
        assert done["oof_top3_error"] == topk_error(oof.probs(), folds.target[folds.fold == fold])
        assert load_predictions(folder / "test.npz", hint="").log_probs.shape == (6, 2, 4)


def test_done_folds_stay_and_a_fold_that_is_missing_is_made_alike(own):
    before = fingerprint(own.models)
    assert [event.trained for event in probe(own)] == [False, False]
    assert fingerprint(own.models) == before
    folder = own.fold(RUN, 1)
    (folder / "done.json").unlink()
    events = [event for event in probe(own) if isinstance(event, FoldDone)]
    assert [event.trained for event in events] == [False, True]
    assert all(before[name][0] == data for name, (data, _) in fingerprint(own.models).items() if "npz" in name)


def test_other_views_are_predicted_with_the_same_heads(own):
    heads = [(own.fold(RUN, k) / "head.safetensors").read_bytes() for k in (0, 1)]
    events = probe(own, views=PredictSettings(views=("whole", "centre")))
    assert sum(isinstance(event, FoldDone) and event.trained for event in events) == 2
    assert [(own.fold(RUN, k) / "head.safetensors").read_bytes() for k in (0, 1)] == heads
    assert load_predictions(own.fold(RUN, 0) / "oof.npz", hint="").views.tolist() == ["whole", "centre"]


def test_a_view_at_another_size_has_the_features_of_a_body_of_that_size_and_the_head_of_the_own_size(own):
    before = {path.name for path in own.features.iterdir()}
    heads = [(own.fold(RUN, k) / "head.safetensors").read_bytes() for k in (0, 1)]
    events = probe(own, views=PredictSettings(views=("centre", "centre@48")))
    assert next(event.largest_size for event in events if isinstance(event, ProbeStarted)) == 48
    made = {path.name for path in own.features.iterdir()} - before
    assert len(made) == 4  # of train and test at 48 pixels, each with its JSON
    assert [(own.fold(RUN, k) / "head.safetensors").read_bytes() for k in (0, 1)] == heads
    oof = load_predictions(own.fold(RUN, 0) / "oof.npz", hint="")
    assert oof.views.tolist() == ["centre", "centre@48"]
    assert np.abs(oof.log_probs[:, 0] - oof.log_probs[:, 1]).max() > 1e-3
    centre = PredictSettings(views=("centre",))
    probe(own, dataclasses.replace(SETTINGS, image_size=48, mirror=False), views=centre, names=("at48",))
    more = {path.name for path in own.features.iterdir()} - before - made
    assert {name.rpartition(".")[2] for name in more} == {"json", "safetensors"}  # its heads: the features were there


def test_the_same_probe_elsewhere_gives_the_same_bytes(tmp_path, probed):
    workspace = prepared(tmp_path)
    probe(workspace)
    for name in ("head.safetensors", "oof.npz", "test.npz"):
        assert (workspace.fold(RUN, 1) / name).read_bytes() == (probed.fold(RUN, 1) / name).read_bytes()


def test_damaged_heads_are_fitted_anew(own):
    (path,) = own.features.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x7f")
    (own.fold(RUN, 0) / "done.json").unlink()
    fitted = [event for event in probe(own) if isinstance(event, ProbeFitted)]
    assert len(fitted[0].strengths) == 2
    assert path.read_bytes() == whole


def test_a_probe_with_other_settings_or_weights_is_refused(tmp_path, probed):
    with pytest.raises(UserError, match="the run test_resnet-probe was begun with other settings: image_size 32 -> 48"):
        probe(probed, dataclasses.replace(SETTINGS, image_size=48))
    other = save_body(tmp_path / "body.safetensors")
    with pytest.raises(UserError, match="begun with other settings: weights random -> "):
        probe(probed, dataclasses.replace(SETTINGS, weights=(str(other),)))


def test_where_a_mirrored_image_is_none_the_head_never_sees_one(tmp_path):
    workspace = prepared(tmp_path)
    probe(workspace, dataclasses.replace(SETTINGS, mirror=False), views=PredictSettings(views=("centre",)))
    heads = [json.loads(path.read_text())["facts"] for path in workspace.features.glob("*.json")]
    assert sorted(facts["view"] for facts in heads if "view" in facts) == ["centre", "centre"]  # of train and test
    assert [len(facts["features"]) for facts in heads if "features" in facts] == [1]


def test_settings_of_training_have_no_say_in_a_probe(probed):
    events = probe(probed, dataclasses.replace(SETTINGS, epochs=9, label_smoothing=0.0))
    assert [event.trained for event in events] == [False, False]


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """(work folder, plans): a probe of two backbones, the first with weights of its own, and one of each alone."""
    folder = tmp_path_factory.mktemp("both")
    workspace, weights = prepared(folder), save_body(folder / "body.safetensors")
    backbone = ("test_resnet", "test_efficientnet", "test_resnet+test_efficientnet")
    plans = plan_runs(dataclasses.replace(SETTINGS, backbone=backbone, weights=(f"test_resnet={weights}",)), {})
    list(probe_runs(workspace, plans[:2], VIEWS))
    files = {path: path.stat().st_mtime_ns for path in workspace.features.glob("*.npy")}
    list(probe_runs(workspace, plans[2:], VIEWS))
    assert {path: path.stat().st_mtime_ns for path in workspace.features.glob("*.npy")} == files  # no second pass
    return workspace, plans


def test_two_backbones_side_by_side_are_one_run_of_the_features_of_both(side_by_side):
    workspace, plans = side_by_side
    widths = [
        load_file(workspace.fold(f"{name}-probe", 0) / "head.safetensors")["weight"].shape[1]
        for name in ("test_resnet", "test_efficientnet", JOINT)
    ]
    assert widths[2] == sum(widths[:2])
    stored = json.loads((workspace.fold(f"{JOINT}-probe", 0) / "settings.json").read_text())
    digests = done_folds(workspace, f"{JOINT}-probe")[0]["weights_digest"]
    assert stored["settings"]["image_size"] == "32+32"
    assert digests == f"{digest(plans[0].weights.read_bytes())}+"
    events = [one.event for one in probe_runs(workspace, plans[2:], VIEWS)]
    assert [event.trained for event in events] == [False, False]


def test_a_packed_probe_of_two_backbones_predicts_what_the_run_does(side_by_side):
    workspace, plans = side_by_side
    packed, files = pack_run(workspace, f"{JOINT}-probe", load_folds(workspace), views=VIEWS.views, plans=plans)
    data = {name: state_bytes(make(), is_half=False) for name, make in files}
    store = open_store(workspace)
    given = {"n_classes": 4, "device_name": "cpu"}
    found = packed_log_probs(packed, data.__getitem__, store, np.flatnonzero(store.split == "test"), **given)
    for k in (0, 1):
        stored = load_predictions(workspace.fold(f"{JOINT}-probe", k) / "test.npz", hint="")
        np.testing.assert_allclose(found[k], stored.log_probs, atol=1e-5)
    alone = [view_costs(dataclasses.replace(one, beside=(), views=VIEWS.views)) for one in packed.bodies]
    assert view_costs(packed) == {view: alone[0][view] | alone[1][view] for view in VIEWS.views}
    with pytest.raises(
        UserError, match=r"^a probe of several backbones is no one network: test_resnet.r160_in1k, test_"
    ):
        onnx_bytes(packed, data.__getitem__, "fold0", n_classes=4)


def test_packed_neighbours_of_two_backbones_predict_what_the_run_does(side_by_side):
    workspace, plans = side_by_side
    name = f"{JOINT}-probe-knn"
    list(knn_run(workspace, f"{JOINT}-probe", plans, VIEWS, device_name="cpu"))
    packed, files = pack_run(workspace, name, load_folds(workspace), views=VIEWS.views, plans=plans)
    data, store = {file: state_bytes(make(), is_half=False) for file, make in files}, open_store(workspace)
    assert sorted(data) == [
        f"{JOINT}-probe-knn/memory.safetensors",
        *(f"{JOINT}-probe/body{i}.safetensors" for i in ("", 1)),
    ]
    rows, given = np.flatnonzero(store.split == "test"), {"n_classes": 4, "device_name": "cpu"}
    found = packed_log_probs(packed, data.__getitem__, store, rows, **given)
    for k in (0, 1):
        stored = load_predictions(workspace.fold(name, k) / "test.npz", hint="")
        np.testing.assert_allclose(found[k], stored.log_probs, atol=1e-5)
    with pytest.raises(UserError, match=r"^neighbours by test_resnet.r160_in1k are no one network"):
        onnx_bytes(packed, data.__getitem__, "fold0", n_classes=4)


def test_several_backbones_are_for_probes_alone_and_each_is_named_once(side_by_side):
    workspace, _ = side_by_side

    def plan(backbone):
        return plan_runs(dataclasses.replace(SETTINGS, backbone=(backbone,)), {})

    with pytest.raises(UserError, match=r"^`a\+b` is several backbones side by side, which only `probe` takes$"):
        refuse_runs(workspace, plan("a+b"), seed=0)
    with pytest.raises(UserError, match=r"^`--backbone test_resnet\+test_resnet` names test_resnet twice$"):
        list(probe_runs(workspace, plan("test_resnet+test_resnet"), VIEWS))
    with pytest.raises(UserError, match=r"^there is no backbone `nothing`"):
        list(probe_runs(workspace, plan("test_resnet+nothing"), VIEWS))
    with pytest.raises(UserError, match=r"^there is no backbone ``"):
        list(probe_runs(workspace, plan("test_resnet+"), VIEWS))
    both = TrainSettings(backbone=("resnet50+inception",))
    assert needed_store_size(plan_runs(both, {})) == 352  # of 224 and 299 pixels


def test_predict_refuses_a_probe_in_one_sentence(probed):
    with pytest.raises(UserError, match="the run test_resnet-probe is a probe, which has heads and no network"):
        list(predict_run(probed, RUN, VIEWS, device_name="cpu"))


def test_probe_blend_submit_and_status_from_the_command_line(tmp_path, capsys):
    workspace = prepared(tmp_path)
    place = ["--work", str(workspace.root)]
    flags = [*place, "--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--precision", "fp32"]
    assert run.main(["probe", *flags]) == 0
    out = capsys.readouterr().out
    assert "test_resnet-probe: test_resnet.r160_in1k, frozen, 32 training and 6 test images, 32 pixels, float32" in out
    assert "heads of 2 folds in 0:0" in out
    assert f"next: python run.py blend {' '.join(place)}" in out
    assert run.main(["train", *flags, "--epochs", "1", "--batch-size", "8", "--head", "random"]) == 0
    assert run.main(["blend", *place, "--trials", "16"]) == 0
    assert set(load_blend(workspace.blend).weights) == {RUN, "test_resnet"}
    assert run.main(["submit", "--run", RUN, *place]) == 0
    with open(workspace.submissions / f"{RUN}.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 7
    assert run.main(["predict", *place]) == 0  # goes past the probe
    capsys.readouterr()
    assert run.main(["status", *place]) == 0
    assert RUN in capsys.readouterr().out
