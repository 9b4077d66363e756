import numpy as np
from rich.console import Console

from folds.commands import headline, prepare_tables, split_tables
from folds.manifest.summary import class_sizes, copy_counts, quartiles, reasons, status_counts
from folds.pixels.formats import FORMATS


def text_of(renderable):
    console = Console(width=140, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


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
        "copies inside a class": (2, 0, 0),
        "the same picture under two labels": (2, 0, 0),
        "training images that are also test images": (1, 0, 0),
        "test images that are also training images": (1, 0, 0),
        "copies inside the test images": (0, 0, 0),
    }
    sizes = class_sizes(table)
    assert sizes.to_dict() == {"mouse": 0, "dog": 5, "cat": 6}  # a class that lost all is there
    assert quartiles(sizes.loc[["dog", "cat", "dog", "cat", "dog"]]) == (5, 5, 5, 6, 6)
    text = text_of(prepare_tables(result))
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
    text = text_of(prepare_tables(first))
    assert "reason" not in text
    assert "images per class" in text
    picture(99).save(data / "TrainVal/cat/cat_0.png")
    assert headline(run_prepare(data)).startswith("10 files: 1 decoded, 9 unchanged ones kept, in 0:0")
    assert headline(run_prepare(data)) == "10 files, unchanged since the last prepare: nothing to do"


def test_the_split_table_shows_the_rarest_class_and_names_small_ones(competition, run_prepare, run_split):
    run_prepare(competition({"a": 6, "b": 1, "c": 3}))
    folds, _ = run_split(n_folds=3)
    text = text_of(split_tables(folds))
    assert "1 class has fewer images than the 3 folds: b: 1 image" in text
    assert text.count("b: 1 image") == 2  # in its one fold, and in the line below
    assert np.bincount(folds.fold).sum() == 10
