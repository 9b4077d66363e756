"""The command line of Foldblend: it parses arguments, calls the commands of the four rooms, and prints."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from ensemble.settings import AddSettings, BlendSettings, FileSettings
from folds.base.config import FLAT, Kit, to_toml
from folds.base.errors import Complaint, UserError, visible
from folds.base.signals import Stopped, stoppable
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from folds.settings import COMMA_LIST, LimitSettings, PrepareSettings, SplitSettings, at_least
from models.recipes import FROM_FAMILY
from models.settings import FirstSettings, PredictSettings, TrackSettings, TrainSettings
from submissions.settings import ReportSettings, SubmitSettings

if TYPE_CHECKING:
    from folds.base.terminal import Screen
    from models.runs import RunPlan

# GNU OpenMP reads it when torch is imported: how long threads spin before they sleep. A small net on two cores trains
# at 2,080 images/s with this or the default; beside two busy processes at 1,410 to 1,880, by default at 23 to 1,560.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

EXAMPLES = Path(__file__).parent / "examples"
KIT_TOML = Path("kit.toml")
GO_ON = "the same command goes on where it was stopped"


@Parameter(name="*", group="everywhere")
@dataclass(frozen=True)
class Top:
    work: Annotated[Path, Parameter(help="the work folder; everything is written below it")] = Path("work")
    seed: Annotated[int, at_least(0, at_most=2**32 - 1, help="of folds, training and blend")] = 0

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.work)


@dataclass(frozen=True)
class Place(Top):
    """The flags of every command."""

    config: Annotated[Path, Parameter(help="settings file, read if it exists")] = KIT_TOML


@dataclass(frozen=True)
class Every:
    """All settings: what `all` and `settings` take, and what kit.toml may say."""

    top: Top = Top()
    prepare: PrepareSettings = PrepareSettings()
    split: SplitSettings = SplitSettings()
    first: FirstSettings = FirstSettings()
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    follow: TrackSettings = TrackSettings()
    blend: BlendSettings = BlendSettings()
    submit: SubmitSettings = SubmitSettings()
    report: ReportSettings = ReportSettings()
    limit: LimitSettings = LimitSettings()
    engine: EngineSettings = EngineSettings()


KIT = Kit(Every, KIT_TOML)
app = App(
    name="run.py",
    help="Foldblend: from a folder of images to a checked top-3 CSV. Start with `python run.py demo`.",
    config=KIT,
    result_action="return_value",
    version_flags=(),
    suppress_keyboard_interrupt=False,
)
AllSettings = Annotated[Every, FLAT]
Config = Annotated[Path, Parameter(group="everywhere", help="settings file, read if it exists")]
Data = Annotated[Path, Parameter(help="the competition's folder; it is never written to")]
Runs = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="runs, by name")]


@app.command(name="all", sort_key=0)
def all_(data: Data, *, every: AllSettings = Every(), config: Config = KIT_TOML) -> str:
    """Prepare, split, probe, train every backbone x fold, blend, submit; goes on where it was stopped."""
    from models.commands import FirstProbes, Training
    from models.jobs.plan import refuse_early
    from models.jobs.ray_cluster import refuse_without_ray
    from models.watch.curves import refuse_absent
    from submissions.commands import whole_way

    deadline, workspace = every.limit.deadline(time.monotonic()), every.top.workspace
    refuse_absent(every.follow)
    refuse_without_ray(every.engine)
    refuse_early(workspace, plans(every.train), every.predict)
    with screen().living():
        prepare_data(data, every.prepare, every.train, top=every.top)
        split_(split=every.split, top=Place(every.top.work, every.top.seed))
        common: dict[str, Any] = {
            "engine": every.engine,
            "seed": every.top.seed,
            "screen": screen(),
            "deadline": deadline,
        }
        todo = plans(every.train)
        probes = FirstProbes(workspace, todo, every.predict, **common) if every.first.probe else None
        training = Training(workspace, todo, every.predict, every.follow, **common)
        show(whole_way(workspace, data, probes=probes, training=training, blend=every.blend, settings=every.submit))
    return following(f"all {shlex.quote(str(data))}" if training.is_cut else "report")


@app.command(name="prepare", sort_key=1)
def prepare_(data: Data, *, prepare: PrepareSettings = PrepareSettings(), top: Place = Place()) -> str:
    """Scan and decode every file, find duplicates, write the manifest and the pixel store."""
    prepare_data(data, prepare, KIT.in_file().train, top=top)
    return following("split")


def prepare_data(data: Path, prepare: PrepareSettings, train: TrainSettings, *, top: Top) -> None:
    """`prepare`, with a store as large as the runs need it where its size is not set."""
    from folds import commands
    from models.input.sizes import needed_store_size

    needed = prepare.store_size or needed_store_size(plans(train))
    show([commands.prepare(top.workspace, data, prepare, needed_size=needed, screen=screen())])


@app.command(name="split", sort_key=2)
def split_(*, split: SplitSettings = SplitSettings(), top: Place = Place()) -> str:
    """Assign every training image to a fold, once."""
    from folds import commands

    show([commands.split(top.workspace, split, seed=top.seed, screen=screen())])
    return following("train")


@app.command(name="train", sort_key=3)
def train_(
    *,
    train: TrainSettings = TrainSettings(),
    predict: PredictSettings = PredictSettings(),
    follow: TrackSettings = TrackSettings(),
    fold: Annotated[
        tuple[str, ...], COMMA_LIST, Parameter(help="folds to train: 0,2; `all` trains once more, on all images")
    ] = (),
    run: Runs = (),
    limit: LimitSettings = LimitSettings(),
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str:
    """Train every fold of every run that is not done, and predict out-of-fold and test images."""
    from models.commands import Training, check_folds

    check_folds(fold)
    deadline, todo = limit.deadline(time.monotonic()), plans(train, names=run)
    training = Training(
        top.workspace, todo, predict, follow, engine, seed=top.seed, screen=screen(), fold=fold, deadline=deadline
    )
    show(training)
    if training.failed:
        raise UserError(training.failures, hint="`python run.py train` tries again what failed")
    return following("train" if training.is_cut else "blend")


@app.command(name="probe", sort_key=3)
def probe_(
    *,
    train: TrainSettings = TrainSettings(),
    predict: PredictSettings = PredictSettings(),
    run: Runs = (),
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str:
    """Fit the heads of all folds to a frozen backbone's features: a full run after one pass, called NAME-probe."""
    from models import commands

    show(commands.probe(top.workspace, plans(train, names=run), predict, engine=engine, screen=screen()))
    return following("blend")


@app.command(name="lr-find", sort_key=3)
def lr_find_(
    *,
    train: TrainSettings = TrainSettings(),
    fold: Annotated[int, at_least(0, help="the fold to keep out")] = 0,
    run: Runs = (),
    top: Place = Place(),
) -> str:
    """Sweep the learning rate of each run on one fold's training part, and suggest one; nothing else is kept."""
    from models import commands

    chosen, rates = plans(train, names=run), []
    for rate, text in commands.lr_find(top.workspace, chosen, fold=fold, seed=top.seed, screen=screen()):
        show([text])
        rates.append(rate)
    flags = [text for name, text in KIT.typed.items() if name not in ("fold", "lr", "work", "config")]
    return following(" ".join(["train", *flags, f"--lr {rates[0] if len(rates) == 1 else 'find'}"]))


@app.command(name="predict", sort_key=4)
def predict_(
    *,
    run: Runs = (),
    predict: PredictSettings = PredictSettings(),
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")] = "auto",
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str:
    """Predict out-of-fold and test images again from the checkpoints, without training."""
    from models import commands

    show(commands.predict(top.workspace, run, predict, device=device, engine=engine, screen=screen()))
    return following("blend")


@app.command(name="views", sort_key=4)
def views_(*, run: Runs = (), top: Place = Place()) -> str:
    """What each view of test-time augmentation adds out of fold, and what it costs; proposes the set that pays."""
    from ensemble import commands

    parts = list(commands.views(top.workspace, run, screen()))
    show(part for part, _ in parts)
    return following(parts[-1][1])


@app.command(name="add", sort_key=5)
def add_(
    name: Annotated[str, Parameter(help="what the member is to be called")],
    *,
    add: Annotated[AddSettings, FLAT] = AddSettings(),
    top: Place = Place(),
) -> str:
    """Take in predictions that other tools made, once they are checked, as one more member."""
    from ensemble import commands

    show(commands.add(top.workspace, name, add, screen=screen()))
    return following("blend")


@app.command(name="blend", sort_key=6)
def blend_(
    *,
    blend: BlendSettings = BlendSettings(),
    files: Annotated[FileSettings, FLAT, Parameter(group="files")] = FileSettings(),
    top: Place = Place(),
) -> str | None:
    """Find the members' weights on their out-of-fold predictions, and say how much of the gain is real."""
    if files != FileSettings():
        from submissions import commands as submissions

        show(submissions.blend_files(files, blend, seed=top.seed, screen=screen()))
        return None
    from ensemble import commands

    show(commands.blend(top.workspace, blend, seed=top.seed, screen=screen()))
    return following("submit")


@app.command(name="submit", sort_key=7)
def submit_(
    *,
    blend: Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")] = None,
    run: Annotated[str | None, Parameter(help="a single run instead of a blend")] = None,
    submit: SubmitSettings = SubmitSettings(),
    top: Place = Place(),
) -> str:
    """Write the CSV with three labels per test image, and check it."""
    from submissions import commands

    show([commands.submit(top.workspace, submit, screen=screen(), blend=blend, run=run)])
    return following("report")


@app.command(name="check", sort_key=8)
def check_(file: Path, *, top: Place = Place()) -> None:
    """Compare any CSV with what the organiser's checker wants."""
    from submissions import commands

    show([commands.check(top.workspace, file)])


@app.command(name="score", sort_key=9)
def score_(
    file: Path,
    *,
    labels: Annotated[Path, Parameter(help="CSV with the true labels: an id and a label column")],
    top: Place = Place(),
) -> None:
    """The top-1 and top-3 error of a CSV whose true labels you have."""
    from submissions import commands

    show(commands.score(top.workspace, file, labels))


@app.command(name="status", sort_key=10)
def status_(
    *,
    json: Annotated[bool, Parameter(negative=(), help="print it as one JSON object, for scripts")] = False,
    train: TrainSettings = TrainSettings(),
    top: Place = Place(),
) -> str | None:
    """Runs x folds with their score, what is missing, and the next command."""
    from submissions import commands

    planned = planned_runs(top.workspace, train)
    if json:
        sys.stdout.write(dumps(commands.status_for_scripts(top.workspace, planned, following), indent=2) + "\n")
        return None
    parts, command = commands.status(top.workspace, planned)
    show(parts)
    return following(command)


@app.command(name="report", sort_key=10)
def report_(
    *, report: ReportSettings = ReportSettings(), train: TrainSettings = TrainSettings(), top: Place = Place()
) -> str:
    """Write work/report/index.html: scores, data, training, mistakes, blend and test set on one page."""
    from submissions import commands

    workspace = Workspace(Path(os.path.relpath(top.work)))  # a page is passed on: no absolute path may stand in it
    places = {"same_place": KIT.same_place, "relative_place": KIT.relative_place}
    text, command = commands.report(workspace, report, planned_runs(workspace, train), screen=screen(), **places)
    show([text])
    return following(command)


@app.command(name="explain", sort_key=10)
def explain_(
    image_id: Annotated[str, Parameter(help="of a training or a test image, as in work/folds/manifest.csv")],
    *,
    run: Annotated[str | None, Parameter(help="the run to look into; the first in weight if not given")] = None,
    top: Place = Place(),
) -> None:
    """What every member and the blend say of one image, and where a network looks, as a picture in work/report."""
    from ensemble import commands

    show(commands.explain(top.workspace, image_id, run=run))


@app.command(name="compare", sort_key=10)
def compare_(
    run_a: Annotated[str, Parameter(help="a run or an added member")],
    run_b: Annotated[str, Parameter(help="the run that it is compared with")],
    *,
    top: Place = Place(),
) -> None:
    """Which of two runs is better out of fold, on the same images: paired differences, and the images that changed."""
    from ensemble import commands

    show([commands.compare(top.workspace, run_a, run_b)])


@app.command(name="settings", sort_key=11)
def settings_(*, every: AllSettings = Every(), config: Config = KIT_TOML) -> None:
    """Print all settings as commented TOML, and where each value comes from."""
    from models.jobs.plan import family_remark

    try:
        remarks = [family_remark(every.top.workspace, plan) for plan in plans(every.train)]
    except UserError as err:  # settings may be half written: training with them is refused
        remarks = [err.message]
    values = [(one.name, getattr(every, one.name)) for one in fields(Every)]
    origin = {one.name: KIT.origin(one.name) for _, settings in values for one in fields(settings)}
    elsewhere = dict.fromkeys(FROM_FAMILY, "the backbone's family")
    sys.stdout.write(to_toml(values, origin=origin, runs=KIT.toml.runs, elsewhere=elsewhere, remarks=remarks))


@app.command(name="demo", sort_key=12)
def demo_(*, top: Place = Place()) -> str:
    """The whole way on data that it makes, on a CPU, without a download; then the score on labels kept aside."""
    from folds.demo import make_demo

    data, kept_aside = make_demo(top.work / "demo", seed=top.seed)
    show([f"a small competition of handwritten digits lies in {data}"])
    work = top.work / "demo" / "work"
    for line in (
        ("all", data, "--config", os.path.relpath(EXAMPLES / "demo.toml"), "--work", work, "--seed", top.seed),
        ("score", work / "submissions" / "blend.csv", "--labels", kept_aside, "--work", work),
    ):
        words = [str(word) for word in line]
        show([f"> python run.py {' '.join(words)}"])
        app(words, exit_on_error=False, print_error=False)
    return "python run.py all DATA"


def planned_runs(workspace: Workspace, train: TrainSettings) -> list[str]:
    """The runs that the user asks for by name; where nobody asked, those that are there."""
    from submissions.commands import runs_there

    is_asked_for = KIT.toml.runs or KIT.origin("backbone") != "default"
    there = [] if is_asked_for else runs_there(workspace)
    return there or [plan.name for plan in plans(train)]


def plans(train: TrainSettings, *, names: Sequence[str] = ()) -> list[RunPlan]:
    from models.runs import plan_runs

    return plan_runs(train, KIT.run_settings(train), names=names)


@cache
def screen() -> Screen:
    from folds.base.terminal import Screen

    return Screen()


def show(parts: Iterable[Any]) -> None:
    """Print results as they come, and complaints to stderr."""
    iterator = iter(parts)
    try:
        for part in iterator:
            if isinstance(part, Complaint):
                sys.stderr.write(part.trace or "")
                refuse(part.message, part.hint)
            else:
                screen().show(part)
    finally:
        getattr(iterator, "close", lambda: None)()


def following(command: str) -> str:
    """The next command to type, with what it needs to find the same work folder and settings again."""
    return f"python run.py {command}{KIT.same_place}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 a mistake that the user can mend, 130 Ctrl-C, 143 SIGTERM."""
    try:
        with stoppable(last_words):
            then = app(arguments, exit_on_error=False, print_error=False)
    except UserError as err:
        return refuse(err.message, err.hint)
    except CycloptsError as err:
        message, _, near = str(err).partition(" Did you mean ")
        message = re.sub(r"^Unused Tokens: \[(.*)\]", r"\1 is neither a flag nor the value of one", message)
        message = message.rstrip(".").replace(". Must", ": it must").replace(". Choose", ": choose")
        return refuse(message, f"did you mean {near.split('?')[0]}?" if near else "`python run.py --help`")
    except Stopped as stop:
        screen().close()
        refuse("; ".join([stop.sentence, *getattr(stop, "__notes__", ())]), GO_ON)
        return stop.exit_code
    if isinstance(then, str):
        show([f"next: {then}"])
    return 0


def last_words(stop: Stopped) -> str:
    """What is left to say where the process has to be ended by force; the cursor may still be hidden."""
    cursor = "\x1b[?25h\n" if sys.__stderr__ is not None and sys.__stderr__.isatty() else ""
    return f"{cursor}error: {stop.sentence}\nhint: {GO_ON}\n"


def refuse(message: str, hint: str | None) -> int:
    """Say what is wrong and what to type, with the flags that find the same work folder; returns 2."""
    hint = re.sub(r"python run\.py (?!settings)\w+", lambda found: f"{found[0]}{KIT.same_place}", hint or "")
    screen().complain(f"error: {visible(message)}", style="red")
    if hint:
        screen().complain(f"hint: {visible(hint)}")
    return 2


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may not fit the terminal
    code = main()
    if code > 128:  # torch's threads may be inside a call, and the end of the interpreter under them can abort
        with suppress(OSError):  # a closed pipe
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
