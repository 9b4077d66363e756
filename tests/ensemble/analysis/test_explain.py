"""Tests what is said of one image: the numbers in the files, from no network that has seen it."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble.analysis.explain import draw_explained, explain_image
from ensemble.blend.apply import apply_blend
from ensemble.blend.blend_json import load_blend, save_blend
from ensemble.blend.make_blend import make_blend
from ensemble.settings import BlendSettings
from folds.base.metrics import top_classes
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, write_manifest
from folds.split.assign import load_folds
from models.predict.gradcam import class_maps
from models.predict.predictions import load_predictions
from tests.competition import refusal
from tests.ensemble.small import with_manifest
from tests.models.small import SETTINGS, prepared, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A work folder with two runs of two folds and their blend."""
    workspace = prepared(tmp_path_factory.mktemp("explain"))
    for name, lr in (("test_resnet", 3e-3), ("test_vit", 1e-3)):
        train(workspace, dataclasses.replace(SETTINGS, backbone=(name,), lr=lr, epochs=1, image_size=64))
    make_blend(workspace, BlendSettings(trials=16, half_samples=2), seed=0)
    return workspace


def test_a_training_image_is_explained_by_its_out_of_fold_predictions(world):
    folds = load_folds(world)
    image_id, fold = str(folds.image_id[5]), int(folds.fold[5])
    said = explain_image(world, image_id)
    assert (said.split, said.label, said.fold) == ("train", folds.label[5], fold)
    for one in said.members:
        oof = load_predictions(world.fold(one.name, fold) / "oof.npz", hint="")
        probs = oof.probs()[oof.image_id == image_id][0]
        top = top_classes(probs[None])[0]
        assert one.labels == tuple(folds.classes[c] for c in top)
        assert one.probs == pytest.approx(probs[top], abs=1e-6)
        assert one.true_prob == pytest.approx(probs[folds.target[5]], abs=1e-6)
        assert folds.classes[np.argsort(-probs, kind="stable")[one.rank - 1]] == said.label


def test_a_run_whose_views_are_members_has_the_weight_of_all(world):
    blend = load_blend(world.blend)
    name, other = blend.weights
    runs, weights = {"a": (name,), "b": (name,), other: (other,)}, {"a": 0.5, "b": 0.2, other: 0.3}
    kept = world.blend.read_bytes()
    views = {one: blend.views[run] for one, (run,) in runs.items()}
    save_blend(world.blend, dataclasses.replace(blend, runs=runs, weights=weights, views=views))
    said = explain_image(world, "004")
    world.blend.write_bytes(kept)
    assert said.weights == pytest.approx({name: 0.7, other: 0.3})


def test_a_test_image_is_explained_as_the_submission_sees_it(world):
    said = explain_image(world, "004")
    blended = apply_blend(world, load_blend(world.blend))
    scores = blended.scores[blended.image_id == "004"]
    assert said.blend.labels == tuple(blended.classes[c] for c in top_classes(scores)[0])
    assert (said.split, said.label, said.fold, said.blend.rank) == ("test", None, None, None)
    assert sum(said.blend.probs) <= 1 + 1e-9


def test_a_shorter_id_is_that_of_the_image_that_alone_has_it(world, tmp_path, typed):
    assert explain_image(world, "0-3") == explain_image(world, "0/0-3.jpg")
    assert explain_image(world, "004.jpg") == explain_image(world, "004")
    assert "0/0-3.jpg, labelled 0, in fold " in typed("explain", "0-3", "--work", world.root).out
    shutil.copytree(world.root, tmp_path / "work")
    other = Workspace(tmp_path / "work")
    manifest = read_manifest(other)
    twin = manifest.head(1).assign(image_id="1/0-3.png", path="TrainVal/1/0-3.png")
    write_manifest(other, pd.concat([manifest, twin]))
    fault = "the id 0-3 fits 2 files: TrainVal/0/0-3.jpg, TrainVal/1/0-3.png"
    assert refusal(explain_image, other, "0-3")[0] == fault


def test_the_picture_shows_a_map_of_a_net_that_has_one_and_says_why_another_has_none(world):
    said = explain_image(world, "004")
    labels = {name: said.labels_of(name) for name in ("test_vit", "test_resnet")}
    maps, why = class_maps(world, labels, "004", fold=None)
    assert (maps.run, maps.fold, maps.classes) == ("test_resnet", 0, tuple(labels["test_resnet"]))
    assert why[0].startswith("test_vit: ")
    assert "keeps no map of the picture" in why[0]
    with Image.open(draw_explained(world, said, maps, why)) as picture:
        assert (picture.format, picture.width > 1000) == ("PNG", True)
    assert class_maps(world, {"test_vit": ["0"]}, "004", fold=None)[0] is None


def test_a_run_that_lacks_folds_is_explained_where_it_has_the_images_own(world, tmp_path):
    shutil.copytree(world.root, tmp_path / "work")
    partial = Workspace(tmp_path / "work")
    shutil.rmtree(partial.fold("test_vit", 1))
    make_blend(partial, BlendSettings(trials=16, half_samples=2, partial=True), seed=0)
    folds = load_folds(partial)
    first, second = (str(folds.image_id[folds.fold == fold][0]) for fold in (0, 1))
    said = explain_image(partial, first)
    assert said.members == explain_image(world, first).members
    assert said.left_out == ()
    assert said.blend is not None
    said = explain_image(partial, second)
    assert [one.name for one in said.members] == ["test_resnet"]
    assert said.left_out == ("test_vit lacks fold 1, which this image is in",)
    assert said.blend is None
    assert refusal(explain_image, partial, second, run="test_vit")[0] == "test_vit lacks fold 1, which this image is in"
    assert refusal(explain_image, partial, second, run="test_v")[0] == "there is no run test_v"  # it named test_vit
    assert [one.name for one in explain_image(partial, "004").members] == ["test_resnet", "test_vit"]
    maps, why = class_maps(partial, {"test_vit": ["0"], "given": ["0"], "test_resnet-probe": ["0"]}, second, fold=1)
    assert maps is None
    assert why == ["test_vit has no network of fold 1", "given, test_resnet-probe: no network that was trained here"]


def test_the_command_writes_the_picture_and_shows_the_guesses(world, typed):
    image_id = load_folds(world).image_id[0]
    out = typed("explain", image_id, "--work", world.root, "--run", "test_vit").out
    assert f"{image_id}, labelled " in out
    assert "no map: test_vit: " in out
    assert len(list(world.report.glob("explain-*.png"))) >= 1


@pytest.mark.parametrize(
    ("image_id", "run_name", "error", "hint"),
    [
        ("-3.jp", None, "there is no image -3.jp", "`0/0-3.jpg`"),
        ("00", None, "there is no image 00", "`000` or `001` or `002`"),
        ("1/1-O.jpg", None, "there is no image 1/1-O.jpg", "`1/1-"),
        ("qqqqq", None, "there is no image qqqqq", "manifest.csv has all ids"),
        ("004", "nobody", "there is no run nobody", "test_resnet, test_vit"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(world, image_id, run_name, error, hint):
    message, said = refusal(explain_image, world, image_id, run=run_name)
    assert message == error
    assert hint in said


def test_an_image_that_came_after_the_split_is_not_taken_for_another(work, folds):
    with_manifest(work, folds)
    manifest = read_manifest(work)
    write_manifest(work, pd.concat([manifest, manifest.head(1).assign(image_id="train/0000001-.jpg")]))
    fault = "train/0000001-.jpg is not in the folds, which are older than the manifest"
    assert refusal(explain_image, work, "train/0000001-.jpg") == (fault, "`python run.py split`")
