"""Chooses what is blended while folds are lacking: the runs and folds that leave no gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from folds.base.errors import UserError, first_few
from folds.base.workspace import Workspace
from models.runs import done_folds, is_probe


@dataclass(frozen=True)
class Choice:
    """Runs that all have these folds, and the runs that are left out since they lack one of them."""

    runs: tuple[str, ...]
    folds: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def choose_parts(
    workspace: Workspace, names: Sequence[str], *, added: frozenset[str], n_folds: int, is_named: bool
) -> Choice:
    """The folds of one run, and all runs that have them too: those that keep the most out-of-fold predictions.

    Predictions of probes are counted last: a probe has every fold within minutes, and must not keep a network out that
    has been trained on some of them.

    added     members from other tools, which have every fold
    is_named  the user named the runs: all of them are blended, by the folds that all of them have
    Weights are only fitted on images that every member was asked about, out of fold. Raises UserError where no fold is
    common to the runs named.
    """
    whole = frozenset(range(n_folds))
    done = {name: whole if name in added else frozenset(done_folds(workspace, name)) & whole for name in names}
    common = frozenset.intersection(*done.values())
    if is_named:
        if not common:
            raise UserError(f"{first_few(sorted(names))} have no fold in common", hint="`--members` with fewer of them")
        return Choice(tuple(names), tuple(sorted(common)))
    trained = {name: has for name, has in done.items() if name in added or not is_probe(workspace, name)}
    folds = max(
        sorted({*done.values(), common} - {frozenset()}, key=sorted),
        key=lambda one: (_worth(one, trained), _worth(one, done)),
    )
    runs = tuple(name for name in names if done[name] >= folds)
    return Choice(runs, tuple(sorted(folds)), tuple(name for name in names if name not in runs))


def _worth(folds: frozenset[int], done: Mapping[str, frozenset[int]]) -> tuple[int, int]:
    """How many out-of-fold predictions the choice keeps, counted in folds; among equals, how many members."""
    n_members = sum(has >= folds for has in done.values())
    return len(folds) * n_members, n_members
