"""Tests the report: after any step there is a page, and its numbers are those of blend and runs."""

import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

from ensemble.blend.blend_json import load_blend, save_blend
from ensemble.blend.expected import expected_words
from folds.base.interval import wilson_interval
from folds.base.workspace import Workspace
from folds.manifest.manifest import csv_bytes, read_manifest
from folds.split.assign import load_folds, store_folds
from models.predict.predictions import load_predictions
from submissions.report.make import MOST_BYTES, make_report
from submissions.report.mistakes import suspected_labels
from submissions.report.plots import bars, lines, points, ranges
from submissions.report.scores import scores_section
from submissions.report.workfolder import WorkFolder, score_run
from submissions.settings import ReportSettings, Wanted
from tests.competition import fingerprint, refusal
from tests.ensemble.small import small_work, write_small


@pytest.fixture
def work(reported, tmp_path):
    return Workspace(shutil.copytree(reported[0].root, tmp_path / "work"))


def report(workspace):
    """(what `report` returned, the page, the numbers beside it)"""
    made = make_report(workspace, ReportSettings(), Wanted([]))
    return made, made.path.read_text(), json.loads((workspace.report / "report.json").read_text())


def test_the_report_says_what_blend_and_done_markers_say(reported):
    work, made, said = reported
    page = made.path.read_text()
    blend = json.loads(work.blend.read_text())
    entries = {entry["name"]: entry for entry in said["scores"]["entries"]}
    assert entries["blend"]["top3_error"] == blend["oof_top3_error"]
    folds = load_folds(work)
    for name in ("one", "two"):
        misses = []
        for fold in range(2):
            oof = load_predictions(work.fold(name, fold) / "oof.npz", hint="")
            target = folds.target[np.searchsorted(folds.image_id, oof.image_id)]
            top3 = np.argsort(-oof.probs(), axis=1, kind="stable")[:, :3]
            misses += (top3 != target[:, None]).all(axis=1).tolist()
        assert entries[name]["top3_error"] == pytest.approx(np.mean(misses))
    assert f"{blend['oof_top3_error']:.4f}" in page
    assert said["charts"]["cv"]["values"][0] == blend["oof_top3_error"]


def test_the_blend_of_another_metric_was_shown_as_if_its_top3_error_were_exact(work):
    blend = load_blend(work.blend)
    save_blend(work.blend, dataclasses.replace(blend, metric="log-loss"))
    entry = scores_section(WorkFolder(work), [], Wanted([]))["entries"][0]
    sizes = np.unique(load_folds(work).group, return_counts=True)[1]
    interval = wilson_interval(blend.oof_top3_error, sizes.sum() ** 2 / (sizes**2).sum())
    assert (entry.low, entry.high) == pytest.approx(interval)


def test_a_run_without_errors_was_promised_by_its_images_where_its_pictures_count(tmp_path):
    work, folds = small_work(tmp_path, members=0)
    table = {"image_id": folds.image_id, "path": folds.image_id, "label": folds.label, "target": folds.target}
    store_folds(work, pd.DataFrame({**table, "fold": folds.fold, "group": np.arange(600) // 3}), seed=0)
    right = np.where(folds.target[:, None] == np.arange(8), 0.93, 0.01)
    write_small(work, load_folds(work), "right", np.log(right).astype(np.float32))
    entry = score_run(work, "right")
    assert (entry.images, entry.top3_error, (entry.low, entry.high)) == (600, 0, wilson_interval(0.0, 200))


def test_copies_leaks_and_left_out_files_stand_on_the_page_with_their_pictures(reported):
    _, made, said = reported
    page = made.path.read_text()
    kinds = {one["title"] for one in said["data"]["copies"]}
    assert kinds >= {"copies among the training images", "the same picture under two labels"}
    assert "training images that are also test images" in kinds
    lost = {one["image"]["path"]: one["status"] for one in said["data"]["left_out"]}
    same, empty = ("TrainVal/1/same.jpg", "TrainVal/2/same.jpg"), "TrainVal/0/empty.jpg"
    assert lost == {**dict.fromkeys(same, "left out"), empty: "unreadable"}
    assert page.count("<img") > 20
    assert 'alt="train image 1/same.jpg, label 1"' in page


def test_a_report_is_made_after_every_step_and_none_before_prepare(tmp_path, whole):
    work = Workspace(shutil.copytree(whole, tmp_path / "work"))
    later = [[work.submissions], [work.ensemble], [work.models], [work.folds_csv, work.folds_json]]
    for step, gone in zip(("blend", "train", "split", "prepare"), later, strict=True):
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(work.report, ignore_errors=True)
        made, page, said = report(work)
        assert made.problems == ()
        assert page.count("<section") == 6
        assert (said["mistakes"] is None) == (step in ("split", "prepare"))
    message, hint = refusal(report, Workspace(tmp_path))
    assert "manifest.csv does not exist" in message
    assert hint == "`python run.py prepare DATA`"


def test_a_run_that_lacks_a_fold_is_shown_by_the_folds_that_it_has(work):
    shutil.rmtree(work.ensemble)
    (work.fold("one", 1) / "done.json").unlink()
    _, page, said = report(work)
    entries = {entry["name"]: entry for entry in said["scores"]["entries"]}
    assert (entries["one"]["folds"], entries["two"]["folds"]) == (1, 2)
    assert said["mistakes"]["of"] == "two"
    assert "1 of 2 folds" in page
    assert "not done" in page


@pytest.mark.parametrize("file", ["folds/folds.json", "models/one/fold0/done.json", "models/one/fold0/oof.npz"])
def test_a_damaged_file_is_named_on_the_page_and_the_rest_is_shown(work, file):
    """Damaged folds and a damaged done-marker ended the report before there was a page."""
    path = work.root / file
    path.write_bytes(path.read_bytes()[:-50] + bytes(50))
    made = make_report(work, ReportSettings(), Wanted(["one", "two"]))
    said = json.loads((work.report / "report.json").read_text())
    assert any(path.name in problem and "damaged" in problem for problem in made.problems)
    assert "What is wrong here" in made.path.read_text()
    if path.suffix == ".npz":
        assert [entry["name"] for entry in said["scores"]["entries"]] == ["blend", "two"]
    else:
        assert made.next_command == "status"  # which refuses, with the hint


def test_the_same_work_folder_makes_the_same_bytes_and_nothing_else_is_changed(reported):
    work = reported[0]
    before = fingerprint(work.root)
    report(work)
    after = fingerprint(work.root)
    assert {path: data for path, (data, _) in after.items()} == {path: data for path, (data, _) in before.items()}
    written = {path for path in before if after[path] != before[path]}
    assert written <= {"report/index.html", "report/report.json", "report/relabel.csv"}


def test_a_page_that_would_be_too_long_gets_fewer_pictures(work, reported, monkeypatch):
    whole = reported[1]
    assert (whole.refused, whole.bytes < MOST_BYTES) == (0, True)
    monkeypatch.setattr("submissions.report.make.MOST_BYTES", whole.bytes - 20_000)
    made, page, _ = report(work)
    assert made.bytes <= whole.bytes - 20_000
    assert made.refused > 0
    assert f"{made.refused} pictures were left out" in page


def test_names_cannot_break_out_of_the_page(work):
    table = read_manifest(work)
    table.loc[0, "reasons"] = "<script>alert(1)</script>"
    work.manifest.write_bytes(csv_bytes(table))
    assert "<script" not in report(work)[1]


def test_confident_learning_finds_the_labels_that_were_swapped():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, 400)
    probs = np.full((400, 5), 0.02)
    probs[np.arange(400), target] = 0.92
    given = target.copy()
    given[:4] = (target[:4] + 1) % 5
    assert sorted(suspected_labels(probs, given).tolist()) == [0, 1, 2, 3]


def test_confident_learning_copes_with_a_class_without_images():
    probs = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.1, 0.0, 0.9], [0.2, 0.0, 0.8]], np.float32)
    assert suspected_labels(probs, np.array([0, 0, 2, 2])).tolist() == []


def test_the_same_chart_is_the_same_text_with_odd_names_as_they_are_and_the_colours_of_the_page():
    rows = [("$a$", 10.0), ("<b>", 20.0), ("猫", 30.0), ("_c", 30.0), ("b & c", 40.0)]
    chart, again = (bars("sizes", "Sizes", rows=rows, y_title="images") for _ in range(2))
    assert chart == again
    assert 'aria-label="Sizes: 5 classes, 10 to 40 images"' in chart["svg"]
    assert all(text in chart["svg"] for text in ("b &amp; c: 40", ">$a$<", "&lt;b&gt;", "猫", ">_c<"))
    assert "#" not in chart["svg"]


XY = {"x_title": "x", "y_title": "y"}
ONE = {"name": "loss", "role": "valid", "x": [1.0], "y": [0.5]}


def test_views_of_nets_whose_names_begin_alike_had_one_label_in_a_chart():
    names = [f"tf_efficientnet_lite{net}-probe: {view}" for net in range(3) for view in ("centre", "mirror")]
    svg = ranges("r", "t", rows=[(name, 0.1, 0.0, 0.2) for name in names], x_title="x")["svg"]
    shown = re.findall(r">([^<>]*\u2026[^<>]*)</text>", svg)
    assert len(set(shown)) == len(shown) == len(names)


@pytest.mark.parametrize(
    "chart",
    [
        lambda: lines("l", "t", series=[ONE], x_title="epoch"),
        lambda: lines("l", "t", series=[{**ONE, "y": [0.0]}], x_title="rate", is_log_x=True, mark=("m", 1.0)),
        lambda: points("p", "t", rows=[("x", 1, 0), ("y", 50, 0)], **XY, is_log=True, has_diagonal=True),
        lambda: points("p", "t", rows=[("x", 3, 0), ("y", 3, 0)], **XY, named=[0, 1]),
        lambda: ranges("r", "t", rows=[("x", 0, 0, 0), ("y", 0, 0, 0)], x_title="x"),
        lambda: bars("b", "t", rows=[("x", 0), ("y", 900)], y_title="y", is_log=True),
        lambda: bars("b", "t", rows=[], y_title="y"),
        lambda: ranges("r", "t", rows=[("x", 0, 0, 0), ("y", 1, 1, 1)], x_title="x", most=0),
    ],
)
def test_charts_of_one_point_of_zeros_and_of_nothing_are_drawn(chart):
    svg = chart()["svg"]
    assert svg.startswith("<svg")
    assert "nan" not in svg
    assert "inf" not in svg


def test_one_bad_run_beside_good_ones_squashed_them_on_the_chart():
    rows = [("a", 0.010, 0.008, 0.013), ("b", 0.014, 0.012, 0.017), ("table", 0.54, 0.53, 0.55)]
    chart = ranges("r", "t", rows=rows, x_title="x", most=0.06)
    assert 0.017 < chart["end"] < 0.06
    assert ">0.5400 \N{RIGHTWARDS ARROW}<" in chart["svg"]
    assert "table 0.5400" in chart["alt"]
    assert ranges("r", "t", rows=rows, x_title="x")["end"] > 0.54


def test_many_classes_make_an_outline_and_not_thousands_of_bars():
    rows = [(str(i), float(i % 50 + 1)) for i in range(3000)]
    assert len(bars("many", "t", rows=rows, y_title="images")["svg"]) < 100_000


def test_the_command_says_where_the_page_is_and_no_absolute_path_stands_in_it(work, monkeypatch, typed):
    monkeypatch.chdir(work.root.parent)
    out = typed("report", "--work", work.root, "--contact-pictures", "0").out
    assert "work/report/index.html: 0." in out
    written = [path.read_text() for path in work.report.iterdir()]
    assert len(written) == 3
    assert not [text for text in written if str(work.root.parent) in text]
    assert "--work work</code>" in "".join(written)


def test_an_edited_relabel_csv_is_left_as_it_is_until_it_is_fed_back_and_then_repeats_what_was_decided(
    work, whole, typed
):
    path = work.report / "relabel.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(table.columns[:3]) == ["image_id", "label", "suggested"]
    others = table[~table["image_id"].isin(["0/0-1.jpg", "2/2-3.jpg"])]  # with the labels that are there
    edited = csv_bytes(others) + b"0/0-1.jpg,1,,,,\n2/2-3.jpg,,,,,\n"
    path.write_bytes(edited)
    assert "has edits and is left as it is" in typed("report", "--work", work.root).out
    assert path.read_bytes() == edited
    typed("prepare", whole.parent / "data", "--work", work.root, "--workers", "1", "--relabel", path)
    made = report(work)[0]
    assert not made.is_relabel_kept
    assert re.search(r"^2 training images changed since the folds in .* were assigned: 0/0-1.jpg", made.problems[0])
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)[["image_id", "label", "note"]].to_numpy().tolist()
    assert rows[:2] == [["0/0-1.jpg", "1", "relabelled: was 0"], ["2/2-3.jpg", "", "unlabelled: was 2"]]


def test_score_says_the_expected_error_and_a_lineage_that_is_a_list_costs_neither_score_nor_report(
    work, reported, typed
):
    """`score` ended in a traceback."""
    guess, truth = work.submissions / "blend.csv", work.root / "truth.csv"
    first = guess.read_text().splitlines()[1].split(",")[0]
    truth.write_text(f"id,label\n{first},0\n")
    words = "score", guess, "--labels", truth, "--work", work.root
    expected = expected_words(load_blend(work.blend).expected_top3)
    assert typed(*words).out.endswith(f"\nexpected: {expected}\n")
    assert f"top-3 error <b>{expected}</b> on " in reported[1].path.read_text()
    guess.with_suffix(".json").write_text("[]")
    assert "expected" not in typed(*words).out
    assert scores_section(WorkFolder(work), [], Wanted([]))["submission"]["expected"] is None


def test_status_quotes_a_path_with_a_space_so_that_the_next_command_can_be_typed(whole, tmp_path, typed):
    work = shutil.copytree(whole, tmp_path / "my work")
    shown = typed("status", "--work", work).out.splitlines()[-1].removeprefix("next: python run.py ")
    assert typed(*shlex.split(shown)).out.endswith("rows, valid\n")
