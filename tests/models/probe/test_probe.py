"""Probes tiny networks, from the command line too: a full run that blends, resumes and refuses."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.torch import load_file

from folds.base.errors import UserError
from folds.base.workspace import digest
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.input.sizes import needed_store_size
from models.jobs.plan import refuse_runs
from models.predict.again import predict_run
from models.predict.onnx import onnx_bytes
from models.predict.packed import pack_run, packed_log_probs, state_bytes, view_costs
from models.probe.knn import knn_run
from models.probe.probe import probe_run
from models.runs import done_folds, plan_runs
from models.settings import PredictSettings, TrainSettings
from models.watch.events import FoldDone, ProbeFitted, ProbeStarted
from tests.competition import fingerprint
from tests.models.small import SETTINGS, VIEWS, check_full_run, copied, only, prepared, stored

RUN = "test_resnet-probe"
JOINT = "test_resnet+test_efficientnet"
CENTRE = PredictSettings(views=("centre",))


def probe(workspace, settings=SETTINGS, *, views=VIEWS, names=()):
    plans = plan_runs(settings, {}, names=names)
    return [one.event for plan in plans for one in probe_run(workspace, plan, views)]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    workspace = prepared(tmp_path_factory.mktemp("probed"))
    probe(workspace)
    return workspace


@pytest.fixture
def own(tmp_path, probed):
    return copied(probed, tmp_path)


def test_a_probe_is_a_full_run_of_heads_and_predictions_and_of_the_same_bytes_elsewhere(workspace, probed):
    check_full_run(probed, RUN)
    probe(workspace)
    for fold, done in done_folds(probed, RUN).items():
        assert list(done["files"]) == ["head.safetensors", "oof.npz", "test.npz"]
        for name in done["files"]:
            assert (workspace.fold(RUN, fold) / name).read_bytes() == (probed.fold(RUN, fold) / name).read_bytes()


@pytest.mark.parametrize("change", [{}, {"epochs": 9, "label_smoothing": 0.0}])
def test_done_folds_stay_whatever_training_does_and_a_fold_that_is_missing_is_made_alike(own, change):
    settings, before = dataclasses.replace(SETTINGS, **change), fingerprint(own.models)
    assert [event.trained for event in probe(own, settings)] == [False, False]
    assert fingerprint(own.models) == before
    folder = own.fold(RUN, 1)
    (folder / "done.json").unlink()
    assert [event.trained for event in only(FoldDone, probe(own, settings))] == [False, True]
    assert all(before[name][0] == data for name, (data, _) in fingerprint(own.models).items() if "npz" in name)


def heads(workspace):
    return [(workspace.fold(RUN, k) / "head.safetensors").read_bytes() for k in (0, 1)]


def test_other_views_are_predicted_with_the_same_heads(own):
    before = heads(own)
    events = probe(own, views=PredictSettings(views=("whole", "centre")))
    assert [event.trained for event in only(FoldDone, events)] == [True, True]
    assert heads(own) == before
    assert stored(own, RUN).views.tolist() == ["whole", "centre"]


def test_a_view_at_another_size_has_the_features_of_a_body_of_that_size_and_the_head_of_the_own_size(own):
    before, head_bytes = {path.name for path in own.features.iterdir()}, heads(own)
    events = probe(own, views=PredictSettings(views=("centre", "centre@48")))
    assert only(ProbeStarted, events)[0].largest_size == 40  # no picture has more
    made = {path.name for path in own.features.iterdir()} - before
    assert len(made) == 4  # of train and test at 48 pixels, each with its JSON
    assert heads(own) == head_bytes
    oof = stored(own, RUN)
    assert oof.views.tolist() == ["centre", "centre@48"]
    assert np.abs(oof.log_probs[:, 0] - oof.log_probs[:, 1]).max() > 1e-3
    probe(own, dataclasses.replace(SETTINGS, image_size=48, mirror=False), views=CENTRE, names=("at48",))
    more = {path.name for path in own.features.iterdir()} - before - made
    assert {name.rpartition(".")[2] for name in more} == {"json", "safetensors"}  # its heads: the features were there


def test_where_no_view_is_set_a_probe_far_below_its_weights_size_sees_one_larger_and_its_neighbours_too(
    workspace, weights
):
    settings = dataclasses.replace(SETTINGS, image_size=48, pretrained=True, weights=(str(weights),))
    probe(workspace, settings, views=PredictSettings())
    plans = plan_runs(settings, {})
    list(knn_run(workspace, RUN, plans, PredictSettings(), device_name="cpu"))
    assert [stored(workspace, run).views.tolist() for run in (RUN, f"{RUN}-knn")] == [["centre@64", "mirror"]] * 2


def test_damaged_heads_are_fitted_anew(own):
    (path,) = own.features.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x7f")
    (own.fold(RUN, 0) / "done.json").unlink()
    assert len(only(ProbeFitted, probe(own))[0].strengths) == 2
    assert path.read_bytes() == whole


def test_a_probe_with_other_settings_or_weights_is_refused(probed, weights):
    with pytest.raises(UserError, match="the run test_resnet-probe was begun with other settings: image_size 32 -> 48"):
        probe(probed, dataclasses.replace(SETTINGS, image_size=48))
    with pytest.raises(UserError, match="begun with other settings: weights random -> "):
        probe(probed, dataclasses.replace(SETTINGS, weights=(str(weights),)))


def test_where_a_mirrored_image_is_none_the_head_never_sees_one(workspace):
    probe(workspace, dataclasses.replace(SETTINGS, mirror=False), views=CENTRE)
    facts = [json.loads(path.read_text())["facts"] for path in workspace.features.glob("*.json")]
    assert sorted(one["view"] for one in facts if "view" in one) == ["centre", "centre"]  # of train and test
    assert [len(one["features"]) for one in facts if "features" in one] == [1]


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory, weights):
    """(work folder, plans): probes of two backbones, one with weights of its own, and of both with its neighbours."""
    workspace, backbone = prepared(tmp_path_factory.mktemp("both")), ("test_resnet", "test_efficientnet", JOINT)
    plans = plan_runs(dataclasses.replace(SETTINGS, backbone=backbone, weights=(f"test_resnet={weights}",)), {})

    def passes():
        return {path: path.stat().st_mtime_ns for path in workspace.features.glob("*.npy")}

    for plan in plans[:2]:
        list(probe_run(workspace, plan, VIEWS))
    before = passes()
    list(probe_run(workspace, plans[2], VIEWS))
    assert passes() == before  # no second pass
    list(knn_run(workspace, f"{JOINT}-probe", plans, VIEWS, device_name="cpu"))
    return workspace, plans


def test_two_backbones_side_by_side_are_one_run_of_the_features_of_both(side_by_side):
    workspace, plans = side_by_side
    folders = [workspace.fold(f"{name}-probe", 0) for name in ("test_resnet", "test_efficientnet", JOINT)]
    widths = [load_file(folder / "head.safetensors")["weight"].shape[1] for folder in folders]
    assert widths[2] == widths[0] + widths[1]
    assert json.loads((folders[2] / "settings.json").read_text())["settings"]["image_size"] == "32+32"
    digests = done_folds(workspace, f"{JOINT}-probe")[0]["weights_digest"]
    assert digests == f"{digest(plans[0].weights.read_bytes())}+"
    assert [one.event.trained for one in probe_run(workspace, plans[2], VIEWS)] == [False, False]


@pytest.mark.parametrize(
    ("run_name", "files", "sentence"),
    [
        (
            f"{JOINT}-probe",
            [f"{JOINT}-probe/{file}.safetensors" for file in ("body", "body1", "fold0", "fold1")],
            r"^a probe of several backbones is no one network: test_resnet.r160_in1k, test_",
        ),
        (
            f"{JOINT}-probe-knn",
            [f"{JOINT}-probe{file}.safetensors" for file in ("-knn/memory", "/body", "/body1")],
            r"^neighbours by test_resnet.r160_in1k are no one network",
        ),
    ],
)
def test_a_packed_run_of_two_backbones_predicts_what_the_run_does_and_is_no_onnx(
    side_by_side, run_name, files, sentence
):
    workspace, plans = side_by_side
    packed, made = pack_run(workspace, run_name, load_folds(workspace), views=VIEWS.views, plans=plans)
    data, store = {file: state_bytes(make(), is_half=False) for file, make in made}, open_store(workspace)
    assert sorted(data) == files
    rows = np.flatnonzero(store.split == "test")
    found = packed_log_probs(packed, data.__getitem__, store, rows, n_classes=4, device_name="cpu")
    for k in (0, 1):
        np.testing.assert_allclose(found[k], stored(workspace, run_name, k, "test").log_probs, atol=1e-5)
    bodies = dataclasses.replace(packed, memory=None)
    alone = [view_costs(dataclasses.replace(one, beside=())) for one in bodies.bodies]
    assert view_costs(bodies) == {view: alone[0][view] | alone[1][view] for view in VIEWS.views}
    with pytest.raises(UserError, match=sentence):
        onnx_bytes(packed, data.__getitem__, "fold0", n_classes=4)


def test_several_backbones_are_for_probes_alone_and_each_is_named_once(workspace):
    def plan(backbone):
        return plan_runs(dataclasses.replace(SETTINGS, backbone=(backbone,)), {})

    with pytest.raises(UserError, match=r"^`a\+b` is several backbones side by side, which only `probe` takes$"):
        refuse_runs(workspace, plan("a+b"), seed=0)
    for backbone, sentence in (
        ("test_resnet+test_resnet", r"^`--backbone test_resnet\+test_resnet` names test_resnet twice$"),
        ("test_resnet+nothing", r"^there is no backbone `nothing`"),
        ("test_resnet+", r"^there is no backbone ``"),
    ):
        with pytest.raises(UserError, match=sentence):
            list(probe_run(workspace, plan(backbone)[0], VIEWS))
    both = TrainSettings(backbone=("resnet50+inception",))
    assert needed_store_size(plan_runs(both, {})) == 352  # of 224 and 299 pixels


def test_predict_refuses_a_probe_in_one_sentence(probed):
    with pytest.raises(UserError, match="the run test_resnet-probe is a probe, which has heads and no network"):
        list(predict_run(probed, RUN, VIEWS, device_name="cpu"))


def test_a_probe_of_random_weights_is_warned_of(workspace, typed):
    flags = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--precision", "fp32"]
    assert typed("probe", "--work", workspace.root, *flags).err == (
        "warning: test_resnet is probed with random weights, whose features hardly tell classes apart; "
        "`--weights FILE` gives it others\n"
    )
