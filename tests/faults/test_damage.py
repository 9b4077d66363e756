"""Damages what lies in models/, ensemble/ and submissions/ in every way: named or made anew, never used."""

import shutil

import pytest

from tests.faults.whole import count

FOLD = "models/a/fold0"
TO_BLEND = (  # what `blend` reads, and what mends it: the commands after which everything is as it was
    (f"{FOLD}/oof.npz", ["predict --run a"]),
    (f"{FOLD}/done.json", ["rm models/a/fold0", "train --run a"]),
    (f"{FOLD}/settings.json", ["rm models/a/fold0", "train --run a"]),
)
TO_PREDICT = ((f"{FOLD}/network.safetensors", ["rm models/a/fold0", "train --run a"]),)
CASES = [
    *(("blend", place, mend) for place, mend in TO_BLEND),
    ("submit --run a", f"{FOLD}/test.npz", ["predict --run a"]),
    ("submit", "ensemble/blend.json", ["blend"]),
    *(("predict", place, mend) for place, mend in TO_PREDICT),
    ("check work/submissions/blend.csv", "submissions/blend.csv", ["submit"]),
]
LONG = pytest.mark.faults
DAMAGES = ("a byte flipped", "cut", "empty", "another fold's", "another run's")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    """A copy of the undisturbed work folder, to damage and to mend."""
    place = tmp_path_factory.mktemp("damage")
    for name in ("kit.toml", "data", "work"):
        source = world.folder / name
        shutil.copytree(source, place / name) if source.is_dir() else shutil.copy(source, place / name)
    return place


def is_possible(name, how):
    """Whether another fold or run has such a file, and a different one: all folds of a run have the same settings."""
    return not how.startswith("another") or (
        name.startswith("models/") and (name, how) != (f"{FOLD}/settings.json", "another fold's")
    )


WAYS = [  # each damage of each case, and whether the short form tries it: the first possible one, from another on each
    (words, name, how, how == next(way for way in (*DAMAGES[i % 5 :], *DAMAGES) if is_possible(name, way)))
    for i, (words, name, _) in enumerate(CASES)
    for how in DAMAGES
    if is_possible(name, how)
]


def damaged(path, how):
    """The bytes of the file after the damage."""
    data = bytearray(path.read_bytes())
    if how == "a byte flipped":
        at = data.index(b"0.") + 2 if path.suffix == ".json" else len(data) // 2
        data[at] ^= 1
        return bytes(data)
    if how in ("cut", "empty"):
        return bytes(data[:-20]) if how == "cut" else b""
    fold, run = ("fold1", "a") if how == "another fold's" else ("fold0", "b")
    return (path.parents[2] / run / fold / path.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "name", "how"),
    [pytest.param(words, name, how, marks=() if is_short else LONG) for words, name, how, is_short in WAYS],
)
def test_a_damaged_file_is_named_in_one_sentence_and_what_mends_it_is_said(finished, nursery, words, name, how):
    path = finished / "work" / name
    before, made = path.read_bytes(), damaged(path, how)
    assert made != before, "nothing was damaged"
    try:
        path.write_bytes(made)
        code, out = nursery.run(words.split(), folder=finished)
        assert code == 2, out
        error, *rest = [line for line in out.splitlines() if line.startswith(("error", "hint"))]
        assert path.name in error or f"{path.parent.name}/{path.name}" in error, out
        assert rest
        assert "Traceback" not in out
        count("damages")
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("words", "name", "mend"), [pytest.param(*case, marks=() if case is CASES[0] else LONG) for case in CASES]
)
def test_what_the_hint_says_mends_a_damaged_file(finished, nursery, world, words, name, mend):
    path = finished / "work" / name
    path.write_bytes(damaged(path, "a byte flipped"))
    for line in mend:
        if line.startswith("rm "):
            shutil.rmtree(finished / "work" / line.removeprefix("rm "))
        else:
            code, out = nursery.run(line.split(), folder=finished)
            assert code == 0, out
    assert nursery.run(words.split(), folder=finished)[0] == 0
    if name in world.made:
        assert path.read_bytes() == world.made[name]


@pytest.mark.parametrize("how", ["whole fold", pytest.param("whole run", marks=LONG)])
def test_a_fold_folder_from_elsewhere_is_refused(finished, nursery, how):
    models = finished / "work/models"
    own, other = models / "a/fold0", models / ("a/fold1" if how == "whole fold" else "b/fold0")
    aside = own.rename(models.parent / "aside")
    try:
        shutil.copytree(other, own)
        for words in (["blend"], ["train"], ["submit", "--run", "a"]):
            code, out = nursery.run(words, folder=finished)
            assert code == 2, out
            assert "fold0" in out.splitlines()[-2], out
        count("damages")
    finally:
        shutil.rmtree(own)
        aside.rename(own)


def test_a_damaged_study_changes_no_weight(finished, nursery, world):
    path = finished / "work/ensemble/study.log"
    path.write_bytes(damaged(path, "a byte flipped"))
    code, out = nursery.run(["blend"], folder=finished)
    assert code == 0, out
    assert (finished / "work/ensemble/blend.json").read_bytes() == world.made["ensemble/blend.json"]
    count("damages")


def test_a_folder_in_place_of_a_file_is_named(finished, nursery):
    path = finished / "work/ensemble/blend.json"
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    code, out = nursery.run(["submit"], folder=finished)
    assert code == 2
    assert "blend.json is damaged" in out
    path.rmdir()
    aside.rename(path)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("train --run c", 60_000),
        ("prepare data --store-size 48", 100_000),
        pytest.param("blend", 1_000, marks=LONG),
        pytest.param("submit", 600, marks=LONG),
        pytest.param("predict --run a --views centre", 1_000, marks=LONG),
    ],
)
def test_a_full_disk_stops_with_one_sentence_and_leaves_what_was_there(finished, nursery, words, limit):
    with open(finished / "kit.toml") as kit:
        settings = kit.read()
    (finished / "kit.toml").write_text(settings + "[run.c]\nlr = 0.001\n")
    kept = {path: path.read_bytes() for path in (finished / "work").rglob("*") if path.is_file()}
    try:
        code, out = nursery.run(words.split(), folder=finished, die={"file_bytes": limit})
        assert code == 2, out
        error, hint = out.splitlines()[-2:]
        assert error.startswith("error: cannot write "), out
        assert hint == "hint: free some room or choose another folder with `--work DIR`"
        after = {path: path.read_bytes() for path in kept if path.is_file()}
        changed = [path for path in kept if after.get(path) != kept[path] and path.name != "study.log"]
        assert changed == []
        count("full disks")
    finally:
        (finished / "kit.toml").write_text(settings)
        shutil.rmtree(finished / "work/models/c", ignore_errors=True)


def test_a_killed_predict_is_named_and_mended_by_predict(finished, nursery, world):
    words = ["predict", "--run", "a", "--views", "centre"]
    code, out = nursery.run(words, folder=finished, die={"event": "os.rename", "name": "done.json"})
    assert code == -9, out
    code, out = nursery.run(["blend"], folder=finished)
    assert code == 2
    assert "a: fold0/oof.npz is damaged" in out
    assert out.endswith("hint: `python run.py predict --run a`\n")
    assert nursery.run(["predict", "--run", "a"], folder=finished)[0] == 0
    assert (finished / "work/models/a/fold0/oof.npz").read_bytes() == world.made["models/a/fold0/oof.npz"]
    count("kills")
