"""The running picture of training: the board of all jobs in the live part of the screen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.text import Text

from folds.base.live import no_panel
from folds.base.locks import holders
from folds.base.processes import this_host
from folds.base.progress import Track
from folds.base.terminal import LINE_SECONDS, Screen
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from models.jobs.plan import full_of
from models.runs import RunPlan, sibling
from models.watch.board import Board, JobKey, board_track, plan_board
from models.watch.board_view import board_lines
from models.watch.events import JobEvent, JobProgress
from models.watch.tables import progress_line

LOOK_SECONDS = 3.0  # between two looks at what other processes hold


@dataclass
class Picture:
    """What a caller tells about its jobs.

    board  None where none is drawn; then some progress is said in lines
    looks  whether jobs that wait here may be at work elsewhere; on Ray the processes that have locked them are our own
    """

    screen: Screen
    workspace: Workspace
    board: Board | None
    track: Track
    looks: bool = True
    looked: float = 0.0
    said: dict[JobKey, float] = field(default_factory=dict)

    def take(self, happened: JobEvent | JobProgress) -> None:
        """Bring the board up to date."""
        if self.board:
            self.board.take(happened)
        elif isinstance(happened, JobProgress):
            self._say(happened)

    def _say(self, progress: JobProgress) -> None:
        now, key = time.monotonic(), (progress.run, progress.fold)
        if now - self.said.setdefault(key, now) > LINE_SECONDS:
            self.said[key] = now
            self.screen.complain(progress_line(progress))

    def panel(self, columns: int, lines: int) -> list[Text]:
        """The board as it is now, for the live part."""
        if self.board is None:
            return []
        if self.looks and time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.board.hold(self._held(self.board))
        return board_lines(self.board, columns, lines)

    def _held(self, board: Board) -> Iterator[JobKey]:
        """The jobs that other processes have locked."""
        names = {f"{run}.{'all' if fold is None else f'fold{fold}'}": (run, fold) for run, fold in list(board.states)}
        for what, holder in holders(self.workspace.lock("any").parent):
            if what in names and (holder.host, holder.pid) != (this_host(), os.getpid()):
                yield names[what]


@contextmanager
def running_picture(
    screen: Screen,
    workspace: Workspace,
    plans: Sequence[RunPlan],
    *,
    only_folds: Sequence[int | None],
    seed: int,
    looks: bool = True,
) -> Iterator[Picture]:
    """Show the board of these runs in the live part while inside, where there is a terminal to show it on."""
    with screen.living() as live:
        if live is None:
            yield Picture(screen, workspace, None, screen.track)
            return
        folds = load_folds(workspace)
        plans = [sibling(plan, seed=seed, folds_seed=folds.seed) for plan in plans]
        epochs = {plan.name: full_of(plan, folds).epochs for plan in plans}
        board = plan_board(workspace, epochs, n_folds=folds.n_folds, only_folds=only_folds)
        picture = Picture(screen, workspace, board, board_track(board, live.track), looks=looks)
        live.panel = picture.panel
        try:
            yield picture
        finally:
            live.panel = no_panel
