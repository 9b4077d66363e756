import shutil

import numpy as np
import pytest
from PIL import Image

from folds.base.errors import UserError
from folds.base.workspace import Workspace, digest, read_json, write_json
from folds.commands import headline, prepare_tables, split_tables
from folds.find.reasons import from_cell
from folds.manifest import manifest
from folds.manifest.prepare import prepare
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reasons, status_counts
from folds.pixels.formats import FORMATS
from folds.pixels.store import damaged_rows, open_store
from folds.settings import PrepareSettings
from tests.competition import by_image, fingerprint, make_competition, make_picture, refusal
from tests.ensemble.small import shown


def contents(workspace):
    return {path.name: path.read_bytes() for path in workspace.folds.iterdir()}


def test_the_manifest_has_a_row_for_every_file_in_order(data, run_prepare, workspace):
    table = run_prepare(data).manifest
    assert tuple(table.columns) == manifest.COLUMNS
    assert table["image_id"].tolist() == [f"{c}/{c}_{n}.png" for c in ("cat", "dog") for n in range(4)] + ["t0", "t1"]
    assert table["path"].tolist()[-1] == "Public/t1.png"
    assert set(table["status"]) == {"usable"}
    assert table["group"].tolist() == list(range(10))
    assert manifest.read_manifest(workspace).equals(table)


def test_row_i_of_the_store_is_row_i_of_the_manifest(dirty, run_prepare, workspace):
    table = run_prepare(dirty).manifest
    store = open_store(workspace)
    assert store.image_id.tolist() == table["image_id"].tolist()
    assert (store.split == "").tolist() == (table["status"] != "usable").tolist()
    assert (store.size, store.pixels.shape) == (32, (len(table), 32, 32, 3))
    for row, (path, status) in enumerate(zip(table["path"], table["status"], strict=True)):
        if status == "unreadable":
            assert not store.pixels[row].any()
        elif not path.endswith("cut.jpg"):
            whole = Image.open(dirty / path).convert("RGB")
            expected = whole.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3.0)
            assert (store.pixels[row] == np.asarray(expected)).all(), path
    assert damaged_rows(workspace).tolist() == []


def test_every_defect_is_named_and_nothing_under_data_is_written(dirty, run_prepare):
    before = fingerprint(dirty)
    result = run_prepare(dirty)
    table = by_image(result.manifest)
    expected = {
        "cat/empty.jpg": ["unreadable", "zero-byte"],
        "cat/page.jpg": ["unreadable", "not an image"],
        "cat/png.jpg": ["usable", "wrong extension: PNG named .jpg"],
        "cat/cmyk.jpg": ["usable", "CMYK"],
        "cat/twice.png": ["left out", "two labels: cat and dog; exact copy in train: dog/twice.png"],
        "cat/leak.png": ["usable", "exact copy in test: leaked"],
        "leaked": ["usable", "exact copy in train: cat/leak.png"],
    }
    assert {name: table.loc[name, ["status", "reasons"]].tolist() for name in expected} == expected
    assert table.loc["cat/cut.jpg", "status"] == "left out"
    assert table.loc["cat/cut.jpg", "reasons"].startswith("truncated: ")
    assert result.hidden == (".DS_Store",)
    run_prepare(dirty, near_bits=2)
    assert fingerprint(dirty) == before


def test_truncated_images_and_those_of_two_labels_are_used_only_if_asked_for_and_always_predicted(dirty, run_prepare):
    run_prepare(dirty)
    for is_kept, status in ((False, "left out"), (True, "usable")):
        made = run_prepare(dirty, keep_truncated=is_kept, keep_two_labels=is_kept)
        table, named = by_image(made.manifest), ["cat/cut.jpg", "cat/twice.png", "t_cut"]
        assert table.loc[named, "status"].tolist() == [status, status, "usable"]
        assert made.decoded == 0  # what was left out has its row too
    assert table.loc["cat/twice.png", "group"] == table.loc["dog/twice.png", "group"]


def test_copies_share_a_group_and_stay_and_mirrored_ones_may_have_another_label(data, run_prepare, picture):
    mirrored = picture(60).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copies = {'cat/a; zero-byte: "x".png': picture(60), "cat/b.bmp": picture(60), "dog/c.png": mirrored}
    for name, copy in copies.items():
        copy.save(data / "TrainVal" / name)
    table = run_prepare(data).manifest.set_index("image_id")
    assert table.loc[list(copies), "group"].nunique() == 1
    assert set(table["status"]) == {"usable"}
    first = next(iter(copies))  # a reason holds any name
    assert from_cell(table.loc["cat/b.bmp", "reasons"]) == (("exact copy in train", first),)
    assert from_cell(table.loc["dog/c.png", "reasons"]) == (("mirrored copy in train", first),)


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_after_a_change_of_few_files_those_are_decoded_and_the_rest_is_as_from_scratch_by_more_processes(
    dirty, run_prepare, workspace, picture, store
):
    run_prepare(dirty, store=store)
    (dirty / "TrainVal/cat/cat_1.png").unlink()
    picture(70).save(dirty / "TrainVal/cat/cat_2.png")
    picture(71).save(dirty / "TrainVal/dog/aaa.png")
    result = run_prepare(dirty)
    assert (result.unchanged, result.decoded) == (False, 2)
    changed = contents(workspace)
    shutil.rmtree(workspace.root)
    run_prepare(dirty, store=store, workers=3)
    assert contents(workspace) == changed


def test_a_file_that_cannot_be_read_may_change_its_name(data, run_prepare, workspace):
    link = data / "TrainVal/cat/gone.png"
    for name in (link, link.with_name("lost.png")):
        link.unlink(missing_ok=True)
        name.symlink_to("nowhere")
        assert by_image(run_prepare(data).manifest).loc[f"cat/{name.name}", "reasons"] == "a broken link"
        assert open_store(workspace).image_id[4] == f"cat/{name.name}"


def test_a_fault_that_may_pass_is_looked_at_again(data, run_prepare, workspace, picture):
    (data / "TrainVal/cat/empty.jpg").write_bytes(b"")
    run_prepare(data)
    facts = workspace.folds / "files.csv"
    facts.write_text(facts.read_text().replace("zero-byte", "decoder took too long"))
    picture(70).save(data / "TrainVal/dog/new.png")
    result = run_prepare(data)
    assert result.decoded == 2
    assert by_image(result.manifest).loc["cat/empty.jpg", "reasons"] == "zero-byte"


def test_a_file_that_may_be_read_now_was_passed_over_where_nothing_else_had_changed(data, run_prepare, workspace):
    (data / "TrainVal/cat/empty.jpg").write_bytes(b"")
    table = run_prepare(data).manifest
    table["reasons"] = table["reasons"].str.replace("zero-byte", "cannot be read")
    manifest.write_manifest(workspace, table)
    state = read_json(workspace.prepare_json, hint="") | {"manifest": digest(workspace.manifest.read_bytes())}
    write_json(workspace.prepare_json, state)
    facts = workspace.folds / "files.csv"
    facts.write_text(facts.read_text().replace("zero-byte", "cannot be read"))
    result = run_prepare(data)
    assert (result.unchanged, result.decoded) == (False, 1)
    assert run_prepare(data).unchanged


def test_a_sample_that_is_not_given_again_is_missed(data, run_prepare, tmp_path):
    (tmp_path / "sample.csv").write_text("id,label\nt1,\nt0,\n")
    assert run_prepare(data, sample=str(tmp_path / "sample.csv")).notes == ()
    said = "the sample submission of the last prepare is not used, since `--sample` was not given this time"
    assert run_prepare(data).notes == (said,)
    assert run_prepare(data).notes == ()


def test_a_work_folder_of_another_version_is_refused_and_made_anew(prepared, data, run_prepare, workspace):
    head = workspace.folds / "pixels-32.json"
    write_json(head, {**read_json(head, hint=""), "version": 1})
    said = (f"{head} was written by another version", "`python run.py prepare DATA`")
    assert refusal(open_store, workspace) == said
    workspace.manifest.write_text(workspace.manifest.read_text().replace("reasons", "reason", 1))
    assert refusal(manifest.read_manifest, workspace)[0] == f"{workspace.manifest} was written by another version"
    assert run_prepare(data).decoded == 10
    assert open_store(workspace).size == 32


def test_a_manifest_that_was_edited_is_made_anew_from_the_pixels_that_are_there(prepared, data, run_prepare, workspace):
    before = workspace.manifest.read_bytes()
    workspace.manifest.write_bytes(before.replace(b",cat,usable", b",dog,usable", 1))
    again = run_prepare(data)
    assert (again.unchanged, again.decoded, workspace.manifest.read_bytes()) == (False, 0, before)


@pytest.mark.parametrize(("longest", "size"), [(28, 32), (80, 96), (287, 288), (2000, 288)])
def test_a_store_that_nobody_sized_is_no_larger_than_the_pictures(data, workspace, longest, size):
    """It kept pictures of 32 pixels at 352: 120 times the bytes of the files, and a seventh of the speed."""
    for path in data.rglob("*.png"):
        Image.open(path).resize((24, 24)).save(path)
    make_picture(9, width=longest, height=20).save(data / "TrainVal/cat/long.png")
    (data / "TrainVal/cat/empty.jpg").write_bytes(b"")
    assert prepare(workspace, data, PrepareSettings(workers=1)).store_size == size
    assert prepare(workspace, data, PrepareSettings(workers=1)).unchanged
    assert prepare(workspace, data, PrepareSettings(workers=1), needed_size=16).unchanged
    assert prepare(workspace, data, PrepareSettings(workers=1, store_size=48)).store_size == 48


def test_a_store_of_pictures_whose_headers_say_too_little_is_as_large_as_runs_need(data, workspace):
    for path in sorted(data.rglob("*.png"))[:2]:  # of ten
        Image.open(path).save(path, format="WEBP")
    assert prepare(workspace, data, PrepareSettings(workers=1)).store_size == 288


def test_the_same_data_at_another_place_are_accepted_and_other_data_refused(
    prepared, data, run_prepare, workspace, tmp_path
):
    shutil.copytree(data, tmp_path / "moved")  # with the times of change
    assert run_prepare(tmp_path / "moved").unchanged
    other = make_competition(tmp_path / "other", per_class=1, n_test=1)
    assert refusal(run_prepare, other) == (
        f"{workspace.root} was made from other data: 0 of its 10 files are in {other}",
        "choose another folder with `--work DIR`",
    )


def test_a_work_folder_inside_the_data_is_refused(data):
    said, _ = refusal(prepare, Workspace(data / "work"), data, PrepareSettings())
    assert said == f"the work folder {data / 'work'} lies inside {data}, where nothing is written"


def test_a_work_folder_that_cannot_be_written_is_refused(data, run_prepare, workspace):
    workspace.root.write_text("a file where the folder should be")  # permissions do not stop the superuser
    with pytest.raises(UserError, match=r"^cannot write .*folds.lock: (Not a directory|File exists)$") as caught:
        run_prepare(data)
    assert caught.value.hint == "free some room or choose another folder with `--work DIR`"


def test_classes_without_a_usable_image_leave_too_few(competition, run_prepare):
    data = competition({"cat": 1, "dog": 1})
    (data / "TrainVal/dog/dog_0.png").write_bytes(b"")
    said = "1 classes of 2 have usable training images and two are needed; first reasons: zero-byte"
    assert refusal(run_prepare, data)[0] == said


def test_test_ids_come_in_the_samples_order_with_unreadable_ones_or_in_natural_order(data, run_prepare, workspace):
    for name in ("t10", "t2"):
        (data / "Public" / f"{name}.png").write_bytes(b"")
    run_prepare(data)
    assert manifest.test_ids(workspace) == ["t0", "t1", "t2", "t10"]
    (data / "sample_submission.csv").write_text("id,predicted\nt1,x\nt2,x\nt10,x\nt0,x\n")
    run_prepare(data)
    assert manifest.test_ids(workspace) == ["t1", "t2", "t10", "t0"]
    assert workspace.sample.read_bytes() == (data / "sample_submission.csv").read_bytes()


def test_progress_counts_the_images_that_are_decoded(data, workspace):
    seen = []

    def track(items, *, what, total, unit="images", each=1):
        seen.append((what, total, unit, len(answers := list(items))))
        yield from answers

    prepare(workspace, data, PrepareSettings(store_size=32, workers=1), track=track)
    assert seen == [("decode", 10, "images", 10)]


def test_a_file_without_a_decoder_is_looked_at_again_once_there_is_one(data, run_prepare, monkeypatch):
    (data / "TrainVal/cat/a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    monkeypatch.setattr("folds.manifest.prepare.FORMATS", ("PNG",))
    reason = by_image(run_prepare(data).manifest).loc["cat/a.heic", "reasons"]
    assert run_prepare(data).unchanged
    monkeypatch.setattr("folds.manifest.prepare.FORMATS", ("PNG", "HEIF"))
    again = run_prepare(data)
    assert (again.unchanged, again.decoded) == (False, int(reason.startswith("no decoder: HEIC")))


def test_files_copies_and_classes_are_counted_and_shown(data, run_prepare, picture):
    (data / "TrainVal/mouse").mkdir()
    for name in ("dog/empty[0].jpg", "dog/empty[1].jpg", "dog/empty[2].jpg", "mouse/m.png"):
        (data / "TrainVal" / name).write_bytes(b"")
    seeds = {"cat/x.png": 60, "cat/y.bmp": 60, "cat/both.png": 61, "dog/both.png": 61, "dog/leak.png": 62}
    for name, seed in seeds.items():
        picture(seed).save(data / "TrainVal" / name)
    picture(62).save(data / "Public/leak.png")
    result = run_prepare(data)
    table = result.manifest
    assert status_counts(table) == {"usable": (11, 3), "left out": (2, 0), "unreadable": (4, 0)}
    assert [(r.kind, r.status, r.train, r.test) for r in reasons(table)] == [
        ("zero-byte", "unreadable", 4, 0),
        ("two labels", "left out", 2, 0),
    ]
    assert {count.what: (count.exact, count.near, count.mirrored) for count in copy_counts(table)} == {
        "copies among the training images": (2, 0, 0),
        "the same picture under two labels": (2, 0, 0),
        "training images that are also test images": (1, 0, 0),
        "test images that are also training images": (1, 0, 0),
        "copies inside the test images": (0, 0, 0),
    }
    sizes = class_sizes(table)
    assert sizes.to_dict() == {"mouse": 0, "dog": 5, "cat": 6}  # a class that lost all is there
    assert quartiles(sizes.loc[["dog", "cat", "dog", "cat", "dog"]]) == (5, 5, 5, 6, 6)
    text = shown(prepare_tables(result), width=140)
    for words in (
        "20 files: 20 decoded",
        "zero-byte",
        "TrainVal/dog/empty[0].jpg, TrainVal/dog/empty[1].jpg and 2 more",
        "the same picture under two labels",
        "training images that are also test images",
        "mouse: 0, dog: 5, cat: 6",
        "without a usable image, left out",
    ):
        assert words in text, text


def test_how_many_files_lack_a_decoder_and_what_to_install_is_noted(data, run_prepare):
    for name in ("a", "b"):
        (data / "TrainVal/cat" / f"{name}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    made = run_prepare(data)
    said = "2 files are HEIC, which `pip install pillow-heif` reads; then `python run.py prepare DATA` again"
    assert made.notes == (() if "HEIF" in FORMATS else (said,))
    assert run_prepare(data).notes == made.notes


def test_the_headline_says_what_was_done_and_no_empty_table_of_reasons_is_shown_below(data, run_prepare, picture):
    first = run_prepare(data)
    assert headline(first).startswith("10 files: 10 decoded, in 0:0")
    text = shown(prepare_tables(first), width=140)
    assert "reason" not in text
    assert "images per class" in text
    picture(99).save(data / "TrainVal/cat/cat_0.png")
    assert headline(run_prepare(data)).startswith("10 files: 1 decoded, 9 kept as they were, in 0:0")
    assert headline(run_prepare(data)) == "10 files, unchanged since the last prepare: nothing to do"
    rows = "".join(f"{path.parent.name}/{path.name},{path.parent.name}\n" for path in data.glob("TrainVal/*/*"))
    (data / "train.csv").write_text(f"id,label\n{rows}lost.png,cat\n")
    assert headline(run_prepare(data)).startswith("10 files: 0 decoded, 10 kept as they were, in 0:0")
    (data / "TrainVal/cat/gone.png").symlink_to("nowhere.png")  # which is a file of the folder and never opened
    assert headline(run_prepare(data)).startswith("11 files: 0 decoded, 10 kept as they were, in 0:0")


def test_training_images_without_a_file_were_two_rows_of_a_table_and_are_a_warning_where_they_are_many(
    data, run_prepare
):
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}\n" for path in sorted(data.glob("TrainVal/*/*"))]
    (data / "train.csv").write_text(f"id,label\n{''.join(rows[:-1])}lost.png,cat\ngone.png,dog\n")
    for _ in range(2):  # an unchanged folder is no reason to be silent
        said = " ".join(shown(prepare_tables(run_prepare(data)), width=140).split())
        assert said.endswith(
            "warning: 2 of the 9 training images that the CSV names have no file, and nothing is trained on them: "
            "gone.png, lost.png; put the files there, or name their folder with `--train-folder NAME`"
        )
    (data / "train.csv").write_text(f"id,label\n{''.join(rows)}")
    assert "warning" not in shown(prepare_tables(run_prepare(data)), width=140)


def test_the_split_table_shows_the_rarest_class_and_names_small_ones(competition, run_prepare, run_split):
    run_prepare(competition({"a": 6, "b": 1, "c": 3}))
    folds, _ = run_split(n_folds=3)
    text = shown(split_tables(folds), width=140)
    assert "1 class has fewer images than the 3 folds: b: 1 image" in text
    assert text.count("b: 1 image") == 2  # in its one fold, and in the line below
    assert np.bincount(folds.fold).sum() == 10
