"""What a command shows: results on stdout, progress and errors on stderr; bars on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column, Table
from rich.text import Text

from folds.base.progress import T

LINE_SECONDS = 15  # without a terminal, long work prints a line this often
TICK_SECONDS = 0.2  # between two drawings
CLOSE_SECONDS = 1.0  # most that the end waits for a drawing that hangs
PLAIN_COLUMNS = 120  # of stdout where it is no terminal
BAR = 20  # columns of a bar
NAME = 8  # columns that figures leave to a text before them
WIDE = 70  # columns of a terminal from which there are bars


class Screen:
    """The output of one command. On a terminal there is at most one live part, redrawn below the lines that stay.

    table  draws what stands above the bars of the live part, called in a thread of its own; None for bars alone
    bars   those of the live part; None where there is none
    """

    def __init__(self) -> None:
        self.table: Callable[[Console], RenderableType] | None = None
        self.bars: Progress | None = None
        self._live: Live | None = None
        self._thread = threading.Thread()  # redraws the live part
        self._is_over = threading.Event()
        self._lock = threading.RLock()  # rich has locks for a part of drawing and a part of printing

    def show(self, part: RenderableType) -> None:
        """Print a result, which stays."""
        if self._live and sys.stdout.isatty():
            self._print_above(self._live, part)
        else:
            _plain_console(stderr=False).print(part, markup=False)

    def complain(self, text: str, *, style: str | None = None) -> None:
        """Print an error, a hint or a line of progress, which stays too."""
        if self._live:
            self._print_above(self._live, text, style=style)
        else:
            _plain_console(stderr=True).print(text, markup=False, style=style)

    def _print_above(self, live: Live, part: RenderableType, *, style: str | None = None) -> None:
        with self._lock:
            live.console.print(part, markup=False, style=style)

    @contextmanager
    def living(self) -> Iterator[bool]:
        """Keep a live part while inside, the one that is there if there is one. False: none can be drawn."""
        if self._live or not can_be_live():
            yield self._live is not None
            return
        console = _plain_console(stderr=True)
        bars, is_over = bars_on(console), threading.Event()

        def drawing() -> RenderableType:
            table = self.table  # read once: another thread takes it away
            return Group(*([table(console)] if table else []), *([bars] if bars.tasks else []))

        def redraw() -> None:
            while not is_over.wait(TICK_SECONDS):
                with self._lock:
                    if not is_over.is_set():
                        live.refresh()

        live = Live(
            get_renderable=drawing,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        thread = threading.Thread(target=redraw, name="screen", daemon=True)
        live.start(refresh=True)
        thread.start()
        self._live, self.bars, self._thread, self._is_over = live, bars, thread, is_over
        try:
            yield True
        finally:
            self.close()

    def close(self) -> None:
        """Remove the live part, if there is one, and give the cursor back."""
        live, self._live, self.bars = self._live, None, None
        if live is None:
            return
        self._is_over.set()
        self._thread.join(timeout=CLOSE_SECONDS)  # a thread that writes when the interpreter ends makes it abort
        try:
            live.stop()
        finally:
            live.console.show_cursor(True)

    def track(self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        """A tracker that draws a bar, or prints a line now and then where nothing can be drawn."""
        with self.living():
            bars = self.bars
            if bars is None:
                began = said = time.monotonic()
                done = 0
                for item in items:
                    yield item
                    done, now = min(done + each, total), time.monotonic()
                    if now - said > LINE_SECONDS and done < total:
                        said, speed = now, done / (now - began)
                        rest = f"{pace(speed, unit)}, {duration((total - done) / speed)} left"
                        self.complain(f"{what}: {done:,}/{total:,} {unit}, {rest}")
            elif total == 1:  # it is done or not
                yield from items
            else:
                bar = bars.add_task(what, total=total, unit=unit)
                try:
                    for item in items:
                        yield item
                        bars.advance(bar, each)
                finally:
                    bars.remove_task(bar)


def bars_on(console: Console) -> Progress:
    """Bars, to be drawn as a part of something else: what is done, how fast, and the time left.

    On a narrow terminal the bar itself and the counts are left out.
    """

    class What(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Bar(BarColumn):
        def render(self, task: Task) -> Any:
            return super().render(task) if console.width >= WIDE else ""

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Text:
            done, total = min(task.completed, task.total or 0), task.total or 0
            speed, left = task.speed, task.time_remaining
            parts = [f"{task.percentage:.0f}%"]
            if console.width >= WIDE:
                parts.append(f"{done:,.0f}/{total:,.0f} {task.fields['unit']}")
                parts += [pace(speed, task.fields["unit"])] if speed else []
            return Text("  ".join([*parts, *([f"{duration(left)} left"] if left is not None else [])]))

    return Progress(
        What(), Bar(bar_width=BAR), Numbers(table_column=Column(no_wrap=True)), console=console, auto_refresh=False
    )


def pace(per_second: float, unit: str) -> str:
    """Units a second; what takes longer than a second each, as seconds."""
    return f"{per_second:,.0f} {unit}/s" if per_second >= 1 else f"{1 / per_second:,.0f} s each"


def duration(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, left = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"


def figures(title: str | None, *, texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """A table without rows: columns of text, which are folded and never cut, then columns of figures."""
    shown = None if title is None else Text(title, style="table.title")  # names of images may hold brackets
    table = _Figures(title=shown, title_justify="left", box=SIMPLE_HEAD)
    for heading in texts:
        table.add_column(heading, overflow="fold")  # names that begin alike must stay apart
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True, overflow="fold")
    return table


class _Figures(Table):
    """Folds its figures too, and closes its gaps, where whole ones would take the columns of the names before them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = [column for column in self.columns if column.no_wrap]
        taken = sum(3 + max(cell_len(str(cell)) for cell in (column.header, *column.cells)) for column in whole)
        if taken + NAME * (len(self.columns) - len(whole)) > options.max_width:
            self.padding, self.pad_edge = 0, False
            for column in whole:
                column.no_wrap = False
        return super().__rich_console__(console, options)


def can_be_live() -> bool:
    """Whether stderr is a terminal that can move its cursor, and no other process writes there.

    Where stdout is a pipe, as in `| tee log`, its reader may print to the same terminal.
    """
    if not sys.stderr.isatty() or not Console(stderr=True).is_interactive:
        return False
    try:
        return sys.stdout.isatty() or not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # it is no file at all
        return True


def _plain_console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
    if not stderr and not console.is_terminal:
        console.width = PLAIN_COLUMNS
    return console
