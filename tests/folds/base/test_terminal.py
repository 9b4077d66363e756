"""Tests the live part of a terminal and the bars in it, on a terminal that writes into memory."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from folds.base import terminal
from folds.base.terminal import Screen, bars_on, duration, figures, pace


class Tty(io.StringIO):
    def isatty(self):
        return True


class Ascii(io.StringIO):
    encoding = "ascii"


def on_terminal(monkeypatch):
    """Both outputs as one terminal of 80 columns."""
    file = Tty()
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", file)
    monkeypatch.setattr("sys.stderr", file)
    return file


def drawn(columns, file=None, **task):
    console = Console(width=columns, file=file or io.StringIO(), force_terminal=True)
    bars = bars_on(console)
    bars.add_task(task.pop("what", "checking"), **{"total": 10, "unit": "members", **task})
    console.print(bars)
    return Text.from_ansi(console.file.getvalue()).plain.rstrip()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (45_296, "12:34:56")])
def test_durations_have_hours_where_there_are_some(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("per_second", "text"), [(1_234.4, "1,234 images/s"), (1, "1 images/s"), (0.032, "31 s each")])
def test_a_slow_pace_is_shown_as_seconds_each(per_second, text):
    assert pace(per_second, "images") == text


def test_a_bar_keeps_to_its_end_to_ascii_and_to_the_columns_where_a_narrow_terminal_has_the_numbers_alone():
    assert drawn(40, completed=4).split() == ["checking", "40%"]
    assert drawn(80, completed=4).endswith("40%  4/10 members")
    assert "━━━━━━━━" in drawn(80, completed=4)
    assert drawn(40, what="a-run-with-quite-a-long-name fold 3  epoch 10/12", completed=4).endswith("…  40%")
    assert drawn(80, completed=12).endswith("100%  10/10 members")
    assert drawn(80, file=Ascii(), completed=4).isascii()


def test_a_table_lost_the_names_of_its_rows_on_a_narrow_terminal():
    table = figures(None, texts=("run",), numbers=("fold 0", "fold 1", "fold 2", "mean +- sd"))
    table.add_row("resnet50", "0.0127", "0.0128", "0.0129", "0.0128 +- 0.0001")
    for columns, row in ((80, ["resnet50 0.0127 0.0128 0.0129 0.0128 +- 0.0001"]),
                         (44, ["resnet50 0.0127 0.0128 0.0129 0.0128 +-", "0.0001"])):  # fmt: skip
        console = Console(width=columns, file=io.StringIO())
        console.print(table)
        assert [" ".join(line.split()) for line in console.file.getvalue().splitlines()[3:-1]] == row


def test_brackets_in_a_title_were_markup_and_raised():
    console = Console(width=60, file=io.StringIO())
    console.print(figures("img [/copy] [bold].jpg", texts=("member",)))
    assert console.file.getvalue().split()[:3] == ["img", "[/copy]", "[bold].jpg"]


def test_bars_come_and_go_with_what_they_are_around_and_one_unit_has_none(monkeypatch):
    on_terminal(monkeypatch)
    screen = Screen()
    with screen.living():
        seen = [
            [task.description for task in screen.bars.tasks]
            for _ in screen.track(range(2), what="outer", total=2)
            for _ in screen.track(range(2), what="inner", total=2)
        ]
        assert seen == [["outer", "inner"]] * 4
        assert [len(screen.bars.tasks) for _ in screen.track(range(1), what="waiting", total=1)] == [0]

        def fail():
            yield 1
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(screen.track(fail(), what="x", total=9))
        assert screen.bars.tasks == []


def test_what_is_printed_stands_above_and_the_end_gives_the_cursor_back_however_often_it_comes(monkeypatch):
    tty = on_terminal(monkeypatch)
    screen = Screen()
    screen.table = lambda console: Text("the table")
    with screen.living() as outer, screen.living() as inner:
        assert outer
        assert inner
        screen.show("a result")
        screen.complain("an error")
        screen.close()
    screen.close()
    text = tty.getvalue()
    assert text.index("a result") < text.index("an error") < text.rindex("the table")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert not [thread for thread in terminal.threading.enumerate() if thread.name == "screen"]


def test_without_a_terminal_long_work_prints_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    screen = Screen()
    assert list(screen.track(range(5), what="decode", total=50, each=10)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == (
        "",
        "decode: 20/50 images, 1 images/s, 0:30 left\ndecode: 40/50 images, 1 images/s, 0:10 left\n",
    )
