"""Plans the jobs of every run, refuses early what cannot be done, and has the jobs done."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from folds.base.config_file import toml_value
from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, digest, sweep
from folds.engine import SEQUENTIAL, EngineSettings
from folds.pixels.store import open_store
from folds.split.assign import Folds, load_folds
from models.backbones import Backbone, build_network, find_traits, find_weights, resolve_backbone
from models.input.sizes import refuse_odd_sizes, train_size
from models.input.views import check_views
from models.jobs.ray import executor_for
from models.jobs.work import do_jobs
from models.recipes import FullSettings, find_family, from_family, full_settings
from models.runs import RunPlan, done_folds, done_refit, refuse_other_settings, sibling, stored_settings
from models.settings import PredictSettings
from models.train.fold import Job
from models.train.lr_find import FoundRate, find_rate
from models.watch.events import Happened

Fold: TypeAlias = int | None  # None stands for the refit on all images


@dataclasses.dataclass(frozen=True)
class RunJobs:
    """A run's jobs: folds in order, and its refit on all images, or None where that was not asked for."""

    plan: RunPlan
    folds: tuple[Job, ...]
    refit: Job | None


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
    check_views(predict.views)
    wanted = _check_folds(only_folds, folds.n_folds)
    runs = _plan_all(workspace, plans, folds, wanted, seed=seed)
    sweep(workspace.features)
    executor = executor_for(engine, track)
    yield from do_jobs(executor, workspace, [job for run in runs for job in run.folds], predict, engine)
    every = set(range(folds.n_folds))
    refits = [run.refit for run in runs if run.refit and done_folds(workspace, run.plan.name).keys() >= every]
    yield from do_jobs(executor, workspace, refits, predict, engine)


def refuse_runs(workspace: Workspace, plans: Sequence[RunPlan], *, seed: int) -> None:
    """Refuse what `train_runs` would refuse before its first step, where something else comes before it."""
    folds = load_folds(workspace)
    _plan_all(workspace, plans, folds, range(folds.n_folds), seed=seed)


def _plan_all(
    workspace: Workspace, plans: Sequence[RunPlan], folds: Folds, wanted: Sequence[Fold], *, seed: int
) -> list[RunJobs]:
    """The jobs of all runs, those with another seed than the folds under the names of siblings."""
    siblings = [sibling(plan, seed=seed, folds_seed=folds.seed) for plan in plans]
    return [plan_run(workspace, plan, folds, wanted, seed=seed) for plan in siblings]


def find_rates(
    workspace: Workspace, plans: Sequence[RunPlan], *, fold: int, seed: int, track: Track = silently
) -> Iterator[FoundRate]:
    """Sweep the learning rates of every run on the training part of one fold."""
    folds, store = load_folds(workspace), open_store(workspace)
    _check_folds([fold], folds.n_folds)
    plans = [sibling(plan, seed=seed, folds_seed=folds.seed) for plan in plans]
    for plan in plans:
        job = plan_job(workspace, plan, folds, fold, seed=seed)
        yield find_rate(workspace, job, folds, store, track=track)


def refuse_early(workspace: Workspace, plans: Sequence[RunPlan], predict: PredictSettings) -> None:
    """Refuse, before anything is prepared, what needs no folds for it: names, views, weights that are not here."""
    check_views(predict.views)
    for plan in plans:
        backbone = resolve_backbone(plan.backbone)
        refuse_odd_sizes(plan.settings, backbone)
        weights_name(plan)
        if not done_folds(workspace, plan.name):
            find_start(plan, backbone)


def _check_folds(only: Sequence[Fold], n_folds: int) -> list[Fold]:
    outside = [fold for fold in only if fold is not None and not 0 <= fold < n_folds]
    if outside:
        raise UserError(
            f"there is no fold {first_few(outside)}: there are {n_folds}, 0 to {n_folds - 1}", hint="`--fold 0`"
        )
    refit: list[Fold] = [None] if None in only else []
    return (sorted({fold for fold in only if fold is not None}) if only else list(range(n_folds))) + refit


def plan_run(workspace: Workspace, plan: RunPlan, folds: Folds, wanted: Sequence[Fold], *, seed: int) -> RunJobs:
    """A run's jobs, once everything about them is checked."""
    done: set[Fold] = set(done_folds(workspace, plan.name))
    if None in wanted:
        _refuse_refit_alone(plan, folds, there=done | set(wanted))
    lacking = set(wanted) - done - ({None} if done_refit(workspace, plan.name) else set())
    job = plan_job(workspace, plan, folds, None, seed=seed, is_to_train=bool(lacking))
    refuse_other_settings(workspace, job.settings_json)
    jobs = tuple(dataclasses.replace(job, fold=fold) for fold in wanted if fold is not None)
    return RunJobs(plan, jobs, job if None in wanted else None)


def plan_job(
    workspace: Workspace, plan: RunPlan, folds: Folds, fold: Fold, *, seed: int, is_to_train: bool = True
) -> Job:
    """One job, its backbone, sizes and weights checked; a job that is not to train needs no weights."""
    backbone = resolve_backbone(plan.backbone)
    refuse_odd_sizes(plan.settings, backbone)
    weights = find_start(plan, backbone) if is_to_train else None
    settings = full_of(plan, folds)
    settings_json = stored_settings(
        plan, settings, tag=backbone.tag, weights_digest=weights_name(plan), seed=seed, folds_digest=folds.digest
    )
    if is_to_train:  # a trial: a wrong file or size is refused now, and not after hours of another run
        size = min(train_size(settings, backbone), settings.start_size or train_size(settings, backbone))
        build_network(backbone, len(folds.classes), size=size, weights=weights, drop_path=settings.drop_path)
    weights_digest = digest(weights.read_bytes()) if weights else ""
    return Job(plan, settings, backbone, weights, fold, seed, settings_json, weights_digest)


def full_of(plan: RunPlan, folds: Folds) -> FullSettings:
    """The settings of a plan, what they lack filled in for its backbone and the images that train a fold."""
    return _full(plan, resolve_backbone(plan.backbone).tag, n_train=_n_train(folds))


def _n_train(folds: Folds) -> int:
    """Images in a fold's training part, about: the same number for all folds, since they share their settings."""
    return len(folds.image_id) - len(folds.image_id) // folds.n_folds


def _full(plan: RunPlan, tag: str, *, n_train: int) -> FullSettings:
    traits = find_traits(tag)
    has = {"has_weights": plan.has_weights, "has_drop_path": traits.has_drop_path, "takes_head": traits.has_one_head}
    return full_settings(plan.settings, tag=tag, n_train=n_train, **has)


def family_remark(workspace: Workspace, plan: RunPlan) -> str:
    """What a run's settings get from its backbone's family, in a line; epochs once there are folds to count."""
    try:
        tag = resolve_backbone(plan.backbone).tag
        n_train = _n_train(load_folds(workspace)) if workspace.folds_csv.is_file() else None
    except UserError as err:
        return f"{plan.name}: {err.message}"
    full = _full(plan, tag, n_train=n_train or 1)
    given = {key: toml_value(value) for key, value in from_family(plan.settings, full).items()}
    if "epochs" in given and n_train is None:
        given["epochs"] = "by the number of images, once `split` has counted them"
    family = find_family(tag, has_weights=plan.has_weights).name
    return f"{plan.name} ({family}): {', '.join(f'{key} = {value}' for key, value in given.items()) or 'all is given'}"


def _refuse_refit_alone(plan: RunPlan, folds: Folds, *, there: set[Fold]) -> None:
    lacking = sorted(set(range(folds.n_folds)) - {fold for fold in there if fold is not None})
    if lacking:
        raise UserError(
            f"a refit on all images takes its weight in the blend from the run's folds, and {plan.name} lacks "
            f"{'fold' if len(lacking) == 1 else 'folds'} {first_few(lacking)}",
            hint=f"`--fold {','.join(map(str, lacking))},all`",
        )


def find_start(plan: RunPlan, backbone: Backbone) -> Path | None:
    """The weights file that the plan's networks start from; None for a random start."""
    return plan.weights or (find_weights(backbone) if plan.settings.pretrained else None)


def weights_name(plan: RunPlan) -> str:
    """The digest of a local file; `pretrained` stands for the tag's own, `random` for none."""
    if plan.weights is None:
        return "pretrained" if plan.settings.pretrained else "random"
    try:
        return digest(plan.weights.read_bytes())
    except OSError as err:
        raise UserError(
            f"the weights file {plan.weights} cannot be read: {err.strerror}", hint="`--weights FILE`"
        ) from err
