"""Tests the table of all jobs: what events make of it, what time it expects, and how it looks at any size."""

import io
import math

import pytest
from rich.console import Console

from folds.base.terminal import Screen, bars_on
from models.watch.events import (
    EpochRow,
    FoldDone,
    FoldFailed,
    FoldHeld,
    FoldResumed,
    JobEvent,
    JobKey,
    JobProgress,
    ProbeStarted,
)
from models.watch.live_table import JobState, LiveTable
from models.watch.tables import job_lines
from tests.models.small import STARTED
from tests.models.small import epoch_row as row


class Drawn(Screen):
    """A screen whose bars are drawn nowhere; it notes what is tracked outside of any job."""

    bars = None  # of the property of Screen

    def __init__(self):
        super().__init__()
        self.aside, self.bars = [], bars_on(Console(file=io.StringIO(), width=100))

    def track(self, items, *, what, total, unit="images", each=1):
        self.aside.append(what)
        yield from items


def happened(run, fold, event, place=""):
    return JobEvent(JobKey(run, fold), event, place)


def started(run, fold, place=""):
    return happened(run, fold, STARTED, place)


def done(run, fold, *, error=0.125, seconds=40.0, trained=True):
    return happened(run, fold, FoldDone(error, seconds, trained, ("centre",)))


def failed(run, fold, name):
    return happened(run, fold, FoldFailed(name, "why", None, None))


def progress(run, fold, *values, **options):
    return JobProgress(JobKey(run, fold), *values, **options)


def table(*runs, folds=(0, 1), epochs=4):
    return LiveTable(Drawn(), [JobState(JobKey(run, fold), epochs) for run in runs for fold in folds])


def told(known, *events):
    """The table after these events; an epoch's row belongs to the job of the event before it."""
    key = None
    for event in events:
        event = JobEvent(key, event) if isinstance(event, EpochRow) else event
        key = event.key
        known.take(event)
    return known


def states(known):
    return [job.state for job in known.jobs.values()]


def shown(known, columns=100, lines=30):
    console = Console(width=columns, height=lines, file=io.StringIO())
    console.print(known.draw(console))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def bars(known):
    return [(bar.description, bar.completed, bar.total) for bar in known._screen.bars.tasks]


HELD = happened("a", 1, FoldHeld("a fold 1", "process 7"))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], ["waiting", "waiting"], id="nothing yet"),
        pytest.param([started("a", 0), row(1)], ["running", "waiting"], id="it has begun"),
        pytest.param([started("a", 0), row(1), done("a", 0)], ["done", "waiting"], id="it is done"),
        pytest.param([HELD], ["waiting", "held"], id="another process holds it"),
        pytest.param([HELD, done("a", 1, trained=False)], ["waiting", "done"], id="it was done there"),
        pytest.param([failed("a", 1, "a fold 1")], ["waiting", "failed"], id="it failed before it began"),
        pytest.param([failed("a", None, "a")], ["waiting", "waiting"], id="the failed end of a run is no job"),
    ],
)
def test_an_event_changes_the_job_that_it_names(events, expected):
    assert states(told(table("a"), *events)) == expected


def test_what_others_hold_now_replaces_what_they_held_before_and_never_a_job_that_runs_here():
    known = told(table("a", "b"), started("a", 0))
    known.hold([("a", 0), ("a", 1)])
    assert states(known) == ["running", "held", "waiting", "waiting"]
    known.hold([("b", 0)])
    assert states(known) == ["running", "waiting", "held", "waiting"]


@pytest.mark.parametrize(
    ("events", "share"),
    [
        pytest.param([happened("a", 0, FoldResumed(3, 4))], 0.75, id="resumed: its epochs are behind it"),
        pytest.param([progress("a", 0, "epoch 1/4", 30, 60)], 0.125, id="half of one epoch of four"),
        pytest.param([progress("a", 0, "epoch 1/4", 60, 60), started("a", 0), row(1)], 0.25, id="between two epochs"),
    ],
)
def test_a_job_is_as_far_as_its_epochs(events, share):
    assert told(table("a"), started("a", 0), *events).jobs["a", 0].share == share


def test_each_running_job_has_a_bar_of_what_it_does_now():
    known = told(table("a"), started("a", 0, "gpu 0"), started("a", 1, "gpu 1"))
    told(known, progress("a", 0, "epoch 1/4", 30, 60, place="gpu 0"), happened("a", 1, row(2), "gpu 1"))
    assert bars(known) == [("a fold 0 on gpu 0  epoch 1/4", 30, 60)]
    told(known, progress("a", 0, "epoch 2/4", 0, 60, place="gpu 0"))
    told(known, progress("a", 1, "predict test", 5, 10, place="gpu 1"))
    assert bars(known) == [("a fold 0 on gpu 0  epoch 2/4", 0, 60), ("a fold 1 on gpu 1  predict test", 5, 10)]
    told(known, done("a", 0), failed("a", 1, "a fold 1"))
    assert bars(known) == []


def test_the_time_left_is_that_of_done_jobs_and_of_the_share_that_is_left():
    known = table("a")
    assert known.seconds_left() is None
    told(known, started("a", 0), row(1), row(2))
    assert known.seconds_left() == 2 * 10 + 40  # two epochs of this job, and one job like it
    told(known, done("a", 0, seconds=60.0))
    assert known.seconds_left() == 60
    told(known, done("a", 1))
    assert known.seconds_left() == 0


def test_jobs_side_by_side_share_the_time_left_and_the_longest_sets_a_floor():
    known = told(table("a", "b"), started("a", 0), row(1), started("a", 1), row(1))
    assert known.seconds_left() == (2 * 30 + 2 * 40) / 2
    told(known, done("b", 0), done("b", 1))
    assert known.seconds_left() == 30


def test_the_first_epoch_is_enough_for_an_estimate():
    half = progress("a", 0, "epoch 1/4", 30, 60, per_second=6.0)
    known = told(table("a", folds=(0,)), started("a", 0), half)
    assert known.seconds_left() == pytest.approx(35)  # 4 epochs of 10 seconds, half of one behind us


def test_the_tracker_gives_progress_to_the_job_that_runs_and_the_rest_to_the_screen():
    known = table("a")
    assert list(known.track(range(2), what="sweep", total=2)) == [0, 1]
    told(known, started("a", 1))
    for i in known.track(range(3), what="epoch 1/4", total=6, each=2):
        assert bars(known) == [("a fold 1  epoch 1/4", 2 * i, 6)]
    assert known._screen.aside == ["sweep"]
    told(known, done("a", 1))
    list(known.track(range(2), what="features", total=2))
    assert known._screen.aside == ["sweep", "features"]


def test_the_table_has_a_word_or_a_figure_for_every_state():
    known = told(table("a", "long-name", folds=(0, 1, None)), done("a", 0), started("a", 1), row(1), row(2))
    told(known, failed("a", None, "a on all images"), happened("long-name", 0, FoldHeld("long-name fold 0", "x")))
    told(known, done("long-name", None, error=None))
    assert shown(known) == [
        "6 jobs: 2 done, 1 running, 1 waiting, 1 held by another process, 1 failed; about 1:00 left",
        "           fold 0  fold 1     all",
        "a          0.1250     50%  failed",
        "long-name    held       .    done",
    ]


@pytest.mark.parametrize("columns", [20, 40, 69, 70, 100, 200])
@pytest.mark.parametrize("lines", [5, 10, 24, 60])
def test_no_size_is_too_small_and_no_line_too_long(columns, lines):
    names = [f"a-run-with-quite-a-long-name-{i}" for i in range(30)]
    known = table(*names, folds=range(5))
    for i, name in enumerate(names[:3]):
        now = progress(name, 0, "epoch 1/4", 1000, 100_000, per_second=123.0, place=f"gpu {i}")
        told(known, started(name, 0, f"gpu {i}"), now)
    told(known, started(names[3], 1), row(1, valid_top3_error=math.nan))
    made = shown(known, columns, lines)
    assert len(made) <= max(lines // 2, 5)
    assert max(map(len, made)) <= columns
    assert "150 jobs: 4 running" in made[0]


def test_runs_that_do_not_fit_are_counted_and_those_that_run_are_shown_first():
    known = told(table(*(f"run{i:02d}" for i in range(30))), started("run29", 0))
    made = shown(known, 80, 12)
    assert [line.split()[0] for line in made[-3:]] == ["run00", "run29", "and"]
    assert made[-1] == "and 28 more runs"


def test_a_line_on_ray_names_its_run_once():
    probing = ProbeStarted("lite0.in1k", 100, 50, 224, 224, 288, "cpu", "float32")
    [line] = job_lines(happened("lite0-probe", None, probing, "node7"))
    assert line.startswith("lite0-probe on node7 | lite0.in1k, frozen, 100 training")
