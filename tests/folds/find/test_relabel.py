"""Tests other labels than DATA has: what a CSV changes, what it cannot, and what everybody is told."""

import os
from pathlib import Path

import pytest

from folds.base.errors import UserError
from folds.pixels.store import open_store
from tests.competition import by_image, fingerprint


@pytest.fixture
def labels(tmp_path):
    def write(text, *, header="image_id,label\n"):
        (tmp_path / "relabel.csv").write_text(header + text)
        return tmp_path / "relabel.csv"

    return write


def told(result, image_id):
    return tuple(by_image(result.manifest).loc[image_id, ["label", "status", "reasons"]])


def test_an_image_gets_another_label_or_is_left_out_and_the_manifest_says_what_it_was(
    data, run_prepare, labels, workspace
):
    before, path = fingerprint(data), labels("cat/cat_1.png,dog\ncat/cat_2.png,cat\ndog/dog_0.png,\n")
    result = run_prepare(data, relabel=path)
    assert told(result, "cat/cat_1.png") == ("dog", "usable", "relabelled: was cat")
    assert told(result, "cat/cat_2.png") == ("cat", "usable", "")
    assert told(result, "dog/dog_0.png") == ("dog", "left out", "unlabelled: was dog")
    assert result.manifest["status"].tolist().count("usable") == 9
    stored = fingerprint(workspace.root)
    again = run_prepare(data, relabel=path)
    assert (again.unchanged, again.decoded, fingerprint(workspace.root)) == (True, 0, stored)
    assert fingerprint(data) == before


def test_an_image_may_have_a_shorter_id_unless_two_images_have_it(data, run_prepare, labels, picture):
    result = run_prepare(data, relabel=labels("cat_1,dog\ncat/cat_2,dog\ncat_3.png,dog\n"))
    changed = [told(result, f"cat/cat_{n}.png")[2] for n in range(4)]
    assert changed == ["", *["relabelled: was cat"] * 3]
    picture(60).save(data / "TrainVal/dog/cat_1.png")
    with pytest.raises(UserError, match=r"^the id cat_1 fits 2 files: TrainVal/cat/cat_1.png, TrainVal/dog/cat_1.png$"):
        run_prepare(data, relabel=labels("cat_1,dog\n"))
    with pytest.raises(UserError, match=r"gives cat/cat_2.png two labels: dog and cat$"):
        run_prepare(data, relabel=labels("cat_2,dog\ncat/cat_2,cat\n"))


def test_a_file_left_as_it_was_changes_nothing(prepared, data, run_prepare, labels, workspace):
    before = fingerprint(workspace.root)
    result = run_prepare(data, relabel=labels("cat/cat_1.png,cat,0.9\n", header="image_id,label,suggested\n"))
    assert (result.unchanged, fingerprint(workspace.root)) == (True, before)
    assert "changes nothing" in result.notes[0]


def test_a_path_relative_to_this_folder_was_advised_for_kit_toml(data, run_prepare, labels, tmp_path, monkeypatch):
    path = labels("cat/cat_1.png,dog\n")
    monkeypatch.chdir(data)
    (note,) = run_prepare(data, relabel=Path(os.path.relpath(path))).notes
    assert note.endswith(f'or write `relabel = "{path}"` into [prepare] of kit.toml')


def test_without_the_file_the_labels_are_those_of_data_again_and_one_is_told(data, run_prepare, labels):
    first = run_prepare(data)
    assert first.notes == ()
    changed = run_prepare(data, relabel=labels("cat/cat_1.png,dog\ncat/cat_0.png,\n"))
    assert "gives 1 image another label and leaves 1 image out" in changed.notes[0]
    assert '`relabel = "' in changed.notes[0]
    again = run_prepare(data)
    assert again.notes == ("labels are those of DATA again, since `--relabel` was not given this time",)
    assert again.manifest.equals(first.manifest)


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("cat/no.png,dog\n", r"names 1 training image that DATA does not have: cat/no.png$", "manifest.csv"),
        ("t0,dog\n", r"names 1 training image that DATA does not have: t0$", "manifest.csv"),
        ("cat/cat_0.png,dig\n", r"gives labels that are no class of DATA: dig$", "did you mean `dog`?"),
        ("cat/cat_0.png,9\n", r"gives labels that are no class of DATA: 9$", "an empty label leaves an image out"),
        ("cat/cat_0.png,dog\ncat/cat_0.png,cat\n", r"gives cat/cat_0.png two labels: dog and cat$", ""),
        (None, r"cannot read .*relabel\.csv: No such file or directory", ""),
    ],
)
def test_what_the_file_cannot_mean_is_refused_in_one_sentence(data, run_prepare, labels, text, error, hint):
    path = labels(text or "")
    if text is None:
        path.unlink()
    with pytest.raises(UserError, match=error) as caught:
        run_prepare(data, relabel=path)
    assert hint in (caught.value.hint or "")


def test_a_picture_under_two_labels_is_judged_by_its_new_label(data, run_prepare, labels, picture):
    for label in ("cat", "dog"):
        picture(53).save(data / "TrainVal" / label / "twice.png")
    assert told(run_prepare(data), "cat/twice.png")[1] == "left out"
    mended = run_prepare(data, relabel=labels("cat/twice.png,dog\n"))
    reason = "relabelled: was cat; exact copy in train: dog/twice.png"
    assert told(mended, "cat/twice.png") == ("dog", "usable", reason)
    assert told(mended, "dog/twice.png") == ("dog", "usable", "exact copy in train: cat/twice.png")
    other = run_prepare(data, relabel=labels("cat/twice.png,\n"))
    assert told(other, "dog/twice.png") == ("dog", "usable", "")


def test_a_file_beside_the_class_folders_can_be_given_a_label(data, run_prepare, labels, picture):
    picture(60).save(data / "TrainVal/lost.png")
    assert told(run_prepare(data), "lost.png")[1] == "left out"
    found = run_prepare(data, relabel=labels("lost.png,cat\n"))
    assert told(found, "lost.png") == ("cat", "usable", "relabelled: was without label")


def test_folds_that_know_other_labels_are_refused_with_the_way_out(prepared, data, run_prepare, run_split, labels):
    run_split(n_folds=2)
    run_prepare(data, relabel=labels("cat/cat_1.png,dog\n"))
    with pytest.raises(UserError, match=r"^1 training image changed since the folds .*: cat/cat_1.png$") as caught:
        run_split(n_folds=2)
    assert "`rm -r " in caught.value.hint
    assert "`--work DIR`" in caught.value.hint


def test_a_relabelling_touches_no_pixel(prepared, data, run_prepare, labels, workspace):
    stores = [workspace.folds / name for name in ("pixels-32.u8", "pixels-32.json", "files.csv")]
    before = [(path.read_bytes(), path.stat().st_ino) for path in stores]
    run_prepare(data, relabel=labels("cat/cat_1.png,\ncat/cat_2.png,dog\n"))
    assert [(path.read_bytes(), path.stat().st_ino) for path in stores] == before
    store = open_store(workspace)
    assert store.split.tolist() == ["train", "", *["train"] * 6, "test", "test"]
    assert store.pixels[1].any()  # what is left out keeps its picture, for people to look at
