"""Odd predictions of other tools given to `add` and to `blend --labels`: each is used right or refused."""

import contextlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ensemble.members.add_member import add_member
from ensemble.members.external import read_external
from ensemble.settings import AddSettings, BlendSettings, FileSettings
from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.split.assign import Folds
from submissions.write import blend_files
from tests.competition import refusal
from tests.ensemble.small import small_oof, small_test, small_work
from tests.faults.whole import count

CLASSES = ("a", "b", "NA", "1e5")
IDS = np.array(["x", "y"])
EVEN = np.full((2, 4), 0.25)
HEADER = "id,a,b,NA,1e5\n"
COMPOSED, DECOMPOSED = "\u00c4pfel", "A\u0308pfel"


def read(tmp_path: Path, name: str, content: bytes):
    count("external files")
    (tmp_path / name).write_bytes(content)
    return read_external(tmp_path / name, ids=None, class_names=None, known_classes=CLASSES)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"ids": IDS, "classes": np.array(CLASSES), "probs": EVEN} | arrays)
    return buffer.getvalue()


def npy(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def shaped(rows: int) -> str:
    return f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, 4)}}\n"


def bomb(*, megabytes: int) -> bytes:
    """An npz of a thousandth of what it unpacks to."""
    buffer = io.BytesIO()
    packed = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as archive, archive.open("probs.npy", "w") as file:
        file.write(npy_header(shaped(megabytes << 15)))
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(npz())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,a,b,NA,1e5\r\nx,1,0,0,0\r\n\r\n",
        'id;"a";b;NA;1e5\n"x";1;0;0;0\n',
        "id\ta\tb\tNA\t1e5\nx\t1\t0\t0\t0\n",
        "id, a, b, NA, 1e5\nx, 1, 0, 0, 0\n",
        '"my,id",a,b,NA,1e5\nx,1,0,0,0\n',
        "1e5,NA,b,a,image_id\n0,0,0,1,x\n",
        "id,a,b,NA,1e5\rx,1e0,0,-0,0\r",
        '"id","a","b","NA","1e5"\n"x","1","0","0","0"',
        ",id,a,b,NA,1e5\n0,x,1,0,0,0\n",  # as pandas writes it with its index
    ],
)
def test_a_csv_is_read_however_it_was_saved(tmp_path, text):
    made = read(tmp_path, "p.csv", text.encode())
    assert made.image_id.tolist() == ["x"]
    assert made.values.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(("known", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_class_whose_letters_a_mac_had_decomposed_was_lacking(tmp_path, known, written):
    (tmp_path / "p.csv").write_text(f"id,{written},b\nx,1,0\n")
    (tmp_path / "p.npz").write_bytes(npz(classes=np.array([written, "b"]), probs=EVEN[:, :2]))
    for name in ("p.csv", "p.npz"):
        made = read_external(tmp_path / name, ids=None, class_names=None, known_classes=(known, "b"))
        assert made.classes == (known, "b")


@pytest.mark.parametrize(
    "name", ["007", "NA", "null", "nan", "1e5", "inf", "True", "-0", "a,b", 'q"q', "two\nlines", " "]
)
def test_ids_of_a_csv_stay_text(tmp_path, name):
    quoted = '"' + name.replace('"', '""') + '"'
    assert read(tmp_path, "p.csv", f"{HEADER}{quoted},1,0,0,0\n".encode()).image_id.tolist() == [name]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "p.csv lacks the classes a, b, NA and 1 more"),
        (b"\n\n", "p.csv lacks the classes a, b, NA and 1 more"),
        (HEADER.encode() + b"0,x,1,0,0,0\n", "p.csv has rows of more cells than the 5 of its header"),
        (HEADER.encode() + b"x,1,0,0,0,5,6\n", "p.csv has rows of more cells than the 5 of its header"),
        (b"id,a,a,b,NA,1e5\nx,1,1,0,0,0\n", "p.csv cannot be read: Duplicate names are not allowed."),
        (b"id;a;b;NA;1e5\nx;0,5;0,5;0;0\n", "p.csv cannot be read: could not convert string to float: '0,5'"),
        (b'id,a,b,NA,1e5\n"open,1,0,0,0\n', "p.csv cannot be read: Error tokenizing data"),
        (HEADER.encode() + b"\xe9,1,0,0,0\n", "p.csv cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (HEADER.encode("utf-16"), "p.csv lacks the classes"),
    ],
)
def test_a_csv_that_says_something_else_is_refused(tmp_path, content, sentence):
    """A surplus cell shifted every number by one column: the ids were the first probabilities."""
    assert refusal(read, tmp_path, "p.csv", content)[0].startswith(sentence)


@pytest.mark.parametrize(
    "arrays",
    [
        {"probs": EVEN.astype(np.float16)},
        {"probs": EVEN.astype(">f8")},
        {"probs": np.asfortranarray(EVEN)},
        {"ids": np.array([b"x", b"y"])},
        {"fold": np.array(["first", "second"])},
        {"fold": np.array([0.0, np.nan])},
    ],
)
def test_arrays_of_any_kind_of_number_and_order_are_read(tmp_path, arrays):
    made = read(tmp_path, "p.npz", npz(**arrays))
    assert (made.image_id.tolist(), made.values.tolist()) == (["x", "y"], EVEN.tolist())
    assert made.fold is None or made.fold.tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.npz", lambda: npz(ids=IDS.astype(object)), "p.npz cannot be read: Object arrays cannot be loaded"),
        ("p.npz", lambda: npz(probs=EVEN.astype(object)), "p.npz cannot be read: Object arrays cannot be loaded"),
        ("p.npy", lambda: npy(EVEN.astype(object), allow_pickle=True), "p.npy cannot be read: Object arrays cannot be"),
        ("p.npy", lambda: b"\x80\x04N.", "p.npy cannot be read: This file contains pickled (object) data"),
        ("p.npz", lambda: b"\x80\x04N.", "p.npz cannot be read: File is not a zip file"),
        ("p.npz", lambda: b"", "p.npz cannot be read: File is not a zip file"),
        ("p.npy", lambda: b"", "p.npy cannot be read: No data left in file"),
        ("p.npz", lambda: npz()[:300], "p.npz cannot be read: File is not a zip file"),
        ("p.npy", lambda: npy(EVEN)[:-8], "p.npy cannot be read: "),
        ("p.npz", lambda: npy(EVEN), "p.npz cannot be read: File is not a zip file"),
        ("p.npy", npz, "p.npy holds several arrays: its name should end in .npz"),
        ("p.npy", lambda: npy_header("{'descr': 1+1}  "), "p.npy cannot be read: "),
        ("p.npy", lambda: npy_header("((((((((((((((("), "p.npy cannot be read: "),
        ("p.npy", lambda: npy_header(shaped(10**13)), "p.npy cannot be"),
        ("p.npz", encrypted, "p.npz cannot be read: "),
        ("p.npz", lambda: npz(probs=EVEN * 1j), "p.npz is complex128 of shape (2, 4), not numbers for 2 ids"),
        ("p.npz", lambda: npz(probs=EVEN.astype(str)), "p.npz is <U32 of shape (2, 4), not numbers for 2 ids"),
        ("p.npz", lambda: npz(probs=EVEN[None]), "p.npz is float64 of shape (1, 2, 4), not numbers for 2 ids"),
        ("p.npz", lambda: npz(ids=np.array("x")), "p.npz is float64 of shape (2, 4), not numbers for 1 ids"),
        ("p.npz", lambda: npz(ids=np.array([b"x", b"\xff"])), "ids of p.npz is |S1, not text"),
        ("p.npz", lambda: npz(fold=np.array([0])), "p.npz has 1 folds for 2 rows"),
        ("p.npz", lambda: npz(log_probs=np.array(3.0)), "log_probs of p.npz is float64 of shape ()"),
        (
            "p.npz",
            lambda: npz(log_probs=EVEN),
            "log_probs of p.npz is float64 of shape (2, 4), not (n, views, classes)",
        ),
        ("p.txt", lambda: b"x", ""),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, name, content, sentence):
    assert refusal(read, tmp_path, name, content())[0].startswith(sentence)


def test_an_archive_that_unpacks_to_much_more_than_its_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ensemble.members.external.BOMB_BYTES", 1 << 24)  # a gigabyte takes seconds to pack
    with pytest.raises(UserError, match=r"^p.npz unpacks to 20,97\d,\d{3} bytes$"):
        read(tmp_path, "p.npz", bomb(megabytes=20))


def test_a_broken_byte_anywhere_in_an_archive_is_a_sentence_or_no_matter(tmp_path):
    content, rng = npz(fold=np.array([0, 1])), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        for at in rng.integers(len(changed), size=rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        with contextlib.suppress(UserError):
            read(tmp_path, "p.npz", bytes(changed))


@pytest.fixture
def house(tmp_path: Path) -> tuple[Workspace, Folds, AddSettings]:
    """A work folder with a run, and the right predictions of another tool as npz."""
    work, folds = small_work(tmp_path, members=1)
    test_id = np.array([f"{number:07d}" for number in range(40)])
    for part, ids, log_probs in (("oof", folds.image_id, small_oof(folds, 1)), ("test", test_id, small_test(1))):
        np.savez(tmp_path / f"{part}.npz", ids=ids, classes=np.array(folds.classes), probs=np.exp(log_probs))
    return work, folds, AddSettings(oof=str(tmp_path / "oof.npz"), test=str(tmp_path / "test.npz"), trust_folds=True)


def with_probs(settings: AddSettings, change: Callable[[np.ndarray], np.ndarray]) -> AddSettings:
    path = Path(settings.oof or "").with_name("odd.npz")
    with np.load(settings.oof or "") as arrays:
        np.savez(path, ids=arrays["ids"], classes=arrays["classes"], probs=change(arrays["probs"].astype(np.float64)))
    return replace(settings, oof=str(path))


def with_third_row(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda probs: np.where(np.arange(600)[:, None] == 3, value, probs)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda probs: probs * 0.9, "holds no probabilities for"),
        (lambda probs: probs - 0.2, "holds no probabilities for"),
        (lambda probs: probs * 1e308, "holds no probabilities for"),
        (with_third_row(0.0), "holds no probabilities for"),
        *((with_third_row(value), "has NaN or infinity for") for value in (np.inf, -np.inf, np.nan)),
        (lambda probs: probs[:0], "not numbers for"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused_and_nothing_is_stored(house, change, fault):
    work, _, settings = house
    with pytest.raises(UserError, match=fault):
        add_member(work, "other", with_probs(settings, change))
    assert not (work.ensemble / "members" / "other").exists()


def test_a_file_without_rows_is_refused(house, tmp_path):
    work, folds, settings = house
    (tmp_path / "none.csv").write_text(",".join(["id", *folds.classes]) + "\n")
    for part in ("oof", "test"):
        with pytest.raises(UserError, match=r"^none.csv has no row"):
            add_member(work, "other", replace(settings, **{part: str(tmp_path / "none.csv")}))


@pytest.mark.parametrize("flag", ["oof_ids", "test_ids", "class_names"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: Is a directory"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"", "has no line"),
        (b"\n\n", "has no line"),
    ],
)
def test_lists_of_names_that_are_none_are_refused_by_their_own_name(house, tmp_path, flag, content, fault):
    """An empty list was said to be a fault of the predictions."""
    work, _, settings = house
    if content is None:
        (tmp_path / "names").mkdir()
    else:
        (tmp_path / "names").write_bytes(content)
    said = refusal(add_member, work, "other", replace(settings, **{flag: str(tmp_path / "names")}))
    assert said == (f"{tmp_path / 'names'} {fault}", "one id or class a line")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("", "labels.csv is empty"),
        ("id,label\n", "labels.csv has 0 classes, and a blend needs two"),
        ("id,label\nx,a\nx,b\n", "labels.csv has the id x more than once"),
        ("id,label\nx,a\n,b\n", "row 3 of labels.csv has no id"),
        ("id,label\nx,a\ny,\n", "row 3 of labels.csv has no label"),
        ("id\nx\n", "labels.csv has no label column; it has id"),
        ("id,label,fold\nx,a,0\ny,b,0\n", "labels.csv has one fold"),
        ("id,label\nx,a\ny,b,c\n", "row 3 of labels.csv has 3 cells where its header has 2"),
    ],
)
def test_labels_beside_such_files_that_are_none_are_refused(tmp_path, labels, sentence):
    (tmp_path / "labels.csv").write_text(labels)
    files = FileSettings(labels=str(tmp_path / "labels.csv"), member=("m=o.csv:t.csv",), out=str(tmp_path / "out.csv"))
    assert refusal(blend_files, files, BlendSettings(trials=16), seed=0)[0].startswith(sentence)
    assert not (tmp_path / "out.csv").exists()
