import os
from functools import partial

import numpy as np
import pytest

from folds.base.errors import first_few
from folds.base.metrics import log_loss, top_classes, topk_error, true_rank
from folds.base.workspace import read_json, replacing, write_bytes, write_json
from folds.manifest.manifest import class_order, natural_key
from tests.competition import refusal


def test_first_few_names_three_and_counts_the_rest():
    assert first_few(["a"]) == "a"
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(list(range(1003))) == "0, 1, 2 and 1,000 more"


def test_natural_order_is_total():
    labels = ["1", "01", "001", "a1", "a01", "", "²", "10", "9"]
    assert class_order(labels) == class_order(reversed(labels))
    assert natural_key("1") != natural_key("01")
    assert class_order(str(n) for n in range(103)) == tuple(str(n) for n in range(103))
    assert class_order(["10", "2", "1", "b2", "b10", "B", "2"]) == ("1", "2", "10", "B", "b2", "b10")


def test_ranks_count_the_classes_before_and_ties_go_to_the_lower_class():
    scores = np.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0.0]])
    assert true_rank(scores, np.array([2, 3, 1])).tolist() == [2, 3, 0]


def test_topk_error_counts_the_images_whose_class_ranks_below_k():
    scores = np.array([[0.4, 0.3, 0.2, 0.1]] * 4)
    assert topk_error(scores, np.array([0, 1, 2, 3])) == 0.25
    assert topk_error(scores, np.array([0, 1, 2, 3]), k=1) == 0.75


def test_log_loss_is_the_mean_negative_log_and_stays_finite():
    probs = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert log_loss(probs, np.array([0, 0])) == pytest.approx(np.log(2) / 2)
    assert log_loss(probs, np.array([0, 1])) == pytest.approx((np.log(2) + np.log(1e15)) / 2)


def test_top_classes_agree_with_the_ranks_on_ties():
    scores = np.random.default_rng(0).integers(0, 3, size=(200, 6)).astype(float)
    top = top_classes(scores)
    for target in range(6):
        in_top = (top == target).any(axis=1)
        assert (in_top == (true_rank(scores, np.full(200, target)) < 3)).all()


def test_nan_scores_are_our_own_mistake():
    with pytest.raises(AssertionError):
        true_rank(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(AssertionError):
        topk_error(np.empty((0, 3)), np.empty(0, dtype=int))


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"one")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"x" * (1 // len(path.read_bytes()[3:])))
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_file_takes_its_name_only_once_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    happened = []

    def noted(call, *args):
        happened.append((call, path.read_bytes(), [one.read_bytes() for one in tmp_path.glob(".a.bin.*")]))
        return call(*args)

    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", partial(noted, fsync))
    monkeypatch.setattr(os, "replace", partial(noted, replace))
    write_bytes(path, b"new")
    assert happened == [(fsync, b"old", [b"new"]), (replace, b"old", [b"new"])]
    assert path.read_bytes() == b"new"


def test_json_comes_back_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    assert refusal(read_json, path, hint="`x`") == (f"{path} does not exist", "`x`")
    write_json(path, {"b": ["é", 0.25], "a": None})
    assert read_json(path, hint="`x`") == {"b": ["é", 0.25], "a": None}
    written = path.read_text(encoding="utf-8")
    assert written.startswith('{\n  "b"')
    path.write_text(written.replace("0.25", "0.75"), encoding="utf-8")
    assert refusal(read_json, path, hint="`x`") == (f"{path} is damaged: its content is not what was written", "`x`")
    path.write_text("{")
    said, hint = refusal(read_json, path, hint="`x`")
    assert (said.partition(":")[0], hint) == (f"{path} is damaged", "`x`")
