"""Runs: what one is to be, what is stored of it, which folds are done. It needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace, read_json
from models.settings import TrainSettings
from models.watch.events import EpochRow, JobKey

# Of the settings, what settings.json lacks: another `train` under a run's name must have the same settings.json. The
# first three are in it as tag and digest; the others change how a network is trained and not what.
NOT_COMPARED = ("backbone", "weights", "pretrained", "device", "compile", "micro_batch")
CHOSEN = "chosen_precision"  # in settings.json: what `--precision auto` was on the CPU where the run was begun
# The `kind` in settings.json of a run that has no network of its own: heads on a frozen backbone, or a memory of the
# training images' features, in which the nearest neighbours are looked up.
PROBE, KNN = "probe", "knn"
Kind = Literal["probe", "knn"]
SIDE_BY_SIDE = "+"  # between the backbones of one probe
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # no `+` and no `:`, which the blend's own names have
BLEND = "blend"  # the name of the blend's CSV


@dataclass(frozen=True)
class RunPlan:
    """A run that is to exist: one backbone with one set of settings over all folds.

    backbone  a name; of a probe perhaps several, as `a+b`
    is_named  whether the user gave the name with `--run`
    """

    name: str
    backbone: str
    weights: Path | None
    settings: TrainSettings
    is_named: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether its networks start from weights, local or downloaded, and not from scratch."""
        return self.weights is not None or self.settings.pretrained

    @property
    def parts(self) -> list[RunPlan]:
        """A plan for each backbone of `a+b`, with its own weights; of one backbone the plan itself."""
        names = self.backbone.split(SIDE_BY_SIDE)
        if len(names) == 1:
            return [self]
        single = [dataclasses.replace(self.settings, backbone=(name,)) for name in names]
        return [RunPlan(self.name, one.backbone[0], _weights_file(one), one) for one in single]


def plan_runs(
    settings: TrainSettings, tables: Mapping[str, TrainSettings], *, names: Sequence[str] = ()
) -> list[RunPlan]:
    """The runs that the settings ask for.

    tables  the `[run.NAME]` tables of kit.toml; where there are none, each backbone is a run that bears its name
    names   `--run`: picks among the tables, or names the only backbone's run
    """
    if tables:
        unknown = [name for name in names if name not in tables]
        if unknown:
            raise UserError(
                f"kit.toml has no run {first_few(unknown)}; it has {', '.join(tables)}", hint="`[run.NAME]`"
            )
        return [_plan(name, tables[name]) for name in tables if not names or name in names]
    if not settings.backbone:
        raise UserError("there is no backbone to train: the list of `backbone` is empty", hint="`--backbone resnet50`")
    if names and (len(names) > 1 or len(settings.backbone) > 1):
        raise UserError(
            f"`--run {','.join(names)}` names a run of one backbone, but there are {len(settings.backbone)}: "
            f"{', '.join(settings.backbone)}",
            hint=f"`python run.py train --backbone {settings.backbone[0]} --run {names[0]}`",
        )
    single = [dataclasses.replace(settings, backbone=(name,)) for name in settings.backbone]
    if names:
        return [dataclasses.replace(_plan(names[0], single[0]), is_named=True)]
    return [_plan(one.backbone[0].replace("/", "-"), one) for one in single]


def sibling(plan: RunPlan, *, seed: int, folds_seed: int) -> RunPlan:
    """The plan under a name of its own where its seed is another than that of the folds, unless the user named it.

    Runs that differ in nothing but their seed are one member of a blend.
    """
    if seed == folds_seed or plan.is_named:
        return plan
    return dataclasses.replace(plan, name=f"{plan.name}-seed{seed}")


def as_probe(plan: RunPlan) -> RunPlan:
    """The plan under the name of its probe, unless the user named it."""
    return plan if plan.is_named else dataclasses.replace(plan, name=f"{plan.name}-{PROBE}")


def knn_name(run: str) -> str:
    """The run that looks images up by the features of another run."""
    return f"{run}-{KNN}"


def begun_settings(workspace: Workspace, run: str) -> Iterator[dict[str, Any]]:
    """settings.json of each fold of a run that was begun."""
    for path in sorted((workspace.models / run).glob("fold*/settings.json")):
        yield read_json(path, hint=f"remove {path.parent} to train it anew")


def flat_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A settings.json in one level."""
    return {**{key: value for key, value in stored.items() if key != "settings"}, **stored.get("settings", {})}


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Those of the settings `now` that were others before, such as `lr 0.1 -> 0.2`; empty if none were."""
    changed = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    return first_few(changed, most=4)


def changed_since_begun(workspace: Workspace, plan: RunPlan) -> str:
    """What a plan sets otherwise than its run was begun with, such as `lr 0.1 -> 0.2`; None stands for any value."""
    stored = next(begun_settings(workspace, plan.name), {}).get("settings", {})
    said = {key: value for key, value in dataclasses.asdict(plan.settings).items() if value is not None}
    return changed_settings(stored, {key: said[key] for key in said if key in stored})


def kind_of(workspace: Workspace, run: str) -> Kind | None:
    """What a run without a network of its own is; None of trained networks."""
    return next((stored.get("kind") for stored in begun_settings(workspace, run)), None)


def looked_up_by(workspace: Workspace, run: str) -> str:
    """The run by whose features a run of neighbours looks images up."""
    return str(next(begun_settings(workspace, run))["settings"]["of"])


def torn_probes(workspace: Workspace, *, n_folds: int) -> list[str]:
    """The probes and lookups that lack a fold, because they failed on the way."""
    made = [name for name in runs(workspace) if kind_of(workspace, name) is not None]
    return [name for name in made if len(done_folds(workspace, name)) < n_folds]


def own_size(workspace: Workspace, run: str) -> int | None:
    """The side in pixels of a run's views that name none; None where nothing here tells it, as of an added member."""
    for stored in begun_settings(workspace, run):
        given = stored["settings"].get("test_size") or stored["settings"].get("image_size")
        if given:
            sizes = [int(size) for size in str(given).split(SIDE_BY_SIDE)]
            return round(sum(sizes) / len(sizes))  # of several backbones
        for path in sorted((workspace.models / run).glob("fold*/log.jsonl")):  # the weights' own, which timm knows
            if rows := read_log(path):
                return rows[-1].image_size
    return None


def refuse_name(name: str, *, what: str, hint: str) -> None:
    """Refuse a name for `what` (a run, a member) that is no plain file name, or whose CSV would be the blend's."""
    if not RUN_NAME.fullmatch(name):
        allowed = "up to 100 letters, digits, `.`, `_` and `-` are allowed, a letter or digit first"
        raise UserError(f"`{name}` is no name for a {what}: {allowed}", hint=hint)
    if name.lower() == BLEND:  # upper and lower case are one file on some systems
        raise UserError(f"`{name}` is no name for a {what}: its CSV would replace the blend's", hint=hint)


def _plan(name: str, settings: TrainSettings) -> RunPlan:
    is_joint = any(SIDE_BY_SIDE in backbone for backbone in settings.backbone)
    checked = name.replace(SIDE_BY_SIDE, "-") if is_joint else name
    refuse_name(checked, what="run", hint="`--run NAME`, or `[run.NAME]` in kit.toml")
    if len(settings.backbone) != 1:
        raise UserError(
            f"the run {name} needs one backbone of its own, and gets {len(settings.backbone)}",
            hint=f'`backbone = "resnet50"` in [run.{name}]',
        )
    return RunPlan(name, settings.backbone[0], _weights_file(settings), settings)


def named_weights(settings: TrainSettings) -> list[tuple[str, str]]:
    """The backbone, '' for all, and the path of each of `--weights`. A file may have a `=` in its name."""
    pairs = []
    for text in settings.weights:
        backbone, equals, path = text.partition("=")
        pairs.append((backbone, path) if equals and not Path(text).is_file() else ("", text))
    return pairs


def _weights_file(settings: TrainSettings) -> Path | None:
    """The file that `--weights FILE` or `--weights BACKBONE=FILE` names for this backbone."""
    own = [path for backbone, path in named_weights(settings) if backbone in ("", settings.backbone[0])]
    if len(own) > 1:
        raise UserError(
            f"{len(own)} weight files for {settings.backbone[0]}: {', '.join(own)}", hint="`--weights FILE`"
        )
    return Path(own[0]).absolute() if own else None  # a process on Ray has another current folder


def refuse_other_settings(workspace: Workspace, wanted: Mapping[str, Any]) -> None:
    """Refuse a run that was begun with other settings, naming what differs, and the name of an added member."""
    run = wanted["run"]
    if (workspace.members / run).is_dir():
        raise UserError(
            f"{run} is a member that was added, which would be blended instead of the run",
            hint=f"`--run NEW-NAME`, or remove {workspace.members / run}",
        )
    for stored in begun_settings(workspace, run):
        changed = changed_settings(flat_settings(stored), flat_settings(wanted))
        if changed:
            beside = "train a second run beside it (`--run NEW-NAME`, or a table `[run.NEW-NAME]` in kit.toml), or "
            beside = "" if wanted.get("kind") == KNN else beside  # it has the name of the run that it is of
            raise UserError(
                f"the run {run} was begun with other settings: {changed}",
                hint=f"type the settings that it was begun with, or {beside}remove {workspace.models / run} to begin"
                " again",
            )


def chosen_precision(workspace: Workspace, run: str) -> dict[str, str]:
    """What `--precision auto` was for a run that has been begun, by `train` and `forward`; empty if not recorded."""
    return next((dict(stored[CHOSEN]) for stored in begun_settings(workspace, run) if stored.get(CHOSEN)), {})


def runs(workspace: Workspace) -> list[str]:
    """The names of the runs that the work folder holds, begun or done, sorted."""
    return sorted({path.parent.name for path in workspace.models.glob("*/fold*")})


def begun_folds(workspace: Workspace, run: str) -> list[int]:
    """The folds that a run has a folder of, begun or done, ascending."""
    numbers = (path.name[4:] for path in (workspace.models / run).glob("fold[0-9]*"))
    return sorted(int(one) for one in numbers if one.isdecimal())


def done_folds(workspace: Workspace, run: str) -> dict[int, dict[str, Any]]:
    """done.json of every fold of a run that is done, by fold."""
    found = {fold: done_record(workspace, JobKey(run, fold)) for fold in begun_folds(workspace, run)}
    return {fold: done for fold, done in found.items() if done is not None}


def done_refit(workspace: Workspace, run: str) -> dict[str, Any] | None:
    """done.json of a run's refit on all images, which has no out-of-fold predictions; None where it is not done."""
    return done_record(workspace, JobKey(run, None))


def done_parts(workspace: Workspace, run: str) -> list[int | None]:
    """The folds of a run that are done; behind them None where its refit is."""
    return [*done_folds(workspace, run), *([None] if done_refit(workspace, run) else [])]


def done_record(workspace: Workspace, key: JobKey) -> dict[str, Any] | None:
    """done.json of a job; None where it is not done.

    Raises UserError where it is damaged, or was written for another run or fold.
    """
    path, fold = key.folder(workspace) / "done.json", "all" if key.fold is None else key.fold
    if not path.is_file():
        return None
    hint = f"move it back to where it was, or remove {path.parent} and train it again"
    record = read_json(path, hint=hint)
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: it holds no object", hint=hint)
    written_for = record.get("run", key.run), record.get("fold", fold)
    if written_for != (key.run, fold):
        raise UserError(f"{path} was written for {written_for[0]} fold {written_for[1]}", hint=hint)
    return record


def log_line(row: EpochRow) -> str:
    """A line of `log.jsonl`: an epoch's figures as JSON, in which NaN is null."""
    figures = dataclasses.asdict(row).items()
    known = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures}
    return json.dumps(known) + "\n"


def read_log(path: Path) -> list[EpochRow]:
    """The epochs in a `log.jsonl`, none where there is no such file; what follows damage, or a cut, does not count."""
    rows: list[EpochRow] = []
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            rows.append(read_log_line(line))  # noqa: PERF401  # those before the damage stay
    return rows


def read_log_line(line: str) -> EpochRow:
    """The row of a line that `log_line` wrote."""
    known: dict[str, Any] = json.loads(line)
    figures: dict[str, Any] = {key: math.nan if value is None else value for key, value in known.items()}
    return EpochRow(**figures)
