"""Keeps the live part of a terminal: bars and a panel below the lines that stay, redrawn in place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from folds.base.pace import Pace
from folds.base.progress import T

TICK_SECONDS = 0.2  # between two drawings
MOST_COLUMNS = 100  # what is not wide need not be drawn anew at every width
ROWS_FOR_RULE = 20  # of a terminal, from which a line is drawn above the live part
RULE = 12  # its columns: few, so that no terminal has to wrap it
CLOSE_SECONDS = 1.0  # most that the end waits for a drawing that hangs
IN_ASCII = str.maketrans({"━": "#", "·": ".", "─": "-", "…": "."})  # for terminals that know nothing else
Panel = Callable[[int, int], list[Text]]  # (columns, lines) -> at most so many lines, none longer


def no_panel(columns: int, lines: int) -> list[Text]:
    """The panel of a command that has only bars."""
    return []


@dataclass
class LivePart:
    """The one live part of a command. What is shown through it stands above it and stays in the scrollback.

    panel  what stands above the bars; it is asked at every drawing, in a thread of its own
    """

    console: Console
    redirects_stdout: bool = True
    panel: Panel = no_panel
    bars: list[Pace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._live = Live(
            self, console=self.console, auto_refresh=False, transient=True, redirect_stdout=self.redirects_stdout
        )
        self._lock = threading.RLock()  # of drawing and printing: rich holds its own for one part of either
        self._ended = threading.Event()
        self._drawn: list[int] = []  # cells of each line that stands there
        self._columns = self.console.width
        self._thread = threading.Thread(target=self._tick, name="screen", daemon=True)

    def open(self) -> None:
        """Draw from now on, until `close`."""
        self._live.start(refresh=True)
        self._thread.start()

    def close(self) -> None:
        """Take the live part away and give the cursor back; any thread may do it, at any moment, more than once."""
        self._ended.set()
        has_lock = self._lock.acquire(timeout=CLOSE_SECONDS)
        try:
            self._live.stop()
        finally:
            self.console.show_cursor(True)
            if has_lock:
                self._lock.release()

    def print(self, part: RenderableType, *, style: str | None = None) -> None:
        """Print above the live part."""
        with self._lock:
            self._clear_what_wrapped()
            self.console.print(part, markup=False, style=style)

    def track(self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        """A tracker that draws a bar in the live part; none around a single unit, which is done or not."""
        bar = Pace(what, total, unit)
        if total > 1:
            self.bars.append(bar)
        try:
            for item in items:
                yield item
                bar.advance(each)
        finally:
            if bar in self.bars:
                self.bars.remove(bar)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = min(console.width - 1, MOST_COLUMNS), max(console.height // 2, 3)
        bars = [bar_line(bar, columns) for bar in list(self.bars)[-rows:]]
        lines = [*self.panel(columns, rows - len(bars)), *bars][:rows]
        if console.height >= ROWS_FOR_RULE and lines:
            lines = [Text("─" * RULE, style="dim"), *lines]
        for line in lines:
            line.truncate(columns, overflow="ellipsis")
            if options.ascii_only:
                line.plain = line.plain.translate(IN_ASCII)
            yield line
        self._drawn, self._columns = [line.cell_len for line in lines], console.width

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            with self._lock:
                if not self._ended.is_set():
                    self._clear_what_wrapped()
                    self._live.refresh()

    def _clear_what_wrapped(self) -> None:
        """Erase the rows that the terminal added when it became narrower than the lines that stand there.

        rich goes up as many rows as it has drawn lines; it does not know of those that a terminal wraps afterwards.
        """
        columns = self.console.width
        if columns < self._columns and wraps_again():
            added = sum(max(-(-cells // columns), 1) - 1 for cells in self._drawn)
            up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * added
            with self.console:
                self.console.control(Control(ControlType.CARRIAGE_RETURN, *up))
        self._columns = columns


def wraps_again() -> bool:
    """Whether the terminal wraps lines anew when its width changes: all do but xterm, GNU screen and Linux's own."""
    return not ({"XTERM_VERSION", "STY"} & os.environ.keys() or os.environ.get("TERM") == "linux")


def bar_line(bar: Pace, columns: int) -> Text:
    """A bar with its numbers; on a narrow terminal the bar and the words go, and the numbers stay."""
    left = f"{duration(bar.seconds_left)} left" if bar.seconds_left is not None else ""
    speed = f"{bar.per_second:,.0f} {bar.unit}/s" if bar.per_second else ""
    if columns < 70:
        return Text("  ".join(filter(None, (bar.what, f"{bar.share:.0%}", left))))
    said = Text(f"{bar.what}  ")
    said.append_text(bar_text(bar.share, min(columns - 60, 30)))
    said.append("  ".join(filter(None, (f"  {bar.done:,}/{bar.total:,} {bar.unit}", speed, left))))
    return said


def bar_text(share: float, cells: int) -> Text:
    """A bar of so many cells; what is done differs from what is not by its sign too, and not by colour alone."""
    full = round(min(max(share, 0.0), 1.0) * cells)
    return Text.assemble(("━" * full, "green"), ("·" * (cells - full), "dim"))


def duration(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, left = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"
