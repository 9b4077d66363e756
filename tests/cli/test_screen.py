"""Trains under a real terminal: what stays is there, and the cursor comes back."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

import pytest

import run
from folds.base.terminal import can_be_live
from tests.competition import TRAIN, make_competition

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A command under a pseudo-terminal, and all that it wrote there."""

    text = ""

    def __init__(self, nursery, *words, folder, out=None, **environ):
        """out: a file that stdout is instead"""
        self.nursery, (self.master, slave) = nursery, pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))  # lines, columns
        environ = {**dict.fromkeys(("COLUMNS", "LINES", "NO_COLOR")), "TERM": "xterm-256color", **environ}
        place = os.ttyname(slave)
        self.pid = nursery.start(list(words), folder=folder, out=out or place, terminal=place, environ=environ)
        self.read_until(r"\S")  # it has opened the terminal
        os.close(slave)

    def read_until(self, wanted):
        """Read on until the text, or a regular expression, was written; None: until the end."""
        end = time.monotonic() + 120
        while wanted is None or not re.search(wanted, self.plain):
            assert time.monotonic() < end, self.text[-2000:]
            if not select.select([self.master], [], [], 1)[0]:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                assert wanted is None, self.text[-2000:]
                break
            self.text += data.decode(errors="replace")

    def end(self):
        self.read_until(None)
        os.close(self.master)
        return self.nursery.wait(self.pid)

    @property
    def plain(self):
        """The text without control codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text).replace("\r\n", "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    data = make_competition(folder / "data")
    for words in (["prepare", str(data), "--store-size", "32"], ["split", "--n-folds", "2"]):
        assert run.main([*words, "--work", str(folder / "work")]) == 0
    return folder


def lasting(text):
    """What stands in the scrollback at the end: the codes of the live part are done, line by line."""
    rows, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif piece == "\x1b[2K":
            rows[row] = ""
        elif re.fullmatch(r"\x1b\[\d+A", piece):
            row -= int(piece[2:-1])
        elif not piece.startswith("\x1b"):
            rows[row] = rows[row][:column].ljust(column) + piece + rows[row][column + len(piece) :]
            column += len(piece)
    return rows


def test_a_training_leaves_its_lines_and_no_live_part_and_gives_the_cursor_back(folder, nursery):
    terminal = Terminal(nursery, "train", *TRAIN, "--run", "wide", "--epochs", "3", folder=folder)
    terminal.read_until("2 jobs: 1 running, 1 waiting")
    assert terminal.end() == 0
    rows = lasting(terminal.text)
    for fold in (0, 1):
        first = next(i for i, line in enumerate(rows) if line.startswith(f"wide fold {fold}: test_resnet"))
        assert rows[first + 1].startswith("  epoch       lr    px  train loss")
        assert [line.split()[0] for line in rows[first + 2 : first + 5]] == ["1", "2", "3"]
        assert [line for line in rows if line.startswith(f"wide fold {fold}: OOF top-3 error")]
    assert [line for line in rows if line.strip()][-1] == "next: python run.py blend"
    assert not [line for line in rows if "jobs: " in line or "waiting" in line]
    assert terminal.text.count(HIDE) == 1
    assert terminal.text.rindex(SHOW) > terminal.text.rindex(HIDE)


def test_ctrl_c_takes_the_live_part_away_and_gives_the_cursor_back_without_colour_too(folder, nursery):
    terminal = Terminal(nursery, "train", *TRAIN, "--run", "stopped", "--epochs", "500", folder=folder, NO_COLOR="1")
    terminal.read_until("epoch 3/500")
    os.killpg(terminal.pid, signal.SIGINT)
    assert terminal.end() == 130, terminal.text[-3000:]
    rows = [line for line in lasting(terminal.text) if line.strip()]
    assert rows[-2].startswith("error: stopped by Ctrl-C")
    assert rows[-1] == "hint: the same command goes on where it was stopped"
    assert not [line for line in rows if "jobs: " in line]
    assert terminal.text.rindex(SHOW) > terminal.text.rindex(HIDE)
    assert not re.search(r"\x1b\[([0-9;]*;)?3[0-7]m", terminal.text)


def test_where_stdout_is_a_file_the_results_are_there_and_the_live_part_is_on_the_terminal(folder, nursery):
    words = ["train", *TRAIN, "--run", "file", "--epochs", "2"]
    terminal = Terminal(nursery, *words, folder=folder, out=folder / "out.txt")
    assert terminal.end() == 0
    assert "2 jobs: " in terminal.plain
    assert [line for line in lasting(terminal.text) if line.strip()] == []
    text = (folder / "out.txt").read_text()
    assert "\x1b" not in text
    assert "file fold 1: OOF top-3 error" in text


def test_a_live_part_needs_a_terminal_that_can_move_its_cursor_and_that_nobody_else_writes_to(monkeypatch, tmp_path):
    (_, slave), (reader, writer) = pty.openpty(), os.pipe()
    with open(slave, "w") as terminal, open(tmp_path / "out", "w") as file, open(reader), open(writer, "w") as piped:
        for stderr, stdout, kind, is_live in [
            (terminal, file, "xterm", True),
            (terminal, piped, "xterm", False),  # `| tee log`: its reader writes to the terminal
            (terminal, terminal, "xterm", True),
            (terminal, terminal, "dumb", False),
            (file, terminal, "xterm", False),
        ]:
            monkeypatch.setenv("TERM", kind)
            monkeypatch.setattr(sys, "stderr", stderr)
            monkeypatch.setattr(sys, "stdout", stdout)
            assert can_be_live() == is_live
