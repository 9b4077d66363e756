"""Tests the live part of a terminal and the bars in it, on a console that writes into memory."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from folds.base.live import LivePart, bar_line, bar_text, duration
from folds.base.pace import Pace


class Ascii(io.StringIO):
    encoding = "ascii"


def drawn(part):
    """The lines that the live part is now."""
    lines = part.console.render_lines(part, pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def live_part(columns=100, lines=30, file=None):
    return LivePart(Console(width=columns, height=lines, file=file or io.StringIO(), force_terminal=True))


def test_the_speed_is_that_since_the_first_piece(monkeypatch):
    clock = iter([110.0, 111.0, 112.0])  # the first piece took ten seconds longer than the others
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    pace = Pace("epoch 1/2", 50)
    assert (pace.per_second, pace.seconds_left, pace.share) == (None, None, 0.0)
    for _ in range(3):
        pace.advance(10)
    assert (pace.per_second, pace.seconds_left, pace.share) == (10.0, 2.0, 0.6)


def test_a_pace_ends_at_its_total():
    pace = Pace("x", 25)
    for _ in range(3):
        pace.advance(10)
    assert (pace.done, pace.share) == (25, 1.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (45_296, "12:34:56")])
def test_durations_have_hours_where_there_are_some(seconds, text):
    assert duration(seconds) == text


def test_a_bar_tells_what_is_done_without_colour():
    assert bar_text(0.5, 6).plain == "━━━···"
    assert bar_text(7.0, 3).plain == "━━━"


def test_a_narrow_terminal_has_the_numbers_without_the_bar():
    assert bar_line(Pace("checking", 10, "members", done=4), 40).plain == "checking  40%"
    assert bar_line(Pace("checking", 10, "members", done=4), 80).plain.endswith("  4/10 members")


def test_bars_come_and_go_with_what_they_are_around_and_one_unit_has_none():
    part = live_part()
    seen = [
        drawn(part)[-1].split()[0]
        for _ in part.track(range(2), what="outer", total=2)
        for _ in part.track(range(2), what="inner", total=2)
    ]
    assert seen == ["inner"] * 4
    assert drawn(part) in ([], [""])
    assert [drawn(part) for _ in part.track(range(1), what="waiting", total=1)] in ([[]], [[""]])


def test_a_bar_goes_when_its_work_fails():
    part = live_part()

    def fail():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(part.track(fail(), what="x", total=9))
    assert part.bars == []


def test_the_live_part_leaves_half_of_a_small_terminal_to_the_lines_that_stay():
    part = live_part(40, 10)
    part.panel = lambda columns, lines: [Text("word " * 20)] * lines
    assert [len(line) for line in drawn(part)] == [39] * 5


def test_a_terminal_that_knows_ascii_only_gets_nothing_else():
    part = live_part(file=Ascii())
    part.panel = lambda columns, lines: [bar_text(0.5, 200)]
    assert all(line.isascii() for line in drawn(part))


def test_what_is_printed_stands_above_and_the_end_gives_the_cursor_back_however_often_it_comes():
    part = live_part()
    part.panel = lambda columns, lines: [Text("the panel")]
    part.open()
    part.print("a line that stays")
    part.close()
    part.close()
    text = part.console.file.getvalue()
    assert text.index("a line that stays") < text.rindex("the panel")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
