"""Plans the jobs of every run, refuses early what cannot be done, and does each job by whichever process."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import timm
import torch

from folds.base.config_file import toml_value
from folds.base.errors import CannotWriteError, UserError, first_few
from folds.base.locks import claim, pause
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, sweep
from folds.pixels.store import PixelStore, cached, open_store
from folds.split.assign import Folds, load_folds
from models.backbones import build_network, find_traits, resolve_backbone
from models.input.sizes import predict_size, refuse_odd_sizes, refuse_views, run_views, train_size
from models.jobs.hub import find_start, find_weights, weights_name
from models.jobs.local import MachineError, Task
from models.jobs.ray import run_tasks
from models.recipes import FullSettings, find_family, from_family, full_settings
from models.runs import NOT_COMPARED, RunPlan, done_folds, done_record, done_refit, refuse_other_settings, sibling
from models.settings import SEQUENTIAL, EngineSettings, PredictSettings
from models.train.fold import CHECKPOINT, do_job
from models.train.lr_find import Sweep, find_rate, found_rate
from models.train.trainer import Job
from models.watch.events import FoldDone, FoldHeld, Happened, JobEvent

Fold: TypeAlias = int | None  # None stands for the refit on all images
MANY_IMAGES = 1 << 30  # more than any rule asks for


def train_runs(
    workspace: Workspace,
    plans: Sequence[RunPlan],
    predict: PredictSettings,
    *,
    seed: int,
    only_folds: Sequence[Fold] = (),
    engine: EngineSettings = SEQUENTIAL,
    track: Track = silently,
) -> Generator[Happened, None, None]:
    """Train every fold of every run that is not done, then the refits that are due, and yield what happens.

    engine      one job after another in this process, or side by side on Ray
    only_folds  folds to train, None among them for the refit on all images; all folds and no refit if empty
    Everything that can be refused is refused before the first step: folds, views, names, weights, settings.
    A job that fails afterwards is a FoldFailed, and the others go on. Raises CannotWriteError, TimeUpError and
    KeyboardInterrupt, which concern every job.
    """
    folds = load_folds(workspace)
    open_store(workspace)  # damage is refused here
    _refuse_views(plans, predict)
    _refuse_folds(only_folds, folds.n_folds)
    wanted = wanted_folds(only_folds, folds.n_folds)
    jobs = [job for plan in plans for job in plan_run(workspace, plan, folds, wanted, seed=seed)]
    sweep(workspace.features)
    yield from _do_jobs(workspace, [job for job in jobs if job.fold is not None], predict, engine, track)
    every = set(range(folds.n_folds))
    refits = [job for job in jobs if job.fold is None and done_folds(workspace, job.key.run).keys() >= every]
    yield from _do_jobs(workspace, refits, predict, engine, track)


def refuse_runs(workspace: Workspace, plans: Sequence[RunPlan], *, seed: int) -> None:
    """Refuse what `train_runs` would refuse before its first step, where something else comes before it."""
    folds = load_folds(workspace)
    for plan in plans:
        plan_run(workspace, plan, folds, range(folds.n_folds), seed=seed)


def find_rates(
    workspace: Workspace, plans: Sequence[RunPlan], *, fold: int, seed: int, track: Track = silently
) -> Iterator[tuple[str, Sweep, Path]]:
    """Sweep the learning rates of every run on the training part of one fold: its name, the sweep, and a plot of it."""
    folds, store = load_folds(workspace), open_store(workspace)
    _refuse_folds([fold], folds.n_folds)
    for plan in plans:
        job = plan_job(workspace, sibling(plan, seed=seed, folds_seed=folds.seed), folds, fold, seed=seed)
        yield job.plan.name, *find_rate(workspace, job, folds, store, track=track)


def refuse_early(workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings) -> None:
    """Refuse, before anything is prepared, what needs no folds for it: names, views, weights that are not here."""
    _refuse_views(plans, predict)
    for plan in plans:
        backbone = resolve_backbone(plan.backbone)
        refuse_odd_sizes(plan.settings, backbone)
        weights_name(plan)
        if not done_folds(workspace, plan.name):
            find_start(plan, backbone)


def _refuse_views(plans: Sequence[RunPlan], predict: PredictSettings) -> None:
    for plan in plans:
        backbone = resolve_backbone(plan.backbone)
        refuse_views(predict.plain_views, backbone, own=predict_size(plan.settings, backbone))


def _refuse_folds(only: Sequence[Fold], n_folds: int) -> None:
    outside = [fold for fold in only if fold is not None and not 0 <= fold < n_folds]
    if outside:
        raise UserError(
            f"there is no fold {first_few(outside)}: there are {n_folds}, 0 to {n_folds - 1}", hint="`--fold 0`"
        )


def wanted_folds(only: Sequence[Fold], n_folds: int) -> list[Fold]:
    """The folds to train, the refit last: those that are named, all and no refit where none is."""
    return sorted(set(only) or range(n_folds), key=lambda fold: (fold is None, fold))


def plan_run(workspace: Workspace, plan: RunPlan, folds: Folds, wanted: Sequence[Fold], *, seed: int) -> list[Job]:
    """A run's jobs in the order of `wanted`, once everything about them is checked.

    A run with another seed than the folds has the name of a sibling. A refit needs all folds, done or wanted.
    """
    plan = sibling(plan, seed=seed, folds_seed=folds.seed)
    done: set[Fold] = set(done_folds(workspace, plan.name))
    absent = [fold for fold in range(folds.n_folds) if fold not in done | set(wanted)]
    if None in wanted and absent:
        raise UserError(
            f"a refit on all images takes its weight in the blend from the run's folds, and {plan.name} lacks "
            f"{'fold' if len(absent) == 1 else 'folds'} {first_few(absent)}",
            hint=f"`--fold {','.join(map(str, absent))},all`",
        )
    lacking = set(wanted) - done - ({None} if done_refit(workspace, plan.name) else set())
    job = plan_job(workspace, plan, folds, None, seed=seed, is_to_train=bool(lacking))
    refuse_other_settings(workspace, job.settings_json)
    return [dataclasses.replace(job, fold=fold) for fold in wanted]


def plan_job(
    workspace: Workspace, plan: RunPlan, folds: Folds, fold: Fold, *, seed: int, is_to_train: bool = True
) -> Job:
    """One job, its backbone, sizes and weights checked; a job that is not to train needs no weights."""
    backbone = resolve_backbone(plan.backbone)
    refuse_odd_sizes(plan.settings, backbone)
    weights = find_start(plan, backbone) if is_to_train else None
    settings = full_of(plan, n_train_of(folds))
    settings_json = {
        "run": plan.name,
        "backbone": backbone.tag,
        "weights": weights_name(plan),
        "seed": seed,
        "folds_digest": folds.digest,
        "settings": {name: one for name, one in dataclasses.asdict(settings).items() if name not in NOT_COMPARED},
    }
    if is_to_train:  # a trial: a wrong file or size is refused now, and not after hours of another run
        size = min(train_size(settings, backbone), settings.start_size or train_size(settings, backbone))
        build_network(backbone, len(folds.classes), size=size, weights=weights, drop_path=settings.drop_path)
    weights_digest = digest(weights.read_bytes()) if weights else ""
    return Job(plan, settings, backbone, weights, fold, seed, settings_json, weights_digest)


def n_train_of(folds: Folds) -> int:
    """Images in a fold's training part, about: the same number for all folds, since they share their settings."""
    return len(folds.image_id) - len(folds.image_id) // folds.n_folds


def full_of(plan: RunPlan, n_train: int) -> FullSettings:
    """The settings of a plan, what they lack filled in for its backbone and the images that train a fold."""
    backbone = resolve_backbone(plan.backbone)
    return full_settings(
        plan.settings,
        tag=backbone.tag,
        has_weights=plan.has_weights,
        n_train=n_train,
        size_share=train_size(plan.settings, backbone) / backbone.size,
        **find_traits(backbone.tag),
    )


def family_remark(workspace: Workspace, plan: RunPlan, predict: PredictSettings) -> str:
    """What a run gets from its backbone's family and size, in a line; some of it once there are folds to count."""
    try:
        backbone = resolve_backbone(plan.backbone)
        counted = [n_train_of(load_folds(workspace))] if workspace.folds_csv.is_file() else [1, MANY_IMAGES]
    except UserError as err:
        return f"{plan.name}: {err.message}"
    few, *many = (from_family(plan.settings, full_of(plan, n_train)) for n_train in counted)
    given = {key: toml_value(value) for key, value in few.items()}
    for key in (key for other in many for key in few if few[key] != other[key]):
        given[key] = "by the number of images, once `split` has counted them"
    if predict.views is None:
        given["views"] = toml_value(run_views(predict, plan.settings, backbone, plan.has_weights))
    family = find_family(backbone.tag, has_weights=plan.has_weights).name
    return f"{plan.name} ({family}): {', '.join(f'{key} = {value}' for key, value in given.items()) or 'all is given'}"


def _do_jobs(
    workspace: Workspace, jobs: Sequence[Job], predict: PredictSettings, engine: EngineSettings, track: Track
) -> Iterator[Happened]:
    """Do the jobs that are not done, and yield what happens; the done ones come first."""
    workspace = Workspace(workspace.root.absolute())
    tasks = []
    for job in jobs:
        if done := _done_before(workspace, job):
            yield JobEvent(job.key, done)
            continue
        do = partial(_do_job, workspace, job, predict, engine.cache_root)
        cost = job_cost(job) if engine.is_ray else 0.0
        tasks.append(Task(job.key, job.key.name, do, workspace.lock(str(job.key)), job.settings.device, cost))
    yield from run_tasks(tasks, engine, track)


def job_cost(job: Job) -> float:
    """How long a job takes, in no unit: epochs x parameters x pixels, as if all layers were convolutions."""
    return job.settings.epochs * _parameters(job.backbone.tag) * train_size(job.settings, job.backbone) ** 2


@cache
def _parameters(tag: str) -> int:
    with torch.device("meta"):  # shapes alone
        network = timm.create_model(tag, pretrained=False)
    return sum(parameter.numel() for parameter in network.parameters())


def _do_job(
    workspace: Workspace, job: Job, predict: PredictSettings, cache_folder: Path | None, *, track: Track
) -> Iterator[JobEvent]:
    if done := _done_before(workspace, job):  # by another process, since the plan was made
        yield JobEvent(job.key, done)
        return
    folds, store, job = _open_inputs(workspace, job, cache_folder, track)
    lr, announced = job.settings.lr, None
    while lr == "find":  # one process sweeps for all folds of a run, always on the same one; the others wait for it
        with claim(workspace.lock(f"{job.plan.name}.lr-find")) as holder:
            if holder is None:
                first = job if job.fold is None else dataclasses.replace(job, fold=0)
                lr = found_rate(workspace, first, folds, store, track=track)
                break
        if holder != announced:
            yield JobEvent(job.key, FoldHeld(job.key.name, holder.sentence))
            announced = holder
        pause(track)
    for event in do_job(workspace, job, folds, store, predict, lr=lr, track=track):
        yield JobEvent(job.key, event)


def _open_inputs(
    workspace: Workspace, job: Job, cache_folder: Path | None, track: Track
) -> tuple[Folds, PixelStore, Job]:
    """Folds, pixels, and the job with its weights file on this machine. Raises MachineError."""
    try:
        folds = load_folds(workspace)
        if folds.digest != job.settings_json["folds_digest"]:
            raise UserError(f"{workspace.folds} has other folds here than where the command was typed")
        store = open_store(cached(workspace, cache_folder, track=track))
        path = job.weights
        if path is not None:
            path = path if path.is_file() or job.plan.weights else find_weights(job.backbone)
            if not path.is_file() or digest(path.read_bytes()) != job.weights_digest:
                raise UserError(
                    f"{path} is absent here, or not the file that it is where the command was typed",
                    hint="put it on storage that all machines see, and name it with `--weights FILE`",
                )
        return folds, store, dataclasses.replace(job, weights=path)
    except CannotWriteError:
        raise
    except UserError as err:
        raise MachineError(err.message, hint=err.hint) from err


def _done_before(workspace: Workspace, job: Job) -> FoldDone | None:
    """The event of a job that is done; a checkpoint of a process that was killed right after that is removed."""
    done = done_record(workspace, job.key)
    if not done:
        return None
    with suppress(OSError):  # a read-only folder is read all the same
        (job.key.folder(workspace) / CHECKPOINT).unlink(missing_ok=True)
    return FoldDone.before(done)
