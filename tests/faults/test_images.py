"""Feeds broken pictures to the real `prepare`, with its real processes, whose memory is watched through /proc."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest

from folds.base.workspace import Workspace
from folds.find.reasons import TOO_SLOW
from folds.manifest.manifest import read_manifest
from folds.manifest.prepare import prepare
from folds.pixels.fill import Row, RowTask, write_row
from folds.settings import PrepareSettings
from tests.competition import by_image, fingerprint, make_competition
from tests.faults.pictures import NAMES, bombs, hundred_megapixels, many_scans, mutants
from tests.faults.whole import count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")
SETTINGS = PrepareSettings(store_size=32, workers=2)
GROWTH = 1 << 20  # kilobytes that a decoding process may take above what it has idle


def survive(folder: Path, files: Iterable[tuple[str, bytes]]) -> pd.DataFrame:
    """Prepare a sound competition with these files twice, hold what came of it against what is promised of any input.

    Returns the rows of the files in the manifest, by their names.
    """
    data, work = make_competition(folder / "data", per_class=2, n_test=2), Workspace(folder / "work")
    contents = dict(files)
    for name, content in contents.items():
        (data / "TrainVal" / "0" / name).write_bytes(content)
    count("mutated files", len(contents))
    before = fingerprint(data)
    with watching_memory() as largest_growth:
        prepare(work, data, SETTINGS)
    assert largest_growth() < GROWTH, f"a process grew by {largest_growth() >> 10} MiB"
    stored = fingerprint(work.root)
    again = prepare(work, data, SETTINGS)
    assert (again.unchanged, fingerprint(work.root), fingerprint(data)) == (True, stored, before)
    table = by_image(read_manifest(work))
    assert sorted([*table["path"], "sample_submission.csv"]) == sorted(before)
    assert set(table["status"]) <= {"usable", "left out", "unreadable"}
    assert (table.loc[table["status"] != "usable", "reasons"] != "").all()
    mine = [f"0/{name}" for name in contents]
    assert table.drop(mine)["status"].tolist() == ["usable"] * 10
    return table.loc[mine].set_index(pd.Index(contents))


def test_three_hundred_broken_pictures_cost_themselves_only(tmp_path):
    assert not survive(tmp_path, mutants(300, seed=0))["reasons"].str.contains(TOO_SLOW).any()


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_thousand_broken_pictures_cost_themselves_only(tmp_path, seed):
    survive(tmp_path, mutants(1000, seed=seed))


def test_small_files_that_unpack_to_much_are_named_or_read_within_their_memory(tmp_path):
    assert survive(tmp_path, bombs().items())["reasons"].to_dict() == {
        "pixels.png": "too large: 60000 x 60000 pixels",
        "text.png": "damaged: 0% decoded, PNG header",
        "profile.png": "damaged: 0% decoded, PNG header",
        "wide.gif": "too large: 65535 x 65535 pixels",
        "icons.ico": "not an image",
        "frames.gif": "animated: first frame",
        "exif.jpg": "",
        "loop.tif": "",
    }


@pytest.mark.parametrize(
    "names", [list(NAMES)[:1], pytest.param(list(NAMES)[1:], marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_pictures_of_a_hundred_megapixels_are_used(tmp_path, names):
    table = survive(tmp_path, ((name, hundred_megapixels(name)) for name in names))
    assert set(table["status"]) == {"usable"}
    assert set(table["width"]) == {10_000}


@pytest.mark.faults
def test_a_picture_that_takes_a_decoder_half_a_minute_is_given_up_after_ten_seconds(tmp_path):
    table = survive(tmp_path, [("scans.jpg", many_scans(1500))])
    assert table["reasons"].to_dict() == {"scans.jpg": "decoder took too long: more than 10 s"}


SIGNALS = {"segv.jpg": signal.SIGSEGV, "kill.jpg": signal.SIGKILL}


def write_row_or_die(task: RowTask) -> Row:
    """What a worker does, with a decoder that some files bring down."""
    if Path(task.path).name in SIGNALS:
        os.kill(os.getpid(), SIGNALS[Path(task.path).name])
    return write_row(task)


def test_a_decoder_that_kills_its_process_costs_that_file_only(tmp_path, monkeypatch):
    monkeypatch.setattr("folds.pixels.fill.write_row", write_row_or_die)
    table = survive(tmp_path, ((name, b"\xff\xd8\xff") for name in SIGNALS))
    assert table["reasons"].to_dict() == dict.fromkeys(SIGNALS, "decoder crashed")


@contextmanager
def watching_memory() -> Iterator[Callable[[], int]]:
    """Look at the children of the fork server fifty times a second.

    Gives a function that says the most, in kilobytes, that any had above the smallest that one was first seen with.
    """
    idle, peak, is_over = dict[str, int](), dict[str, int](), threading.Event()

    def look() -> None:
        while not is_over.wait(0.02):
            server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
            children = Path(f"/proc/{server}/task/{server}/children")
            for pid in children.read_text().split() if children.exists() else []:
                with suppress(OSError, KeyError):  # it has just ended
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    status = dict(line.split(":", 1) for line in lines)
                    resident, peak[pid] = (int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
                    idle.setdefault(pid, resident)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: max(peak.values()) - min(idle.values())
    finally:
        is_over.set()
        thread.join()
