"""Ever cheaper parts of an ensemble, and what each has out of fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ensemble.blend.recipe import Recipe
from ensemble.members.members import Member, Members, read_members
from ensemble.weights.metric import Metric
from submissions.offline.pack_file import Smaller


def smaller_ensembles(
    members: Members, recipe: Recipe, cost: Mapping[str, float], *, drops_views: bool = True
) -> list[Smaller]:
    """The whole ensemble, then one view instead of several, then one member less at a time.

    A member goes whose loss costs the least error for the time that it saves, by the out-of-fold images; what it
    weighed goes to the others in proportion. The weights are those of the blend, so that the errors are in-sample.

    members  of the blend that have weight; recipe: their weights, in this order
    cost         of each member under one view, in any unit
    drops_views  False where views cost nothing, as in bytes
    """
    names = list(members.names)
    n_views = {m.name: len(m.runs[0].views) if drops_views else 1 for m in members.members}
    whole = sum(cost[name] * n_views[name] for name in names)
    found = [Smaller(tuple(names), False, _error(members, recipe, range(len(names))), 1.0)]
    is_one_view = max(n_views.values()) > 1
    if is_one_view:
        members = read_members(members.rows, [_first_view(member) for member in members.members])
        error = _error(members, recipe, range(len(names)))
        found.append(Smaller(tuple(names), True, error, sum(cost.values()) / whole))
    left = list(range(len(names)))
    while len(left) > 1:
        tried = {m: _error(members, recipe, [one for one in left if one != m]) for m in left}
        before = found[-1].oof_top3_error
        gone = min(left, key=lambda m: ((tried[m] - before) / cost[names[m]], names[m]))
        left.remove(gone)
        part = tuple(names[m] for m in left)
        found.append(Smaller(part, is_one_view, tried[gone], sum(cost[name] for name in part) / whole))
    return found


def _first_view(member: Member) -> Member:
    return replace(member, runs=tuple(run.with_view(run.views[0]) for run in member.runs))


def _error(members: Members, recipe: Recipe, kept: Sequence[int]) -> float:
    """The top-3 error of the out-of-fold images under some of the members."""
    metric, chosen, missed = Metric("top-k-error", 3), list(kept), 0.0
    weights = recipe.weights[chosen]
    own = Recipe(recipe.pool, weights * (recipe.weights.sum() / weights.sum()), recipe.bias)
    for piece, probs in members.chunks():
        missed += float(metric.outcomes(own.scores(probs[chosen]), members.rows.target[piece]).sum())
    return missed / len(members.rows)
