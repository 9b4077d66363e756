"""The command line of Foldblend: each command with its flags, and the room that does it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ensemble.settings import AddSettings, BlendSettings, FileSettings, TableSettings
from folds.base.command_line import KIT_TOML, CommandLine, Config, Place, Room, Shown
from folds.base.errors import Next, UserError
from folds.settings import COMMA_LIST, LimitSettings, PrepareSettings, SplitSettings, at_least
from models.recipes import FROM_FAMILY
from models.runs import RunPlan, plan_runs
from models.settings import EngineSettings, PredictSettings, TrackSettings, TrainSettings
from submissions.settings import Every, InferSettings, PackSettings, ReportSettings, SubmitSettings, Wanted

if TYPE_CHECKING:
    from ensemble import commands as ensemble
    from folds import commands as folds
    from models import commands as models
    from submissions import commands as submissions
else:
    ensemble, folds, models, submissions = map(Room, ("ensemble", "folds", "models", "submissions"))

# GNU OpenMP reads it when torch is imported: how long threads spin before they sleep. A small net on two cores trains
# at 2,080 images/s with this or the default; beside two busy processes at 1,410 to 1,880, by default at 23 to 1,560.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

KIT = CommandLine(Every, help="From a folder of images to a checked top-3 CSV. Start with `python run.py demo`.")
Data = Annotated[Path, Parameter(help="the competition's folder; it is never written to")]
Runs = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="runs, by name")]
Folds = Annotated[tuple[str, ...], COMMA_LIST, Parameter(help="folds: 0,2; `all` trains once more, on all images")]
KeptOut = Annotated[int, at_least(0, help="the fold to keep out")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="where to predict")]
NewName = Annotated[str, Parameter(help="what the member is to be called")]
Csv = Annotated[Path, Parameter(help="with an id column: of all images, or one each of training and test images")]
BlendFile = Annotated[Path | None, Parameter(help="a blend.json; the last one if not given")]
Single = Annotated[str | None, Parameter(help="a single run instead of a blend")]
Labels = Annotated[Path, Parameter(help="CSV with the true labels: an id and a label column")]
PackFile = Annotated[Path, Parameter(help="what `pack` wrote: the file, or a folder with what was in it")]
Pictures = Annotated[Path, Parameter(help="folder of the pictures; it is never written to")]
AsJson = Annotated[bool, Parameter(negative=(), help="print it as one JSON object, for scripts")]
ImageId = Annotated[str, Parameter(help="of a training or a test image, as in work/folds/manifest.csv")]
Looked = Annotated[str | None, Parameter(help="the run to look into; the first in weight if not given")]
Member = Annotated[str, Parameter(help="a run or an added member")]


@KIT.command(0, name="all")
def all_(data: Data, *, every: Every, config: Config = KIT_TOML) -> Shown:
    """Prepare, split, probe, train every backbone x fold, blend, submit; goes on where it was stopped."""
    yield from submissions.whole_way(data, every, plans(every.train), screen=KIT.screen)


@KIT.command(1)
def prepare(data: Data, *, prepare: PrepareSettings, top: Place) -> Shown:
    """Scan and decode every file, find duplicates, write the manifest and the pixel store."""
    todo, views = plans(KIT.in_file().train), KIT.in_file().predict.plain_views
    yield models.prepare(top.workspace, data, prepare, todo, views=views, screen=KIT.screen)
    yield from submissions.foresee_form(top.workspace)
    yield Next("split")


@KIT.command(2)
def split(*, split: SplitSettings, top: Place) -> Shown:
    """Assign every training image to a fold, once."""
    yield folds.split(top.workspace, split, seed=top.seed, screen=KIT.screen)
    yield Next("train")


@KIT.command(3)
def train(
    *,
    train: TrainSettings,
    predict: PredictSettings,
    follow: TrackSettings,
    fold: Folds = (),
    run: Runs = (),
    limit: LimitSettings,
    engine: EngineSettings,
    top: Place,
) -> Shown:
    """Train every fold of every run that is not done, and predict out-of-fold and test images."""
    todo, where, end = plans(train, names=run), top.workspace, limit.deadline()
    yield from models.train(models.Training(where, todo, predict, follow, engine, top.seed, KIT.screen, fold, end))


@KIT.command(3)
def probe(
    *, train: TrainSettings, predict: PredictSettings, run: Runs = (), engine: EngineSettings, top: Place
) -> Shown:
    """Fit the heads of all folds to a frozen backbone's features: a full run after one pass, called NAME-probe."""
    todo, flags = plans(train, names=run), KIT.typed_but("backbone", "run", "views")
    yield from models.probe(top.workspace, todo, predict, engine=engine, flags=flags, screen=KIT.screen)
    yield Next("blend")


@KIT.command(3)
def lr_find(*, train: TrainSettings, fold: KeptOut = 0, run: Runs = (), top: Place) -> Shown:
    """Sweep the learning rate of each run on one fold's training part, and suggest one; nothing else is kept."""
    todo, flags = plans(train, names=run), KIT.typed_but("fold", "lr")
    yield from models.lr_find(top.workspace, todo, fold=fold, seed=top.seed, flags=flags, screen=KIT.screen)


@KIT.command(4)
def predict(
    *, run: Runs = (), predict: PredictSettings, device: Device = "auto", engine: EngineSettings, top: Place
) -> Shown:
    """Predict out-of-fold and test images again from the checkpoints, without training."""
    yield from models.predict(top.workspace, run, predict, device=device, engine=engine, screen=KIT.screen)
    yield Next("blend")


@KIT.command(4)
def knn(*, run: Runs = (), predict: PredictSettings, train: TrainSettings, engine: EngineSettings, top: Place) -> Shown:
    """Look every image up among the training images, by the features of probes or trained runs: runs called RUN-knn."""
    todo, device = plans(train), train.device
    yield from models.knn(top.workspace, run, todo, predict, device=device, engine=engine, screen=KIT.screen)
    yield Next("blend")


@KIT.command(4)
def views(*, run: Runs = (), top: Place) -> Shown:
    """What each view of test-time augmentation adds out of fold, and what it costs; proposes the set that pays."""
    yield from ensemble.views(top.workspace, run, KIT.screen)


@KIT.command(5)
def add(name: NewName, *, add: AddSettings, top: Place) -> Shown:
    """Take in predictions that other tools made, once they are checked, as one more member."""
    yield from ensemble.add(top.workspace, name, add, screen=KIT.screen)
    yield Next("blend")


@KIT.command(5)
def table(*csv: Csv, table: TableSettings, top: Place) -> Shown:
    """Make one more member out of columns beside the images (place, camera, time), by gradient-boosted trees."""
    yield from ensemble.table(top.workspace, csv, table, seed=top.seed, screen=KIT.screen)
    yield Next("blend")


@KIT.command(6)
def blend(*, blend: BlendSettings, files: FileSettings, top: Place) -> Shown:
    """Find the members' weights on their out-of-fold predictions, and say how much of the gain is real."""
    if files != FileSettings():
        yield from submissions.blend_files(files, blend, seed=top.seed, screen=KIT.screen)
    else:
        yield from ensemble.blend(top.workspace, blend, seed=top.seed, screen=KIT.screen)
        yield Next("submit")


@KIT.command(7)
def submit(*, blend: BlendFile = None, run: Single = None, submit: SubmitSettings, top: Place) -> Shown:
    """Write the CSV with three labels per test image, and check it."""
    yield submissions.submit(top.workspace, submit, screen=KIT.screen, blend=blend, run=run)
    yield Next("report")


@KIT.command(8)
def check(file: Path, *, top: Place) -> Shown:
    """Compare any CSV with what the organiser's checker wants."""
    yield submissions.check(top.workspace, file)


@KIT.command(9)
def score(file: Path, *, labels: Labels, top: Place) -> Shown:
    """The top-1 and top-3 error of a CSV whose true labels you have."""
    yield from submissions.score(top.workspace, file, labels)


@KIT.command(9)
def pack(*, pack: PackSettings, train: TrainSettings, top: Place) -> Shown:
    """Write the blend with its networks as one file, which predicts any pictures offline."""
    yield from submissions.pack(top.workspace, pack, plans(train), device=train.device, screen=KIT.screen)


@KIT.command(9)
def infer(pack: PackFile, pictures: Pictures, *, infer: InferSettings, config: Config = KIT_TOML) -> Shown:
    """Predict pictures with a pack and write a checked CSV; needs no work folder and no network."""
    yield from submissions.infer(pack, pictures, infer, screen=KIT.screen)


@KIT.command(10)
def status(*, json: AsJson = False, train: TrainSettings, top: Place) -> Shown:
    """Runs x folds with their score, what is missing, and the next command."""
    if json:
        sys.stdout.write(submissions.status_for_scripts(top.workspace, wanted(top, train), same_place=KIT.same_place))
    else:
        yield from submissions.status(top.workspace, wanted(top, train))


@KIT.command(10)
def report(*, report: ReportSettings, train: TrainSettings, top: Place) -> Shown:
    """Write work/report/index.html: scores, data, training, mistakes, blend and test set on one page."""
    place, looked_for = KIT.relative_place, wanted(top, train)
    yield from submissions.report(top.workspace, report, looked_for, screen=KIT.screen, same_place=place)


@KIT.command(10)
def explain(image_id: ImageId, *, run: Looked = None, top: Place) -> Shown:
    """What every member and the blend say of one image, and where a network looks, as a picture in work/report."""
    yield from ensemble.explain(top.workspace, image_id, run=run)


@KIT.command(10)
def compare(run_a: Member, run_b: Member, *, top: Place) -> Shown:
    """Which of two runs is better out of fold, on the same images: paired differences, and the images that changed."""
    yield ensemble.compare(top.workspace, run_a, run_b)


@KIT.command(11)
def settings(*, every: Every, config: Config = KIT_TOML) -> Shown:
    """Print all settings as commented TOML, and where each value comes from."""
    from models.jobs.plan import family_remark

    try:
        remarks = [family_remark(every.top.workspace, plan, every.predict) for plan in plans(every.train)]
    except UserError as err:  # settings may be half written: training with them is refused
        remarks = [err.message]
    sys.stdout.write(KIT.to_toml(every, elsewhere=dict.fromkeys(FROM_FAMILY, "the backbone's family"), remarks=remarks))
    return ()


@KIT.command(12)
def demo(*, top: Place) -> Shown:
    """The whole way on data that it makes, on a CPU, without a download; then the score on labels kept aside."""
    for words, said in submissions.demo(top.work / "demo", seed=top.seed):
        yield from [*said, f"> python run.py {' '.join(words)}"]
        KIT.run(words)
    yield "next: python run.py all DATA"


def wanted(top: Place, train: TrainSettings) -> Wanted:
    """What the user asks for by name; where nobody asked, the runs that are there. Not the flags that `split` had."""
    there = [] if KIT.toml.runs or KIT.origin("backbone") != "default" else submissions.runs_there(top.workspace)
    todo = plans(train)
    return Wanted(there or [plan.name for plan in todo], todo, KIT.toml.flat)


def plans(train: TrainSettings, *, names: Sequence[str] = ()) -> list[RunPlan]:
    return plan_runs(train, KIT.run_settings(train), names=names)


main = KIT.main

if __name__ == "__main__":
    KIT.run_and_exit()
