"""Reads and writes `blend.json`: everything that a blend is, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blend.expected import ExpectedScore
from ensemble.blend.member_value import MemberValue
from ensemble.weights.recipe import FLOOR, Pool, Recipe
from folds.base.errors import UserError
from folds.base.workspace import read_json, write_json

VERSION = 3
TIES = "descending score, ties to the lower class"
HINT = "`python run.py blend`"


@dataclass(frozen=True)
class Blend:
    """A blend that can be applied to any predictions of its members. Class and member order never matter: all by name.

    scores  every candidate's losses: {"candidate", "in_sample", "crossfit", "low", "high", "behind", "behind_error"}
    """

    candidate: str
    why: str
    pool: Pool
    weights: Mapping[str, float]  # by member
    bias: Mapping[str, float] | None  # by class
    runs: Mapping[str, tuple[str, ...]]  # the runs that a member averages
    views: Mapping[str, tuple[str, ...]]  # the views in use, by member
    metric: str
    k: int
    crossfit: float  # of the kept candidate, which was chosen on the same images
    in_sample: float
    oof_top3_error: float  # nested, whatever the metric is
    scores: tuple[Mapping[str, Any], ...]
    images: int
    seed: int
    classes: tuple[str, ...]
    folds_digest: str
    files: Mapping[str, Mapping[str, str]]  # by run: the digests of its files
    partial: Mapping[str, Any] | None  # the folds in use and each run's networks, where folds were lacking
    worth: tuple[MemberValue, ...]
    expected: ExpectedScore  # of the test images, by the metric
    expected_top3: ExpectedScore  # the same as a top-3 error: what `submit` and the report show
    gain: Mapping[str, Any]  # {"over", "mean", "low", "high"}: cross-fitted loss less the best member's

    def recipe(self) -> Recipe:
        """The weights as arrays: members in the order of their names, classes in target order."""
        bias = None if self.bias is None else np.array([self.bias[label] for label in self.classes])
        return Recipe(self.pool, np.array([self.weights[name] for name in sorted(self.weights)]), bias)


def save_blend(path: Path, blend: Blend) -> Path:
    """Write a blend, such as `work/ensemble/blend.json`."""
    write_json(path, {"version": VERSION, "ties": TIES, "floor": FLOOR, **asdict(blend)})
    return path


def load_blend(path: Path) -> Blend:
    """Read a blend. Raises UserError where the file is absent, damaged or of another version."""
    stored = read_json(path, hint=HINT)
    version = stored.get("version") if isinstance(stored, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {version}, and this kit reads version {VERSION}", hint=HINT)
    try:
        fields = {name: frozen(stored[name]) for name in Blend.__dataclass_fields__}
        scores = {name: ExpectedScore(**fields[name]) for name in ("expected", "expected_top3")}
        worth = tuple(MemberValue(**one) for one in fields["worth"])
        blend = Blend(**fields | scores | {"worth": worth})
        weights = blend.recipe().weights
    except (KeyError, TypeError, ValueError) as err:
        raise UserError(f"{path} is damaged: {type(err).__name__} {err}", hint=HINT) from err
    known = sorted(blend.runs) == sorted(blend.weights)
    if blend.pool not in ("mean", "log") or not known or not np.isfinite(weights).all() or not (weights >= 0).all():
        raise UserError(f"{path} is damaged: its pool, members or weights are not usable", hint=HINT)
    if weights.sum() <= 0:
        raise UserError(f"{path} is damaged: no member has weight", hint=HINT)
    return blend


def frozen(value: Any) -> Any:
    """JSON's lists as tuples, also inside objects."""
    if isinstance(value, list):
        return tuple(map(frozen, value))
    return {key: frozen(item) for key, item in value.items()} if isinstance(value, dict) else value
