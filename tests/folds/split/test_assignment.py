import json
import shlex
import warnings
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from folds.base.errors import UserError
from folds.base.workspace import Workspace, read_json, write_bytes, write_json
from folds.manifest.manifest import COLUMNS, write_manifest
from folds.settings import SplitSettings
from folds.split.assign import assign_folds, load_folds, split, stratified_group_folds
from tests.competition import fingerprint, refusal


def images(counts, *, groups=MappingProxyType({})):
    """A table of usable training images: `counts` per label; `groups` maps image ids to a common number."""
    ids = [(f"{label}/{n:03d}.jpg", label) for label, count in counts.items() for n in range(count)]
    rows = [
        {"image_id": image_id, "path": f"train/{image_id}", "label": label, "group": groups.get(image_id, number)}
        for number, (image_id, label) in enumerate(ids)
    ]
    return pd.DataFrame(rows)


def store(workspace, table):
    """A manifest with these training images and one test image."""
    test = {"image_id": "t", "path": "test/t.jpg", "label": "", "group": 10**6, "split": "test"}
    full = pd.concat([table.assign(split="train"), pd.DataFrame([test])], ignore_index=True)
    full = full.assign(
        status="usable", reasons="", format="JPEG", mode="RGB", width=4, height=3, bytes=9, digest="0" * 16
    )
    write_manifest(workspace, full[list(COLUMNS)])


@pytest.fixture
def folds(workspace, run_split):
    """Three folds of 9 images of a and 6 of b, stored."""
    store(workspace, images({"a": 9, "b": 6}))
    return run_split(n_folds=3)[0]


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    table = images({"a": 20, "b": 30})
    shuffled = table.sample(frac=1, random_state=1)
    one, again, other = (
        assign_folds(rows, n_folds=3, seed=seed) for rows, seed in ((table, 0), (shuffled, 0), (table, 1))
    )
    assert again.equals(one)
    assert (one["fold"] != other["fold"]).any()


COPIES = {f"{label}/{number:03d}.jpg": label for label in "ab" for number in range(6)}  # of two pictures


@pytest.mark.parametrize(
    ("counts", "groups", "n_folds", "sentence"),
    [
        ({"a": 4, "b": 3}, {}, 4, "5 folds need a class with 5 images, and the largest has 4"),
        ({"a": 6, "b": 6}, COPIES, 2, "5 folds need images of 5 groups, and there are 2: copies count as one group"),
    ],
    ids=["images", "copies"],
)
def test_folds_that_images_or_copies_cannot_fill_are_refused(counts, groups, n_folds, sentence):
    said = refusal(assign_folds, images(counts, groups=groups), n_folds=5, seed=0)
    assert said == (sentence, f"`python run.py split --n-folds {n_folds}`")


def test_a_split_is_stored_and_loaded_as_it_was(workspace, run_split):
    store(workspace, images({"x": 9, "NA": 6, "007": 6}))
    folds, _ = run_split(n_folds=3, seed=4)
    again = load_folds(workspace)
    for name in ("image_id", "path", "label", "target", "fold", "group"):
        assert getattr(folds, name).tolist() == getattr(again, name).tolist()
        assert getattr(folds, name).dtype.kind == getattr(again, name).dtype.kind
    assert (again.classes, again.n_folds, again.seed, again.digest) == (("007", "NA", "x"), 3, 4, folds.digest)
    assert again.image_id.tolist() == sorted(again.image_id)
    assert (np.array(again.classes)[again.target] == again.label).all()
    head = json.loads(workspace.folds_json.read_text())
    assert (head["images"], head["images_per_fold"], head["images_per_class"]) == (21, [7, 7, 7], [6, 6, 9])


def test_folds_json_comes_after_the_folds_that_it_describes(workspace, run_split, monkeypatch):
    """The other way round, a kill between the two would leave folds that nothing but their removal mends."""
    store(workspace, images({"a": 9, "b": 4}))
    written = []

    def noted(path, data):
        written.append(path)
        write_bytes(path, data)

    monkeypatch.setattr("folds.base.workspace.write_bytes", noted)
    monkeypatch.setattr("folds.split.assign.write_bytes", noted)
    run_split(n_folds=3)
    assert written == [workspace.folds_csv, workspace.folds_json]


def test_a_second_split_changes_nothing_though_groups_are_numbered_anew(workspace, folds, run_split):
    before, table = fingerprint(workspace.folds), images({"a": 9, "b": 6})
    assert run_split(n_folds=3)[0].digest == folds.digest
    assert fingerprint(workspace.folds) == before
    store(workspace, table.assign(group=table["group"] + 5))
    assert run_split(n_folds=3)[0].digest == folds.digest


def test_other_settings_than_the_stored_ones_are_refused_with_two_ways_out(workspace, folds, run_split):
    assert refusal(run_split, n_folds=5, seed=1) == (
        f"the folds in {workspace.folds_csv} were assigned with 3 folds and seed 0, not 5 folds and seed 1",
        f"keep both with another `--work DIR`, or start the folds again: "
        f"`rm -r {workspace.folds_csv} {workspace.folds_json} {workspace.models}`, then `python run.py split`",
    )


def test_training_images_that_changed_are_named(workspace, folds, run_split):
    store(workspace, images({"a": 11, "b": 4}))
    assert refusal(run_split, n_folds=3)[0] == (
        f"4 training images changed since the folds in {workspace.folds_csv} were assigned: "
        "a/009.jpg, a/010.jpg, b/004.jpg and 1 more"
    )


def test_a_path_with_a_space_is_quoted_in_the_command_that_removes_it(tmp_path):
    workspace = Workspace(tmp_path / "w g")
    store(workspace, images({"a": 9, "b": 6}))
    split(workspace, SplitSettings(n_folds=3), seed=0)
    hint = refusal(split, workspace, SplitSettings(n_folds=4), seed=0)[1]
    assert shlex.split(hint.split("`")[3])[:3] == ["rm", "-r", str(workspace.folds_csv)]


def test_copies_that_the_stored_folds_cut_are_refused(workspace, folds, run_split):
    one, other = folds.image_id[folds.fold == 0][0], folds.image_id[folds.fold == 1][0]
    store(workspace, images({"a": 9, "b": 6}, groups={one: 77, other: 77}))
    with pytest.raises(UserError, match=rf"^2 training images changed since .*: {one}, {other}$"):
        run_split(n_folds=3)


def test_folds_that_were_edited_and_classes_in_another_order_are_refused(workspace, folds):
    head = read_json(workspace.folds_json, hint="")
    write_json(workspace.folds_json, head | {"classes": ["b", "a"]})
    assert refusal(load_folds, workspace)[0].endswith("folds.json holds other classes than folds.csv")
    workspace.folds_csv.write_text(workspace.folds_csv.read_text().replace("a/000", "a/999"))
    assert refusal(load_folds, workspace)[0].endswith("folds.csv is not the file that folds.json describes")


def long_tail(rng, *, n, n_classes, per_group):
    """Targets with a long tail and groups of about `per_group` images, whose numbers have gaps."""
    share = np.arange(1, n_classes + 1) ** -rng.uniform(0, 1.5)
    target = np.unique(rng.choice(n_classes, n, p=share / share.sum()), return_inverse=True)[1]
    return target, 7 * rng.integers(0, max(int(n / per_group), 10), n)


def counts(target, fold, n_folds):
    """(K, C) images of each class in each fold."""
    return np.stack([np.bincount(target[fold == k], minlength=target.max() + 1) for k in range(n_folds)])


def ours_and_sklearns(target, group, *, n_folds, seed):
    """(K, C) images of each class in each of our folds, in which all groups are whole, and in scikit-learn's."""
    ours, theirs = stratified_group_folds(target, group, n_folds=n_folds, seed=seed), np.empty_like(target)
    assert all(len(set(ours[group == one])) == 1 for one in set(group.tolist()))
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for k, (_, rows) in enumerate(splitter.split(target, target, group)):
            theirs[rows] = k
    return [counts(target, fold, n_folds) for fold in (ours, theirs)]


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_whole_and_the_balance_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target, group = long_tail(rng, n=600, n_classes=2 + 11 * seed, per_group=(0.3, 1, 3)[seed % 3])
    ours, theirs = ours_and_sklearns(target, group, n_folds=2 + seed % 7, seed=seed)
    unevenness = [np.std(one / np.bincount(target), axis=0).mean() for one in (ours, theirs)]
    assert unevenness[0] <= 1.05 * unevenness[1]
    assert np.ptp(ours.sum(axis=1)) <= 4  # images between the smallest and the largest fold


@pytest.mark.parametrize("n_folds", [2, 5, 7])
def test_where_every_image_is_its_own_group_classes_and_folds_differ_by_one_image(n_folds):
    target, _ = long_tail(np.random.default_rng(0), n=3000, n_classes=50, per_group=1)
    found = counts(target, stratified_group_folds(target, np.arange(3000), n_folds=n_folds, seed=0), n_folds)
    assert np.ptp(found, axis=0).max() == 1
    assert np.ptp(found.sum(axis=1)) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_no_fold_stays_empty_where_there_are_as_many_groups(seed):
    rng = np.random.default_rng(seed)
    target, group = rng.integers(0, 3, 60), np.concatenate([rng.permutation(7), rng.integers(0, 7, 53)])
    target[:3] = 0, 1, 2
    assert set(stratified_group_folds(target, group, n_folds=7, seed=seed).tolist()) == set(range(7))


@pytest.mark.parametrize("per_group", [10, 30, 60])
def test_large_groups_such_as_patients_leave_the_balance_of_scikit_learn(per_group):
    ratios = []
    for seed in range(6):
        target, group = long_tail(np.random.default_rng(seed), n=3000, n_classes=2 + 5 * seed, per_group=per_group)
        ours, theirs = ours_and_sklearns(target, group, n_folds=2 + seed, seed=seed)
        ratios.append(np.std(ours, axis=0).sum() / max(np.std(theirs, axis=0).sum(), 1))
    assert np.mean(ratios) <= 1  # of its unevenness
