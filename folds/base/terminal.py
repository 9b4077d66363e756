"""What a command shows: lines that stay, and progress, which is drawn on a terminal and said elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType

from folds.base.live import LivePart, Panel, duration, no_panel
from folds.base.progress import T, Track

LINE_SECONDS = 15  # without a terminal, long work says how far it is this often
PLAIN_COLUMNS = 120  # where there is no terminal


class Screen:
    """Results go to stdout, progress and errors to stderr. On a terminal there is at most one live part at a time."""

    def __init__(self) -> None:
        self.live: LivePart | None = None

    def show(self, *parts: RenderableType) -> None:
        """Print results, which stay."""
        for part in parts:
            if self.live and self.live.redirects_stdout:
                self.live.print(part)
            else:
                _console().print(part, markup=False)

    def complain(self, text: str, *, style: str | None = None) -> None:
        """Print an error or a hint, which stays too."""
        if self.live:
            self.live.print(text, style=style)
        else:
            _console(stderr=True).print(text, markup=False, style=style)

    @contextmanager
    def living(self, panel: Panel = no_panel) -> Iterator[LivePart | None]:
        """Keep a live part while inside, one that is there already if there is one; None where it cannot be drawn."""
        if self.live or not can_be_live():
            yield self.live
            return
        self.live = LivePart(_console(stderr=True), redirects_stdout=sys.stdout.isatty(), panel=panel)
        try:
            self.live.open()
            yield self.live
        finally:
            self.close()

    def close(self) -> None:
        """End the live part, if there is one, with the cursor where the next line goes."""
        live, self.live = self.live, None  # of two threads that end it at once, one does
        if live:
            live.close()

    def track(self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        """The tracker of this screen."""
        with self.living() as live:
            tracked: Track = live.track if live else said_on(_console(stderr=True))
            yield from tracked(items, what=what, total=total, unit=unit, each=each)


def _console(*, stderr: bool = False) -> Console:
    """120 columns wide where there is no terminal."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
    if stderr or console.is_terminal:
        return console
    return Console(highlight=False, soft_wrap=True, emoji=False, width=PLAIN_COLUMNS)


def can_be_live() -> bool:
    """Whether stderr is a terminal that can move its cursor, and nobody else writes there while we do.

    Where stdout is a pipe, as in `| tee log`, its reader may print to the same terminal: progress is said in lines.
    """
    if not sys.stderr.isatty() or not Console(stderr=True).is_interactive:
        return False
    try:
        return sys.stdout.isatty() or not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # it is no file at all
        return True


def said_on(console: Console) -> Track:
    """A tracker that says now and then on a console how far it is."""

    def track(items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1) -> Iterator[T]:
        began = said = time.monotonic()
        done = 0
        for item in items:
            yield item
            done = min(done + each, total)
            now = time.monotonic()
            if now - said > LINE_SECONDS and done < total:
                said, speed = now, done / (now - began)
                rest = f"{speed:,.0f} {unit}/s, {duration((total - done) / speed)} left"
                console.print(f"{what}: {done:,}/{total:,} {unit}, {rest}", highlight=False, soft_wrap=True)

    return track
