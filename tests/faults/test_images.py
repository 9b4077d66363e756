"""Feeds broken pictures to the real `prepare`, with its real processes, whose memory is watched through /proc."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path

import pytest

from folds.base.workspace import Workspace
from folds.find.reasons import TOO_SLOW, reason_text
from folds.manifest import manifest
from folds.manifest.prepare import PrepareResult, prepare
from folds.pixels.decode import decode
from folds.pixels.fill import Row, RowTask, write_row
from folds.settings import PrepareSettings
from tests.competition import fingerprint, make_competition
from tests.faults.pictures import NAMES, bombs, by_hand, hundred_megapixels, many_scans, mutants
from tests.faults.whole import count

SETTINGS = PrepareSettings(store_size=32, workers=2)
GROWTH = 1 << 30  # bytes that a decoding process may take above what it has idle
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")


def lay_out(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A small sound competition with more files among its training images."""
    data = make_competition(folder / "data", per_class=2, n_test=2)
    for name, content in files:
        (data / "TrainVal" / "0" / name).write_bytes(content)
    return data


def survive(folder: Path, files: Iterable[tuple[str, bytes]]) -> PrepareResult:
    """Prepare twice, and hold what came of it against what is promised of any input."""
    data, work = lay_out(folder, files), Workspace(folder / "work")
    before = fingerprint(data)
    with watching_memory() as seen:
        result = prepare(work, data, SETTINGS)
    assert seen.largest_growth < GROWTH, f"a process grew by {seen.largest_growth >> 20} MiB"
    stored = fingerprint(work.root)
    again = prepare(work, data, SETTINGS)
    assert (again.unchanged, fingerprint(work.root), fingerprint(data)) == (True, stored, before)
    table = manifest.read_manifest(work)
    assert sorted([*table["path"], "sample_submission.csv"]) == sorted(before)
    assert set(table["status"]) <= {"usable", "left out", "unreadable"}
    assert (table.loc[table["status"] != "usable", "reasons"] != "").all()
    return result


@linux_only
def test_three_hundred_broken_pictures_cost_themselves_only(tmp_path):
    count("mutated files", 300)
    result = survive(tmp_path, mutants(300, seed=0))
    assert not result.manifest["reasons"].str.contains(TOO_SLOW).any()


@linux_only
@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_thousand_broken_pictures_cost_themselves_only(tmp_path, seed):
    count("mutated files", 1000)
    survive(tmp_path, mutants(1000, seed=seed))


@linux_only
def test_small_files_that_unpack_to_much_are_named_or_read_within_their_memory(tmp_path):
    files = bombs()
    count("mutated files", len(files))
    reasons = told(survive(tmp_path, files.items()))
    assert reasons["pixels.png"] == "too large: 60000 x 60000 pixels"
    assert reasons["text.png"] == "damaged: 0% decoded, PNG header"
    assert reasons["profile.png"] == "damaged: 0% decoded, PNG header"
    assert reasons["wide.gif"] == "too large: 65535 x 65535 pixels"
    assert reasons["icons.ico"] == "not an image"
    assert reasons["frames.gif"] == "animated: first frame"
    assert (reasons["exif.jpg"], reasons["loop.tif"]) == ("", "")


@linux_only
@pytest.mark.parametrize(
    "names", [list(NAMES)[:1], pytest.param(list(NAMES)[1:], marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_pictures_of_a_hundred_megapixels_are_used(tmp_path, names):
    count("mutated files", len(names))
    result = survive(tmp_path, ((name, hundred_megapixels(name)) for name in names))
    table = result.manifest.set_index("image_id").loc[[f"0/{name}" for name in names]]
    assert set(table["status"]) == {"usable"}
    assert set(table["width"]) == {10_000}


@linux_only
@pytest.mark.faults
def test_a_picture_that_takes_a_decoder_half_a_minute_is_given_up_after_ten_seconds(tmp_path):
    count("mutated files", 1)
    reasons = told(survive(tmp_path, [("scans.jpg", many_scans(1500))]))
    assert reasons["scans.jpg"] == "decoder took too long: more than 10 s"


def test_a_decoder_that_kills_its_process_costs_that_file_only(tmp_path, monkeypatch):
    count("mutated files", 2)
    monkeypatch.setattr("folds.pixels.fill.write_row", write_row_or_die)
    result = survive(tmp_path, [("segv.jpg", b"\xff\xd8\xff"), ("kill.jpg", b"\xff\xd8\xff")])
    reasons = told(result)
    assert (reasons["segv.jpg"], reasons["kill.jpg"]) == ("decoder crashed", "decoder crashed")
    assert (result.manifest["status"] == "usable").sum() == 10


def write_row_or_die(task: RowTask) -> Row:
    """What a worker does, with a decoder that some files bring down."""
    signals = {"segv.jpg": signal.SIGSEGV, "kill.jpg": signal.SIGKILL}
    if Path(task.path).name in signals:
        os.kill(os.getpid(), signals[Path(task.path).name])
    return write_row(task)


def told(result: PrepareResult) -> dict[str, str]:
    """The reasons by the file's name."""
    reasons = map(reason_text, result.manifest["reasons"])
    return {Path(path).name: reason for path, reason in zip(result.manifest["path"], reasons, strict=True)}


def test_a_stream_that_its_decoder_has_closed_is_opened_anew(tmp_path):
    """FTEX closes the file as soon as it has read it; a damaged one ended `prepare` with a ValueError."""
    path = tmp_path / "texture.ftc"
    path.write_bytes(dict(by_hand())["FTEX"][:2000])
    assert reason_text(decode(path, size=32)[0].reasons).startswith(("truncated: ", "damaged: "))


@dataclass
class Seen:
    """Memory in bytes, by process: when it was first seen, and at most."""

    idle: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def largest_growth(self) -> int:
        """The most that any process had above the smallest that one was seen with."""
        return max(self.peak.values()) - min(self.idle.values())


@contextmanager
def watching_memory() -> Iterator[Seen]:
    """Look at the children of the fork server fifty times a second."""
    seen, is_over = Seen(), threading.Event()
    thread = threading.Thread(target=_look, args=(seen, is_over), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _look(seen: Seen, is_over: threading.Event) -> None:
    while not is_over.is_set():
        for pid in _children(forkserver._forkserver._forkserver_pid):  # type: ignore[attr-defined]
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if "VmHWM:" in status:
                seen.idle.setdefault(pid, _kilobytes(status, "VmRSS:") << 10)
                seen.peak[pid] = max(seen.peak.get(pid, 0), _kilobytes(status, "VmHWM:") << 10)
        time.sleep(0.02)


def _children(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _kilobytes(status: str, name: str) -> int:
    return int(status.split(name)[1].split()[0])
