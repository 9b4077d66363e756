"""Tests odd names of files and folders: each is used or refused by name; links are followed, ids are not."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from folds.base.workspace import Workspace
from folds.find.dataset import find_dataset
from folds.find.listing import composed
from folds.manifest.manifest import read_manifest
from folds.manifest.prepare import prepare
from folds.pixels.store import open_store
from folds.settings import PrepareSettings, SplitSettings
from folds.split.assign import load_folds, split
from tests.competition import by_image, fingerprint, jpeg, refusal
from tests.faults.whole import count

COMPOSED = unicodedata.normalize("NFC", "e\u0301te\u0301")
NAMES = (
    *(COMPOSED, unicodedata.normalize("NFD", COMPOSED), "\u6c34", "\U0001f415", "\u05e9\u05dc\u05d5\u05dd", "\u200b"),
    *("new\nline", "tab\tbed", "re\rturn", "both\r\nends", "\x1b[31mred", "bell\x07", "\u2028", "\x85next"),
    *('quo"te', "apo'strophe", "comma, semi; pipe|", "-dash", "--work", "~", "$HOME", "%s%n", "{0}", "*?[!a]", "\\"),
    *("NA", "null", "nan", "1e5", "inf", "True", "-0", "007", "#comment", " before", "after ", "dots..", ":dog:"),
    *("[bold]", "a" * 255, "\u00e9" * 127, "CON", "con"),
)
BYTES = (b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf")  # Latin-1, a lone surrogate, an overlong slash
SETTINGS = PrepareSettings(store_size=16, workers=1)


def lay_out(folder: Path, *, names: tuple[str, ...] = ("1", "2")) -> Path:
    """Two class folders, of which a holds files of these names."""
    rng = np.random.default_rng(0)
    for label, files, colour in (("a", names, (200, 40, 40)), ("b", ("0.jpg", "1.jpg", "2.jpg"), (40, 40, 200))):
        (folder / "train" / label).mkdir(parents=True)
        for name in files:
            (folder / "train" / label / name).write_bytes(jpeg(colour, rng))
    return folder


def prepared(folder: Path, data: Path) -> Workspace:
    """Prepared twice and split twice; what was written comes back as it was."""
    work, before = Workspace(folder / "work"), fingerprint(data)
    made = prepare(work, data, SETTINGS)
    assert read_manifest(work).equals(made.manifest)
    assert prepare(work, data, SETTINGS).unchanged
    folds, again = split(work, SplitSettings(n_folds=2), seed=0)[0], load_folds(work)
    for field in ("image_id", "path", "label", "target", "fold"):
        assert getattr(folds, field).tolist() == getattr(again, field).tolist()
    store = open_store(work)
    assert store.image_id[store.rows(folds.image_id, split="train")].tolist() == folds.image_id.tolist()
    assert fingerprint(data) == before
    return work


def test_files_and_classes_of_any_name_are_used_and_come_back(tmp_path):
    count("names", 2 * len(NAMES))
    data, rng = lay_out(tmp_path / "data", names=NAMES), np.random.default_rng(1)
    for label in NAMES:
        (data / "train" / label).mkdir()
        for number in range(2):
            (data / "train" / label / f"{number}.jpg").write_bytes(jpeg((40, 200, 40), rng))
    folds = load_folds(prepared(tmp_path, data))
    assert {f"a/{name}" for name in NAMES} <= set(folds.image_id.tolist())
    assert set(folds.classes) == {*map(composed, NAMES), "a", "b"}


def test_files_and_classes_whose_names_are_no_utf8_are_named_and_not_used(tmp_path):
    count("names", len(BYTES) + 1)
    data = lay_out(tmp_path / "data", names=("1.jpg", *map(os.fsdecode, BYTES)))
    (data / "train" / os.fsdecode(b"\xff")).mkdir()
    (data / "train" / os.fsdecode(b"\xff") / "1.jpg").write_bytes(jpeg((40, 200, 40), np.random.default_rng(5)))
    table = by_image(read_manifest(prepared(tmp_path, data)))
    for name in (*(f"a/{name.decode('utf-8', 'backslashreplace')}" for name in BYTES), "\\xff/1.jpg"):
        assert table.loc[name, ["status", "reasons"]].tolist() == ["unreadable", "its name is not UTF-8"]


def test_a_folder_of_data_whose_name_is_no_utf8_can_be_said(tmp_path, typed):
    """It was printed twice, once with a lone surrogate, on which a strict terminal fails."""
    os.makedirs(os.fsencode(tmp_path / "data") + b"/\xff/x")
    open(os.fsencode(tmp_path / "data") + b"/\xff/x/1.jpg", "wb").close()
    err = typed("prepare", tmp_path / "data", "--work", tmp_path / "work", code=2).err
    assert err.splitlines()[0].endswith("no folder of training images; it holds \\xff")


def test_any_extension_or_none_is_read_by_content(tmp_path):
    names = ("1.JPG", "1.Jpeg", "1.PNG", "1", "1.", "1.jpg.jpg", "1.txt", "1.csv")
    count("names", len(names))
    table = read_manifest(prepared(tmp_path, lay_out(tmp_path / "data", names=names))).set_index("image_id")
    for name in names:
        assert table.loc[f"a/{name}", ["status", "format"]].tolist() == ["usable", "JPEG"], name


def test_links_that_lead_to_each_other_or_to_themselves_end(tmp_path):
    data = lay_out(tmp_path / "data", names=("1.jpg", "2.jpg"))
    broken = (("self", "self"), ("ping", "pong"), ("pong", "ping"), ("gone", "nothing"), ("through", "1.jpg/no-folder"))
    for name, target in (*broken, ("up", ".."), ("top", "../..")):
        (data / "train" / "a" / name).symlink_to(target)
    (data / "train" / "again").symlink_to("a")
    items = find_dataset(data, SETTINGS).items
    faults = {item.image_id: item.file.fault for item in items}
    expected = dict.fromkeys((f"a/{name}" for name, _ in broken), "a broken link")
    expected |= dict.fromkeys(("a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"), "")
    assert {name: str(fault or "") for name, fault in faults.items()} == expected


def test_ids_in_a_linked_csv_do_not_lead_out_of_the_data(tmp_path):
    """Whoever lays out DATA may link to anything; what a CSV names is looked for among the listed files only."""
    data = lay_out(tmp_path / "data")
    (tmp_path / "secret.jpg").write_bytes(jpeg((1, 2, 3), np.random.default_rng(0)))
    (data / "train.csv").symlink_to(tmp_path / "labels.csv")
    for name in ("../secret", "../../etc/passwd", str(tmp_path / "secret.jpg")):
        (tmp_path / "labels.csv").write_text(f"id,label\na/1,x\n{name},y\n")
        assert refusal(find_dataset, data, SETTINGS)[0].endswith("may lead outside the data folder: it is not read")
    (tmp_path / "labels.csv").write_text("id,label\na/1,x\nb/1,y\nsecret,y\n")
    faults = {item.image_id: item.file.fault for item in find_dataset(data, SETTINGS).items}
    assert str(faults["secret"]) == "no file of this name"


def test_what_links_lead_to_is_read_and_never_written_to(tmp_path, typed):
    """A work folder on the other disk, in a folder of the data, was nobody's concern as long as links were refused."""
    outside, data = lay_out(tmp_path / "outside"), tmp_path / "data"
    data.mkdir()
    (data / "train").symlink_to(outside / "train")
    before = fingerprint(outside)
    assert read_manifest(prepared(tmp_path, data))["status"].tolist() == ["usable"] * 5
    inside = outside / "train" / "work"
    error = typed("prepare", data, "--work", inside, code=2).err.splitlines()[0]
    assert error == f"error: the work folder {inside} lies inside {outside}/train, where nothing is written"
    assert fingerprint(outside) == before
    assert not inside.exists()


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", ":dog:", "[red]x[/red]", "\x07"])
def test_a_name_in_an_error_is_one_line_of_plain_text(tmp_path, typed, name):
    """Line ends split the sentence, escape codes reached the terminal, and `:dog:` became a picture."""
    first, second = typed("prepare", tmp_path / name, "--work", tmp_path / "work", code=2).err.splitlines()
    assert first == f"error: there is no folder {tmp_path}/{name if name.isprintable() else repr(name)[1:-1]}"
    assert second.startswith("hint: ")


def test_a_work_folder_whose_name_the_terminal_cannot_write_ends_well(tmp_path, nursery):
    """The last line, with the next command, ended in a UnicodeEncodeError."""
    words, out = ["status", "--work", os.fsdecode(os.fsencode(tmp_path) + b"/\xff")], tmp_path / "out"
    assert nursery.wait(nursery.start(words, folder=tmp_path, out=out)) == 0
    assert out.read_bytes().splitlines()[-1].endswith(b"\\udcff'")
