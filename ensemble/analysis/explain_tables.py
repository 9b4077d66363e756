"""Says what members and blend see in one image, as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.analysis.explain import Explained, Guess, K
from folds.base.errors import visible


def explained_summary(said: Explained, no_map: str) -> Group:
    """A row per member and the blend. no_map: why runs have no map, where some have none."""
    table = Table(title=headline(said), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("member")
    for place in range(1, K + 1):
        table.add_column(f"guess {place}")
    if said.label is not None:
        table.add_column("truth", justify="right")
    for one in guesses(said):
        cells = [Text(visible(guess)) for guess in guess_texts(one)]
        cells += [Text("")] * (K - len(cells))
        truth = [f"{one.true_prob:.2f}, place {one.rank}"] if one.rank is not None else []
        table.add_row(one.name, *cells, *truth)
    notes = [f"not asked: {why}" for why in said.left_out] + ([f"no map: {no_map}"] if no_map else [])
    return Group(table, *map(Text, notes))


def headline(said: Explained) -> str:
    """What is known of the image."""
    name = visible(said.image_id)
    if said.label is None:
        return f"{name}, a test image: the mean over each member's networks"
    return (
        f"{name}, labelled {visible(said.label)}, in fold {said.fold}: what networks say that were trained without it"
    )


def guesses(said: Explained) -> list[Guess]:
    """All members', and the blend's as the last one."""
    return [*said.members, *([said.blend] if said.blend else [])]


def guess_texts(one: Guess) -> list[str]:
    """The first guesses with their probabilities."""
    return [f"{label}  {prob:.2f}" for label, prob in zip(one.labels, one.probs, strict=True)]
