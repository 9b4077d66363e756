"""The settings of `blend`, `add` and `table`: one field, one flag, one TOML key, one check.

Imported by `run.py --help`, and therefore without numpy and optuna.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from folds.settings import COMMA_LIST, at_least

MetricName = Literal["top-k-error", "accuracy", "map", "log-loss"]
SamplerName = Literal["cma", "tpe", "random"]


@Parameter(name="*", group="blend")
@dataclass(frozen=True)
class BlendSettings:
    members: Annotated[
        tuple[str, ...] | None, COMMA_LIST, Parameter(help="runs to blend, by name; all that are done if not given")
    ] = None
    metric: Annotated[MetricName, Parameter(help="what the blend is chosen by")] = "top-k-error"
    k: Annotated[int, at_least(1, at_most=100, help="how many labels count, for top-k-error and map")] = 3
    trials: Annotated[int, at_least(16, help="Optuna trials per search")] = 200
    sampler: Annotated[SamplerName, Parameter(help="the Optuna sampler that proposes weights")] = "cma"
    half_samples: Annotated[
        int, at_least(1, at_most=256, help="half-samples that searched weights are averaged over")
    ] = 16
    keep: Annotated[str | None, Parameter(help="keep this candidate, whatever the scores say")] = None
    member_views: Annotated[
        tuple[str, ...] | None, COMMA_LIST, Parameter(help="views that every member averages; all if not given")
    ] = None
    separate_views: Annotated[
        bool, Parameter(help="let every view of a member have a weight of its own, so that the fit chooses the views")
    ] = False
    separate_seeds: Annotated[
        bool, Parameter(help="let runs that differ in nothing but their seed enter one by one, not as one member")
    ] = False
    private_share: Annotated[
        float, at_least(0.001, at_most=1, help="share of the test images that the private score is of")
    ] = 1.0
    partial: Annotated[bool, Parameter(help="blend runs that lack folds, by the folds that all of them have")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class AddSettings:
    oof: Annotated[str | None, Parameter(help="out-of-fold predictions: .csv, .npz or .npy")] = None
    test: Annotated[str | None, Parameter(help="test predictions: .csv, .npz or .npy")] = None
    oof_ids: Annotated[str | None, Parameter(help="ids of the --oof rows, one a line (for .npy)")] = None
    test_ids: Annotated[str | None, Parameter(help="ids of the --test rows, one a line (for .npy)")] = None
    class_names: Annotated[str | None, Parameter(help="classes of the columns, one a line (for .npy)")] = None
    logits: Annotated[bool, Parameter(help="the numbers are logits, not probabilities")] = False
    trust_folds: Annotated[
        bool,
        Parameter(help="the rows were predicted out of fold, though on other folds than those of this work folder"),
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class TableSettings:
    name: Annotated[str, Parameter(help="what the member is to be called")] = "table"
    columns: Annotated[
        tuple[str, ...] | None,
        COMMA_LIST,
        Parameter(help="columns to learn from, even if they say the label by themselves; all others if not given"),
    ] = None
    from_manifest: Annotated[
        bool, Parameter(help="learn from width, height, bytes, format and mode of the files too: they may be a leak")
    ] = False
    rounds: Annotated[int, at_least(1, help="most rounds of boosting, each of one tree for every class")] = 500
    learning_rate: Annotated[float, at_least(0.001, at_most=1, help="what each round counts for")] = 0.2
    leaves: Annotated[int, at_least(2, at_most=255, help="most leaves of a tree")] = 4
    l2: Annotated[float, at_least(0, help="penalty on the values of leaves: at 0, rare classes diverge")] = 10.0


@Parameter(name="*", group="files")
@dataclass(frozen=True)
class FileSettings:
    labels: Annotated[
        str | None, Parameter(help="CSV of ids and labels: blend the --member files alone, without a work folder")
    ] = None
    member: Annotated[
        tuple[str, ...],
        COMMA_LIST,
        Parameter(help="[NAME=]OOF:TEST, each .csv or .npz as in `add`; once for each member"),
    ] = ()
    sample_csv: Annotated[str | None, Parameter(help="sample submission for the CSV's header, ids and order")] = None
    out: Annotated[str, Parameter(help="the CSV to write from --labels and --member")] = "submission.csv"
    blend_folds: Annotated[
        int,
        at_least(2, at_most=100, help="folds that the blend is cross-fitted on where --labels has no column `fold`"),
    ] = 5
    logits: Annotated[bool, Parameter(help="the numbers in the --member files are logits, not probabilities")] = False
