"""This file is the command line of Foldblend: it parses arguments, calls the four rooms, and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from ensemble.settings import AddSettings, BlendSettings, FileSettings
from folds.errors import UserError
from folds.kit import FLAT, Kit
from folds.kit_toml import to_toml
from folds.settings import COMMA_LIST, PrepareSettings, SplitSettings, at_least
from folds.workspace import Workspace
from models.settings import PredictSettings, TrainSettings
from submissions.settings import SubmitSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from folds.track import Track
    from models.runs import RunPlan

# GNU OpenMP reads it when torch is imported: how long threads spin before they sleep. A small net on two cores trains
# at 2,080 images/s with this or the default; beside two busy processes at 1,410 to 1,880, by default at 23 to 1,560.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

EXAMPLES = Path(__file__).parent / "examples"
KIT_TOML = Path("kit.toml")


@dataclass(frozen=True)
class Top:
    work: Annotated[Path, Parameter(help="the work folder; everything is written below it")] = Path("work")
    seed: Annotated[int, at_least(0, help="of folds, training and blend")] = 0


Prepare = Annotated[PrepareSettings, FLAT, Parameter(group="prepare")]
Split = Annotated[SplitSettings, FLAT, Parameter(group="split")]
Train = Annotated[TrainSettings, FLAT, Parameter(group="train")]
Predict = Annotated[PredictSettings, FLAT, Parameter(group="predict")]
Blend = Annotated[BlendSettings, FLAT, Parameter(group="blend")]
Submit = Annotated[SubmitSettings, FLAT, Parameter(group="submit")]
TopFlags = Annotated[Top, FLAT, Parameter(group="everywhere")]
Config = Annotated[Path, Parameter(group="everywhere", help="settings file; read if it lies there")]


@dataclass(frozen=True)
class Every:
    """All settings: what `all` and `settings` take, and what kit.toml may say."""

    top: TopFlags = Top()
    prepare: Prepare = PrepareSettings()
    split: Split = SplitSettings()
    train: Train = TrainSettings()
    predict: Predict = PredictSettings()
    blend: Blend = BlendSettings()
    submit: Submit = SubmitSettings()


KIT = Kit(Every, KIT_TOML)
app = App(
    name="run.py",
    help="Foldblend: from a folder of images to a checked top-3 CSV. Start with `python run.py demo`.",
    config=KIT,
    result_action="return_value",
    version_flags=(),
    suppress_keyboard_interrupt=False,
)
Data = Annotated[Path, Parameter(help="the competition's folder; it is never written to")]
Runs = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="runs, by name")]


@app.command(name="all", sort_key=0)
def all_(data: Data, *, every: Annotated[Every, FLAT] = Every(), config: Config = KIT_TOML) -> str:
    """Prepare, split, train every backbone x fold, blend, submit; goes on where it was stopped."""
    from models.jobs import refuse_early

    refuse_early(Workspace(every.top.work), plans(every.train), every.predict)
    prepare_(data, prepare=every.prepare, top=every.top)
    split_(split=every.split, top=every.top)
    train_(train=every.train, predict=every.predict, top=every.top)
    blend_(blend=every.blend, top=every.top)
    return submit_(submit=every.submit, top=every.top)


@app.command(name="prepare", sort_key=1)
def prepare_(
    data: Data, *, prepare: Prepare = PrepareSettings(), top: TopFlags = Top(), config: Config = KIT_TOML
) -> str:
    """Scan and decode every file, find duplicates, write the manifest and the pixel store."""
    from folds import prepare as room
    from folds.tables import prepare_tables

    result = room.prepare(Workspace(top.work), data, prepare, track=track())
    show(prepare_tables(result))
    return following("split")


@app.command(name="split", sort_key=2)
def split_(*, split: Split = SplitSettings(), top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """Assign every training image to a fold, once."""
    from folds import assignment
    from folds.tables import split_tables

    folds = assignment.split(Workspace(top.work), split, seed=top.seed)
    show(split_tables(folds))
    return following("train")


@app.command(name="train", sort_key=3)
def train_(
    *,
    train: Train = TrainSettings(),
    predict: Predict = PredictSettings(),
    fold: Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="folds to train: 0,2; all if not given")] = (),
    run: Runs = (),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Train every fold of every run that is not done, and predict out-of-fold and test images."""
    from models.jobs import train_runs
    from models.tables import event_lines

    wrong = [one for one in fold if not one.isdecimal()]
    if wrong:
        raise UserError(
            f"`--fold {','.join(fold)}` is no list of folds: `{wrong[0]}` is not a number", hint="`--fold 0,2`"
        )
    events = train_runs(
        Workspace(top.work),
        plans(train, names=run),
        predict,
        seed=top.seed,
        only_folds=[int(one) for one in fold],
        track=track(),
    )
    for event in events:
        show(*event_lines(event))
    return following("blend")


@app.command(name="predict", sort_key=4)
def predict_(
    *,
    run: Runs = (),
    predict: Predict = PredictSettings(),
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")] = "auto",
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Predict out-of-fold and test images again from the checkpoints, without training."""
    from models.repredict import predict_run
    from models.runs import runs

    workspace = Workspace(top.work)
    names = run or tuple(runs(workspace))
    if not names:
        raise UserError(f"{workspace.models} holds no run", hint="`python run.py train`")
    for name in names:
        for done in predict_run(workspace, name, predict, device_name=device, track=track()):
            show(f"{done.run} fold {done.fold}: top-3 error {done.top3_error:.4f} over {', '.join(predict.views)}")
    return following("blend")


@app.command(name="add", sort_key=5)
def add_(
    name: Annotated[str, Parameter(help="what the member is to be called")],
    *,
    add: Annotated[AddSettings, FLAT] = AddSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Take in predictions that other tools made, once they are checked, as one more member."""
    from ensemble.outside import add_member

    added = add_member(Workspace(top.work), name, add)
    show(f"{added.name}: {added.images:,} out-of-fold and {added.test_images:,} test images, wrote {added.folder}")
    show(*(f"note: {warning}" for warning in added.warnings))
    return following("blend")


@app.command(name="blend", sort_key=6)
def blend_(
    *,
    blend: Blend = BlendSettings(),
    files: Annotated[FileSettings, FLAT, Parameter(group="files")] = FileSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str | None:
    """Find the members' weights on their out-of-fold predictions, and say how much of the gain is real."""
    from ensemble.blend import make_blend
    from ensemble.tables import blend_summary

    if files != FileSettings():
        blend_files_(files, blend, seed=top.seed)
        return None
    made = make_blend(Workspace(top.work), blend, seed=top.seed, track=track())
    show(blend_summary(made), f"wrote {made.path}")
    return following("submit")


def blend_files_(files: FileSettings, blend: BlendSettings, *, seed: int) -> None:
    """Labels and predictions in, CSV out, without a work folder."""
    from ensemble.tables import blend_summary
    from submissions.from_files import blend_files
    from submissions.tables import submission_summary

    made, written = blend_files(files, blend, seed=seed, track=track())
    show(blend_summary(made), submission_summary(written))


@app.command(name="submit", sort_key=7)
def submit_(
    *,
    blend: Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")] = None,
    run: Annotated[str | None, Parameter(help="a single run instead of a blend")] = None,
    submit: Submit = SubmitSettings(),
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> str:
    """Write the CSV with three labels per test image, and check it."""
    from submissions.submission import write_submission
    from submissions.tables import submission_summary

    if blend and run:
        raise UserError("`--blend` and `--run` exclude each other", hint="`python run.py submit --run NAME`")
    result = write_submission(Workspace(top.work), submit, blend=blend, run=run)
    show(submission_summary(result))
    return following("status")


@app.command(name="check", sort_key=8)
def check_(file: Path, *, top: TopFlags = Top(), config: Config = KIT_TOML) -> None:
    """Hold any CSV against what the organiser's checker wants."""
    from submissions.check import check_submission

    result = check_submission(file, Workspace(top.work))
    result.refuse_faults()
    show(result.sentence)


@app.command(name="score", sort_key=9)
def score_(
    file: Path,
    *,
    labels: Annotated[Path, Parameter(help="CSV with the true labels: an id and a label column")],
    top: TopFlags = Top(),
    config: Config = KIT_TOML,
) -> None:
    """The top-1 and top-3 error of a CSV whose true labels you have."""
    from submissions.layout import read_layout
    from submissions.score import promised_error, score_submission

    workspace = Workspace(top.work)
    show(score_submission(file, labels, read_layout(workspace)).sentence)
    promised = promised_error(file)
    if promised is not None:
        show(f"the blend had promised a top-3 error of {promised:.4f}")


@app.command(name="status", sort_key=10)
def status_(*, train: Train = TrainSettings(), top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """Runs x folds with their score, what is missing, and the next command."""
    from folds.assignment import load_folds
    from models.runs import runs
    from models.tables import status_table
    from submissions.status import what_is_missing

    workspace = Workspace(top.work)
    is_asked_for = KIT.toml.runs or KIT.origin("backbone") != "default"
    planned = [plan.name for plan in plans(train)] if is_asked_for or not runs(workspace) else runs(workspace)
    missing, command = what_is_missing(workspace, planned)
    n_folds = load_folds(workspace).n_folds if workspace.folds_csv.is_file() else None
    show(status_table(workspace, planned, n_folds=n_folds), *missing)
    return following(command)


@app.command(name="settings", sort_key=11)
def settings_(*, every: Annotated[Every, FLAT] = Every(), config: Config = KIT_TOML) -> None:
    """Print all settings as commented TOML, and where each value comes from."""
    values = [(one.name, getattr(every, one.name)) for one in fields(Every)]
    origin = {one.name: KIT.origin(one.name) for _, settings in values for one in fields(settings)}
    sys.stdout.write(to_toml(values, origin=origin, runs=KIT.toml.runs))


@app.command(name="demo", sort_key=12)
def demo_(*, top: TopFlags = Top(), config: Config = KIT_TOML) -> str:
    """The whole way on data that it makes, on a CPU, without a download; then the score on labels kept aside."""
    from folds.demo import make_demo

    data, kept_aside = make_demo(top.work / "demo", seed=top.seed)
    show(f"a small competition of handwritten digits lies in {data}")
    work = top.work / "demo" / "work"
    for line in (
        ("all", data, "--config", os.path.relpath(EXAMPLES / "demo.toml"), "--work", work, "--seed", top.seed),
        ("score", work / "submissions" / "blend.csv", "--labels", kept_aside, "--work", work),
    ):
        words = [str(word) for word in line]
        show(f"> python run.py {' '.join(words)}")
        app(words, exit_on_error=False, print_error=False)
    return "python run.py all DATA"


def plans(train: TrainSettings, *, names: Sequence[str] = ()) -> list[RunPlan]:
    from models.runs import plan_runs

    return plan_runs(train, KIT.run_settings(train), names=names)


def track() -> Track:
    from rich.console import Console

    from folds.screen import track_on

    return track_on(Console(stderr=True))


def show(*parts: RenderableType) -> None:
    """Print results; 120 columns wide where there is no terminal."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=120)
    for part in parts:
        console.print(part, markup=False)


def following(command: str) -> str:
    """The next command to type, with what it needs to find the same work folder and settings again."""
    return f"python run.py {command}{KIT.same_place}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 a mistake that the user can mend, 130 Ctrl-C."""
    try:
        then = app(arguments, exit_on_error=False, print_error=False)
    except UserError as err:
        return refuse(err.message, err.hint)
    except CycloptsError as err:
        message, _, near = str(err).partition(" Did you mean ")
        message = message.rstrip(".").replace(". Must", ": it must").replace(". Choose", ": choose")
        return refuse(message, f"did you mean {near.split('?')[0]}?" if near else "`python run.py --help`")
    except KeyboardInterrupt:
        return refuse("stopped by Ctrl-C", "the same command goes on where it was stopped") and 130
    if isinstance(then, str):
        show(f"next: {then}")
    return 0


def refuse(message: str, hint: str | None) -> int:
    """Say what is wrong and what to type, with the flags that find the same work folder; returns 2."""
    import re

    from rich.console import Console

    hint = re.sub(r"python run\.py (?!settings)\w+", lambda found: f"{found[0]}{KIT.same_place}", hint or "")

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {message}", markup=False, style="red")
    if hint:
        console.print(f"hint: {hint}", markup=False)
    return 2


if __name__ == "__main__":
    sys.exit(main())
