"""Damages what lies in models/, ensemble/ and submissions/ in every way: named or made anew, never used."""

import shutil

import pytest

from tests.faults.whole import begin_again, count

FOLD = "models/a/fold0"
ANEW = ("rm models/a/fold0", "train --run a")
CASES = (  # what reads the file, the file, and what mends it: the commands after which everything is as it was
    ("blend", f"{FOLD}/oof.npz", ["predict --run a"]),
    ("blend", f"{FOLD}/done.json", ANEW),
    ("blend", f"{FOLD}/settings.json", ANEW),
    ("submit --run a", f"{FOLD}/test.npz", ["predict --run a"]),
    ("submit", "ensemble/blend.json", ["blend"]),
    ("predict", f"{FOLD}/network.safetensors", ANEW),
    ("check work/submissions/blend.csv", "submissions/blend.csv", ["submit"]),
)
LONG = pytest.mark.faults
DAMAGES = ("a byte flipped", "cut", "empty", "another fold's", "another run's")


@pytest.fixture
def finished(tmp_path, world):
    """A copy of the undisturbed work folder, to damage and to mend."""
    return begin_again(tmp_path, world, more=("work",))


WAYS = [
    (words, name, how)
    for words, name, _ in CASES
    for how in DAMAGES
    if not how.startswith("another") or name.startswith("models/")  # only folds and runs have others
    if (name, how) != (f"{FOLD}/settings.json", "another fold's")  # which is the same
]
SHORT = WAYS[::4]  # has every file and every damage


def damaged(path, how):
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
    [pytest.param(*way, marks=() if way in SHORT else LONG) for way in WAYS],
)
def test_a_damaged_file_is_named_in_one_sentence_and_what_mends_it_is_said(finished, nursery, words, name, how):
    path = finished / "work" / name
    before, made = path.read_bytes(), damaged(path, how)
    assert made != before, "nothing was damaged"
    path.write_bytes(made)
    out = nursery.run(words, folder=finished, code=2)
    error, *rest = [line for line in out.splitlines() if line.startswith(("error", "hint"))]
    assert path.name in error, out
    assert rest
    assert "Traceback" not in out
    count("damages")


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
            nursery.run(line, folder=finished)
    nursery.run(words, folder=finished)
    if name in world.made:
        assert path.read_bytes() == world.made[name]


@pytest.mark.parametrize("other", ["a/fold1", pytest.param("b/fold0", marks=LONG)])
def test_a_fold_folder_from_elsewhere_is_refused(finished, nursery, other):
    models = finished / "work/models"
    shutil.rmtree(models / "a/fold0")
    shutil.copytree(models / other, models / "a/fold0")
    for words in ("blend", "train", "submit --run a"):
        out = nursery.run(words, folder=finished, code=2)
        assert "fold0" in out.splitlines()[-2], out
    count("damages")


def test_a_damaged_study_changes_no_weight(finished, nursery, world):
    path = finished / "work/ensemble/study.log"
    path.write_bytes(damaged(path, "a byte flipped"))
    nursery.run("blend", folder=finished)
    assert (finished / "work/ensemble/blend.json").read_bytes() == world.made["ensemble/blend.json"]
    count("damages")


def test_a_folder_in_place_of_a_file_is_named(finished, nursery):
    path = finished / "work/ensemble/blend.json"
    path.unlink()
    path.mkdir()
    assert "blend.json is damaged" in nursery.run("submit", folder=finished, code=2)


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
    with open(finished / "kit.toml", "a") as kit:
        kit.write("[run.c]\nlr = 0.001\n")
    kept = {path: path.read_bytes() for path in (finished / "work").rglob("*") if path.is_file()}
    error, hint = nursery.run(words, folder=finished, code=2, die={"file_bytes": limit}).splitlines()[-2:]
    assert error.startswith("error: cannot write "), error
    assert hint == "hint: free some room or choose another folder with `--work DIR`"
    changed = [path for path, content in kept.items() if not path.is_file() or path.read_bytes() != content]
    assert {path.name for path in changed} <= {"study.log"}
    count("full disks")


def test_a_killed_predict_is_named_and_mended_by_predict(finished, nursery, world):
    moment = {"event": "os.rename", "name": "done.json", "nth": 1}
    nursery.run("predict --run a --views centre", folder=finished, code=-9, die=moment)
    out = nursery.run("blend", folder=finished, code=2)
    assert "a: fold0/oof.npz is damaged" in out
    assert out.endswith("hint: `python run.py predict --run a`\n")
    nursery.run("predict --run a", folder=finished)
    assert (finished / "work/models/a/fold0/oof.npz").read_bytes() == world.made["models/a/fold0/oof.npz"]
    count("kills")
