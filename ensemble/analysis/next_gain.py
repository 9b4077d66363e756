"""Says where the next gain is: what each member gives for its hours, and what one more can be expected to bring.

Estimates by the power law of ensembles with exponent 1: the loss of s members or networks that are equally good and err
alike is a + b / s (Lobacheva et al. 2020 measured exponents near to it). b comes from what is known: the loss without
each member, and what the mean of all networks gains over one. docs/expected.md has how far the estimates were off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from rich.table import Table
from rich.text import Text

from ensemble.blend.blend_json import Blend, load_blend
from ensemble.weights.metric import TOP3
from folds.base.errors import UserError
from folds.base.terminal import figures
from folds.base.workspace import Workspace, read_json
from folds.split.assign import load_folds

SHOWN_HOURS = 1 / 60  # what took less than a minute has no rate that means anything


@dataclass(frozen=True)
class NextGain:
    """What something costs and gives. gain: by how much the top-3 error falls; below 0 it rises.

    hours  of training and prediction, by what `done.json` records; 0 for members of other tools
    """

    what: str
    hours: float
    gain: float

    @property
    def per_hour(self) -> float | None:
        return self.gain / self.hours if self.hours else None


def next_gains(workspace: Workspace) -> list[NextGain]:
    """A further fold or seed of every run and a further member, then each member of the blend, the best an hour first.

    Empty where there is no blend of these folds by top-3 error.
    """
    try:
        blend, folds = load_blend(workspace.blend), load_folds(workspace)
    except UserError:
        return []
    if (blend.folds_digest, blend.metric, blend.k) != (folds.digest, TOP3.name, TOP3.k):
        return []
    spent = {}  # hours of each run: several views of one may be members
    for run in {run for runs in blend.runs.values() for run in runs}:
        done = sorted((workspace.models / run).glob("*/done.json"))
        spent[run] = sum(float(read_json(path, hint="").get("seconds", 0.0)) for path in done) / 3600
    hours = {name: sum(spent[run] for run in runs) for name, runs in blend.runs.items()}
    trained = sum(spent[run] for run in {run for name in blend.runs if blend.weights[name] for run in blend.runs[name]})
    known = [
        NextGain(f"{one.name}, already in the blend", hours[one.name], one.without - blend.crossfit)
        for one in blend.worth
        if one.without is not None
    ]
    ahead = [*_further_networks(blend, trained), *_further_member(blend, hours)]
    return [*ahead, *sorted(known, key=lambda one: (-(one.per_hour or one.gain), one.what))]


def _further_networks(blend: Blend, trained: float) -> list[NextGain]:
    """One more seed of every run, or one more fold where some are lacking: more networks predict each test image.

    trained: hours that the runs with a weight took
    With K = test_networks / oof_networks, gain * oof = b (1 - 1/K) is known, and b/K - b/2K or b/K - b/(K + 1) comes.
    """
    expected = blend.expected_top3
    ratio = expected.test_networks / expected.oof_networks if expected.oof_networks else 1.0
    if ratio <= 1 or not trained or not expected.gain:
        return []
    known = expected.gain * expected.oof / (ratio - 1)  # b / K
    if blend.partial:
        return [NextGain("a further fold of every run", trained / ratio, known / (ratio + 1))]
    return [NextGain("a further seed of every run", trained, known / 2)]


def _further_member(blend: Blend, hours: dict[str, float]) -> list[NextGain]:
    """One more member, as good as those there are on average and as unlike them.

    With M members, the loss without one of them less that of all is b / (M - 1) - b / M, and b / M - b / (M + 1) comes:
    (M - 1) / (M + 1) of it.
    """
    used = [one for one in blend.worth if blend.weights[one.name] > 0]
    without = {one.name: one.without for one in used if one.without is not None}
    n = len(without)
    if n < 2:
        return []
    last = mean(without.values()) - blend.crossfit
    return [NextGain("a further member like these", mean(hours[name] for name in without), last * (n - 1) / (n + 1))]


def gain_table(gains: Sequence[NextGain]) -> Table:
    """One row for each, with what it gives in an hour."""
    table = figures("where the next gain is, estimated", texts=("",), numbers=("hours", "top-3 error", "an hour"))
    for one in gains:
        is_brief = one.per_hour is None or one.hours < SHOWN_HOURS
        per_hour = "-" if is_brief else f"{0 - (one.per_hour or 0.0):+.4f}"
        what = one.what if one.gain > 0 else f"{one.what}: the blend is as good without"
        table.add_row(Text(what), f"{one.hours:.2f}", f"{0 - one.gain:+.4f}", per_hour)
    return table
