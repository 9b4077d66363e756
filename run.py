"""The command line of Foldblend: each command with its flags, and the room that does it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from ensemble.settings import AddSettings, BlendSettings, FileSettings, TableSettings
from folds.base.command_line import FLAT, KIT_TOML, CommandLine, Config, Place, Room
from folds.base.errors import UserError
from folds.base.workspace import Workspace
from folds.engine import EngineSettings
from folds.settings import COMMA_LIST, LimitSettings, PrepareSettings, SplitSettings, at_least
from models.recipes import FROM_FAMILY
from models.settings import PredictSettings, TrackSettings, TrainSettings
from submissions.settings import Every, InferSettings, PackSettings, ReportSettings, SubmitSettings

if TYPE_CHECKING:
    from ensemble import commands as ensemble
    from folds import commands as folds
    from models import commands as models
    from models.runs import RunPlan
    from submissions import commands as submissions
else:
    ensemble, folds, models, submissions = map(Room, ("ensemble", "folds", "models", "submissions"))

# GNU OpenMP reads it when torch is imported: how long threads spin before they sleep. A small net on two cores trains
# at 2,080 images/s with this or the default; beside two busy processes at 1,410 to 1,880, by default at 23 to 1,560.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

KIT = CommandLine(Every)
app = App(
    name="run.py",
    help="Foldblend: from a folder of images to a checked top-3 CSV. Start with `python run.py demo`.",
    config=KIT,
    result_action="return_value",
    version_flags=(),
    suppress_keyboard_interrupt=False,
)
AllSettings = Annotated[Every, FLAT]
Data = Annotated[Path, Parameter(help="the competition's folder; it is never written to")]
Runs = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="runs, by name")]

# A command shows what its room returns, and returns the next command to type where there is one.


@app.command(name="all", sort_key=0)
def all_(data: Data, *, every: AllSettings = Every(), config: Config = KIT_TOML) -> str | None:
    """Prepare, split, probe, train every backbone x fold, blend, submit; goes on where it was stopped."""
    return KIT.show(submissions.whole_way(data, every, plans(every.train), screen=KIT.screen))


@app.command(sort_key=1)
def prepare(data: Data, *, prepare: PrepareSettings = PrepareSettings(), top: Place = Place()) -> str | None:
    """Scan and decode every file, find duplicates, write the manifest and the pixel store."""
    todo, views = plans(KIT.in_file().train), KIT.in_file().predict.views
    return KIT.show([models.prepare(top.workspace, data, prepare, todo, views=views, screen=KIT.screen)], "split")


@app.command(sort_key=2)
def split(*, split: SplitSettings = SplitSettings(), top: Place = Place()) -> str | None:
    """Assign every training image to a fold, once."""
    return KIT.show([folds.split(top.workspace, split, seed=top.seed, screen=KIT.screen)], "train")


@app.command(sort_key=3)
def train(
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
) -> str | None:
    """Train every fold of every run that is not done, and predict out-of-fold and test images."""
    deadline = limit.deadline()
    models.check_folds(fold)
    jobs = models.Training(
        top.workspace, plans(train, names=run), predict, follow, engine, top.seed, KIT.screen, fold, deadline
    )
    return KIT.show(models.train(jobs))


@app.command(sort_key=3)
def probe(
    *,
    train: TrainSettings = TrainSettings(),
    predict: PredictSettings = PredictSettings(),
    run: Runs = (),
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str | None:
    """Fit the heads of all folds to a frozen backbone's features: a full run after one pass, called NAME-probe."""
    todo, flags = plans(train, names=run), KIT.typed_but("backbone", "run", "views")
    return KIT.show(models.probe(top.workspace, todo, predict, engine=engine, flags=flags, screen=KIT.screen), "blend")


@app.command(sort_key=3)
def lr_find(
    *,
    train: TrainSettings = TrainSettings(),
    fold: Annotated[int, at_least(0, help="the fold to keep out")] = 0,
    run: Runs = (),
    top: Place = Place(),
) -> str | None:
    """Sweep the learning rate of each run on one fold's training part, and suggest one; nothing else is kept."""
    todo, flags = plans(train, names=run), KIT.typed_but("fold", "lr")
    return KIT.show(models.lr_find(top.workspace, todo, fold=fold, seed=top.seed, flags=flags, screen=KIT.screen))


@app.command(sort_key=4)
def predict(
    *,
    run: Runs = (),
    predict: PredictSettings = PredictSettings(),
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")] = "auto",
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str | None:
    """Predict out-of-fold and test images again from the checkpoints, without training."""
    return KIT.show(
        models.predict(top.workspace, run, predict, device=device, engine=engine, screen=KIT.screen), "blend"
    )


@app.command(sort_key=4)
def knn(
    *,
    run: Runs = (),
    predict: PredictSettings = PredictSettings(),
    train: TrainSettings = TrainSettings(),
    engine: EngineSettings = EngineSettings(),
    top: Place = Place(),
) -> str | None:
    """Look every image up among the training images, by the features of probes or trained runs: runs called RUN-knn."""
    todo, device = plans(train), train.device
    return KIT.show(
        models.knn(top.workspace, run, todo, predict, device=device, engine=engine, screen=KIT.screen), "blend"
    )


@app.command(sort_key=4)
def views(*, run: Runs = (), top: Place = Place()) -> str | None:
    """What each view of test-time augmentation adds out of fold, and what it costs; proposes the set that pays."""
    return KIT.show(ensemble.views(top.workspace, run, KIT.screen))


@app.command(sort_key=5)
def add(
    name: Annotated[str, Parameter(help="what the member is to be called")],
    *,
    add: Annotated[AddSettings, FLAT] = AddSettings(),
    top: Place = Place(),
) -> str | None:
    """Take in predictions that other tools made, once they are checked, as one more member."""
    return KIT.show(ensemble.add(top.workspace, name, add, screen=KIT.screen), "blend")


@app.command(sort_key=5)
def table(
    *csv: Annotated[
        Path, Parameter(help="with an id column: of all images, or one of the training, one of the test images")
    ],
    table: Annotated[TableSettings, FLAT] = TableSettings(),
    top: Place = Place(),
) -> str | None:
    """Make one more member out of columns beside the images (place, camera, time), by gradient-boosted trees."""
    return KIT.show(ensemble.table(top.workspace, csv, table, seed=top.seed, screen=KIT.screen), "blend")


@app.command(sort_key=6)
def blend(
    *,
    blend: BlendSettings = BlendSettings(),
    files: Annotated[FileSettings, FLAT, Parameter(group="files")] = FileSettings(),
    top: Place = Place(),
) -> str | None:
    """Find the members' weights on their out-of-fold predictions, and say how much of the gain is real."""
    if files != FileSettings():
        return KIT.show(submissions.blend_files(files, blend, seed=top.seed, screen=KIT.screen))
    return KIT.show(ensemble.blend(top.workspace, blend, seed=top.seed, screen=KIT.screen), "submit")


@app.command(sort_key=7)
def submit(
    *,
    blend: Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")] = None,
    run: Annotated[str | None, Parameter(help="a single run instead of a blend")] = None,
    submit: SubmitSettings = SubmitSettings(),
    top: Place = Place(),
) -> str | None:
    """Write the CSV with three labels per test image, and check it."""
    return KIT.show([submissions.submit(top.workspace, submit, screen=KIT.screen, blend=blend, run=run)], "report")


@app.command(sort_key=8)
def check(file: Path, *, top: Place = Place()) -> None:
    """Compare any CSV with what the organiser's checker wants."""
    KIT.show([submissions.check(top.workspace, file)])


@app.command(sort_key=9)
def score(
    file: Path,
    *,
    labels: Annotated[Path, Parameter(help="CSV with the true labels: an id and a label column")],
    top: Place = Place(),
) -> None:
    """The top-1 and top-3 error of a CSV whose true labels you have."""
    KIT.show(submissions.score(top.workspace, file, labels))


@app.command(sort_key=9)
def pack(
    *,
    pack: Annotated[PackSettings, FLAT] = PackSettings(),
    train: TrainSettings = TrainSettings(),
    top: Place = Place(),
) -> None:
    """Write the blend with its networks as one file, which predicts any pictures offline."""
    KIT.show([submissions.pack(top.workspace, pack, plans(train), device=train.device, screen=KIT.screen)])


@app.command(sort_key=9)
def infer(
    pack: Annotated[Path, Parameter(help="what `pack` wrote: the file, or a folder with what was in it")],
    pictures: Annotated[Path, Parameter(help="folder of the pictures; it is never written to")],
    *,
    infer: Annotated[InferSettings, FLAT],
    config: Config = KIT_TOML,
) -> None:
    """Predict pictures with a pack and write a checked CSV; needs no work folder and no network."""
    KIT.show([submissions.infer(pack, pictures, infer, screen=KIT.screen)])


@app.command(sort_key=10)
def status(
    *,
    json: Annotated[bool, Parameter(negative=(), help="print it as one JSON object, for scripts")] = False,
    train: TrainSettings = TrainSettings(),
    top: Place = Place(),
) -> str | None:
    """Runs x folds with their score, what is missing, and the next command."""
    planned = planned_runs(top.workspace, train)
    if not json:
        return KIT.show(submissions.status(top.workspace, planned))
    sys.stdout.write(submissions.status_for_scripts(top.workspace, planned, KIT.following))
    return None


@app.command(sort_key=10)
def report(
    *, report: ReportSettings = ReportSettings(), train: TrainSettings = TrainSettings(), top: Place = Place()
) -> str | None:
    """Write work/report/index.html: scores, data, training, mistakes, blend and test set on one page."""
    workspace = Workspace(Path(os.path.relpath(top.work)))  # a page is passed on: no absolute path may stand in it
    planned = planned_runs(workspace, train)
    return KIT.show(submissions.report(workspace, report, planned, screen=KIT.screen, same_place=KIT.relative_place))


@app.command(sort_key=10)
def explain(
    image_id: Annotated[str, Parameter(help="of a training or a test image, as in work/folds/manifest.csv")],
    *,
    run: Annotated[str | None, Parameter(help="the run to look into; the first in weight if not given")] = None,
    top: Place = Place(),
) -> None:
    """What every member and the blend say of one image, and where a network looks, as a picture in work/report."""
    KIT.show(ensemble.explain(top.workspace, image_id, run=run))


@app.command(sort_key=10)
def compare(
    run_a: Annotated[str, Parameter(help="a run or an added member")],
    run_b: Annotated[str, Parameter(help="the run that it is compared with")],
    *,
    top: Place = Place(),
) -> None:
    """Which of two runs is better out of fold, on the same images: paired differences, and the images that changed."""
    KIT.show([ensemble.compare(top.workspace, run_a, run_b)])


@app.command(sort_key=11)
def settings(*, every: AllSettings = Every(), config: Config = KIT_TOML) -> None:
    """Print all settings as commented TOML, and where each value comes from."""
    from models.jobs.plan import family_remark

    try:
        remarks = [family_remark(every.top.workspace, plan) for plan in plans(every.train)]
    except UserError as err:  # settings may be half written: training with them is refused
        remarks = [err.message]
    elsewhere = dict.fromkeys(FROM_FAMILY, "the backbone's family")
    sys.stdout.write(KIT.to_toml(every, elsewhere=elsewhere, remarks=remarks))


@app.command(sort_key=12)
def demo(*, top: Place = Place()) -> None:
    """The whole way on data that it makes, on a CPU, without a download; then the score on labels kept aside."""
    config = Path(os.path.relpath(Path(__file__).parent / "examples" / "demo.toml"))
    for words, parts in submissions.demo(top.work / "demo", seed=top.seed, config=config):
        KIT.show([*parts, f"> python run.py {' '.join(words)}"])
        KIT.run(app, words)
    KIT.show(["next: python run.py all DATA"])


def planned_runs(workspace: Workspace, train: TrainSettings) -> list[str]:
    """The runs that the user asks for by name; where nobody asked, those that are there."""
    is_asked_for = KIT.toml.runs or KIT.origin("backbone") != "default"
    there = [] if is_asked_for else submissions.runs_there(workspace)
    return there or [plan.name for plan in plans(train)]


def plans(train: TrainSettings, *, names: Sequence[str] = ()) -> "list[RunPlan]":
    from models.runs import plan_runs

    return plan_runs(train, KIT.run_settings(train), names=names)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, see `CommandLine.main`."""
    return KIT.main(app, words)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may not fit the terminal
    KIT.exit(main())
