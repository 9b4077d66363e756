"""This file draws progress on a console that `run.py` hands in: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from folds.track import T, Track

LINE_SECONDS = 15  # without a terminal, long work says how far it is this often


def track_on(console: Console) -> Track:
    """A tracker for that console."""
    return _Bars(console) if console.is_terminal else _Lines(console)


class _Bars:
    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(
        self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1
    ) -> Iterator[T]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Speed(unit),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            for item in items:
                yield item
                left = total - int(progress.tasks[0].completed)
                progress.advance(task, min(each, left))


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")


class _Lines:
    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(
        self, items: Iterable[T], *, what: str, total: int, unit: str = "images", each: int = 1
    ) -> Iterator[T]:
        began = said = time.monotonic()
        done = 0
        for item in items:
            yield item
            done = min(done + each, total)
            now = time.monotonic()
            if now - said > LINE_SECONDS and done < total:
                said, speed = now, done / (now - began)
                left = round((total - done) / speed)
                rest = f"{speed:,.0f} {unit}/s, {left // 60}:{left % 60:02d} left"
                self.console.print(f"{what}: {done:,}/{total:,} {unit}, {rest}", highlight=False, soft_wrap=True)
