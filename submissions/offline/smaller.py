"""Ever cheaper parts of an ensemble, and what each has out of fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.members.members import Members, read_members
from ensemble.weights.metric import TOP3
from ensemble.weights.recipe import Recipe
from submissions.offline.pack_file import Smaller

Views = tuple[str, ...]
Kept = Mapping[str, Views]  # the views that are left of each member that is left, by name


@dataclass(frozen=True)
class Parts:
    """What may be left of an ensemble. The weights are those of the blend, so that all errors are in-sample.

    members  of the blend that have weight; recipe: their weights, in this order
    cost     of a run under some views, in any unit, by what it is paid for: what several runs share is paid once
    """

    members: Members
    recipe: Recipe
    cost: Callable[[str, Views], Mapping[str, float]]

    def price(self, kept: Kept) -> float:
        paid: dict[str, float] = {}
        for member in self.members.members:
            if member.name in kept:
                for run in member.runs:
                    paid |= self.cost(run.name, kept[member.name])
        return sum(paid.values())

    def whole(self) -> Smaller:
        kept = {member.name: member.runs[0].views for member in self.members.members}
        return Smaller(kept, self._error(kept), 1.0)

    def fewer(self) -> list[Smaller]:
        """The whole ensemble, then one view less at a time until each member has one, then one member less at a time.

        What goes next is the view (of all members that have another) or the member whose loss costs the least error
        for the time that it saves, by the out-of-fold images. What a member weighed goes to the others in proportion.
        """
        found = [self.whole()]
        while True:
            kept = found[-1].members
            fewer = [
                {name: tuple(view for view in of if view != gone) or of for name, of in kept.items()}  # one view stays
                for gone in dict.fromkeys(view for of in kept.values() for view in of)
            ]
            fewer = [one for one in fewer if one != kept]
            if not fewer:
                return [*found, *self.fewer_members(found[-1])]
            found.append(self._cheapest(found[-1], fewer))

    def fewer_members(self, part: Smaller) -> Iterator[Smaller]:
        """One member less at a time, down to the last one."""
        own = replace(self, members=_under(self.members, part.members))
        while len(part.members) > 1:
            fewer = [{name: of for name, of in part.members.items() if name != gone} for gone in part.members]
            part = own._cheapest(part, fewer)
            yield part

    def _cheapest(self, before: Smaller, fewer: Sequence[Kept]) -> Smaller:
        """The part with the least error more for the time that it saves; the first of equals."""
        whole = self.price(before.members) / before.cost
        tried = [Smaller(kept, self._error(kept), self.price(kept) / whole) for kept in fewer]

        def loss_for_time(one: Smaller) -> float:
            saved = before.cost - one.cost
            return (one.oof_top3_error - before.oof_top3_error) / saved if saved > 0 else np.inf

        return min(tried, key=loss_for_time)

    def _error(self, kept: Kept) -> float:
        """The top-3 error of the out-of-fold images under a part of the members."""
        members, missed = _under(self.members, kept), 0.0
        chosen = [members.names.index(name) for name in kept]
        weights = self.recipe.weights[chosen]
        own = replace(self.recipe, weights=weights * (self.recipe.weights.sum() / weights.sum()))
        for piece, probs in members.chunks():
            missed += float(TOP3.outcomes(own.scores(probs[chosen]), members.rows.target[piece]).sum())
        return missed / len(members.rows)


def _under(members: Members, kept: Kept) -> Members:
    """The same members with these views in use; read anew where they are others. One that goes keeps its views."""
    if all(kept.get(one.name, one.runs[0].views) == one.runs[0].views for one in members.members):
        return members
    fewer = [
        replace(one, runs=tuple(run.with_views(kept.get(one.name, run.views)) for run in one.runs))
        for one in members.members
    ]
    return read_members(members.rows, fewer)
