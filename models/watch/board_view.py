"""Draws the board of all jobs, for any size of terminal: counts, what runs now, runs x folds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from folds.base.live import bar_text, duration
from models.watch.board import Board, JobState, State
from models.watch.tables import figure

ORDER: tuple[State, ...] = ("done", "running", "waiting", "held", "failed")
WORDS = {"held": "held by another process"}
STYLES = {"running": "bold", "failed": "red", "held": "yellow", "waiting": "dim"}
WIDE = 70  # columns from which a running job has a bar, and its last scores in words
NAME = 12  # columns that a run's name has at least, for a table with a cell for each fold
BAR = 10  # columns that a bar has at least
CELL = 8  # columns of a fold's cell: `0.0126`, `42%`, `failed`


def board_lines(board: Board, columns: int, lines: int) -> list[Text]:
    """At most so many lines: the counts and the time left, the jobs that run, the table of all, as they fit."""
    if not board.jobs or lines < 1:
        return []
    head = _head(board, columns)[:lines]
    room = lines - len(head)
    running = _running_lines(board.running, columns, room)
    made = [*head, *running, *_table(board, columns, room - len(running))]
    for line in made:
        line.truncate(columns, overflow="ellipsis")
    return made


def _head(board: Board, columns: int) -> list[Text]:
    """What is done and what is not, in words, and the time left; on two lines where one is too short."""
    counts = {state: sum(job.state == state for job in board.jobs) for state in ORDER}
    said = ", ".join(f"{n} {WORDS.get(state, state)}" for state, n in counts.items() if n)
    seconds = board.seconds_left()
    left = f"about {duration(seconds)} left" if seconds else ""
    one = "; ".join(filter(None, (f"{len(board.jobs)} jobs: {said}", left)))
    if len(one) <= columns:
        return [Text(one, style="bold")]
    return [Text(part, style="bold") for part in (said, left) if part]


def _running_lines(running: Sequence[JobState], columns: int, lines: int) -> list[Text]:
    """A line for each running job, and its last scores below it where two thirds of the room suffice for both."""
    shown = running if len(running) <= lines else running[: max(lines - 1, 0)]
    pairs = 2 * len(shown) <= max(2 * lines // 3, 2)
    made = []
    for job in shown:
        made.append(_running_line(job, columns))
        if pairs and job.row is not None:
            made.append(_scores(job, columns))
    if len(shown) < len(running) and lines:
        made.append(Text(f"and {len(running) - len(shown)} more running"))
    return made[:lines]


def _running_line(job: JobState, columns: int) -> Text:
    """Name, what it does, its numbers; where there is no room, first the bar goes, then the speed, then the name."""
    progress, fold = job.progress, job.name.removeprefix(job.run)
    if progress is None or not progress.total:
        what = f"epoch {job.epoch}/{job.epochs} done" if job.epoch else "begins"
        return _fitted(job.run, "  ".join(filter(None, (fold, what, job.place))), columns)
    share, speed = progress.done / progress.total, progress.per_second
    left = f"{duration((progress.total - progress.done) / speed)} left" if speed else ""
    if columns < WIDE:
        what = f"{fold} {progress.what.removeprefix('epoch ')}"
        numbers = [f"{share:.0%}", left.removesuffix(" left"), job.place]
        return _fitted(job.run, "  ".join(filter(None, (what, *numbers))), columns)
    speed_text = f"{speed:,.0f} {progress.unit}/s" if speed else ""
    before = f"{fold}  {progress.what}"
    after = "  ".join(filter(None, (f"{share:4.0%}", speed_text, left, job.place)))
    room = columns - len(job.run + before + after) - 4
    if room >= BAR:
        return Text.assemble(f"{job.run}{before}  ", bar_text(share, min(room, 3 * BAR)), f"  {after}")
    if room < -2:
        after = "  ".join(filter(None, (f"{share:4.0%}", left, job.place)))
    return _fitted(job.run, f"{before}  {after}", columns)


def _fitted(run: str, rest: str, columns: int) -> Text:
    """A line with as much of the run's name as fits."""
    return Text(f"{_cut(run, columns - len(rest))}{rest}")


def _scores(job: JobState, columns: int) -> Text:
    row = job.row
    assert row is not None, f"{job.name} has no row yet"
    top3 = f"top-3 err {figure(row.valid_top3_error)}"
    if columns < WIDE:
        return Text(f"  epoch {row.epoch}: {top3}", style="dim")
    losses = f"loss {row.train_loss:.4f} train, {figure(row.valid_loss)} valid"
    return Text(f"  epoch {row.epoch}: {losses}, top-1 err {figure(row.valid_top1_error)}, {top3}", style="dim")


def _table(board: Board, columns: int, lines: int) -> list[Text]:
    """Runs x folds, a cell each; counts where cells do not fit, and a last line for the runs that do not."""
    runs = {job.run: [one for one in board.jobs if one.run == job.run] for job in board.jobs}
    folds = sorted({job.fold for job in board.jobs}, key=lambda fold: (fold is None, fold))
    if lines < min(len(runs) + 1, 3):
        return []  # the counts say as much
    is_grid = columns - CELL * len(folds) >= NAME
    shown = _chosen(runs, lines - is_grid)
    more = len(runs) - len(shown)
    width = min(max(map(len, shown)), columns - CELL * len(folds) if is_grid else columns // 2)
    made = []
    if is_grid:
        heads = [("all" if fold is None else f"fold {fold}").rjust(CELL) for fold in folds]
        made.append(Text("".ljust(width) + "".join(heads), style="dim"))
    for name in shown:
        line = Text(_cut(name, width).ljust(width))
        cells = {job.fold: job for job in runs[name]}
        line.append_text(_cells(cells, folds) if is_grid else _counted(runs[name]))
        made.append(line)
    if more:
        made.append(Text(f"and {more} more run{'s' * (more > 1)}"))
    return made[:lines]


def _cells(jobs: dict[int | None, JobState], folds: Sequence[int | None]) -> Text:
    line = Text()
    for fold in folds:
        job = jobs.get(fold)
        line.append((_cell(job) if job else "").rjust(CELL), style=STYLES.get(job.state, "") if job else "")
    return line


def _cell(job: JobState) -> str:
    if job.state == "done":
        return "done" if job.error is None else f"{job.error:.4f}"
    return {"waiting": ".", "running": f"{job.share:.0%}"}.get(job.state, job.state)


def _counted(jobs: Sequence[JobState]) -> Text:
    counts = {state: sum(job.state == state for job in jobs) for state in ORDER}
    return Text("  " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))


def _chosen(runs: dict[str, list[JobState]], lines: int) -> list[str]:
    """The runs to show, in their order: those where something happens first, then those to come, then those done."""
    if len(runs) <= lines:
        return list(runs)

    def rank(name: str) -> int:
        states = {job.state for job in runs[name]}
        return 0 if "running" in states else 1 if states & {"failed", "held"} else 2 if "waiting" in states else 3

    kept = set(sorted(runs, key=rank)[: max(lines - 1, 0)])
    return [name for name in runs if name in kept]


def _cut(text: str, columns: int) -> str:
    """The text, without its middle where it is too long: names that are alike differ at their ends."""
    if len(text) <= columns:
        return text
    kept = max(columns - 2, 0)
    return f"{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}"
