"""Shows two runs side by side: losses with paired differences, the test, the images that changed."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.analysis.compare import Comparison, SignTest
from folds.base.errors import visible

SHOWN = 5  # changed images of either kind


def comparison_summary(made: Comparison) -> Group:
    """Everything that `compare` says, for a rich console."""
    tables = [loss_table(made)] + ([change_table(made)] if made.changes else [])
    said = [test_sentence(made), f"wrote {made.path}: all {len(made.changes):,} images that only one of them has right"]
    return Group(tables[0], Text(said[0]), *tables[1:], Text(said[1]))


def loss_table(made: Comparison) -> Table:
    """One row per loss: of both runs, and the first one's minus the second one's with its 95% interval."""
    a, b = made.names
    table = Table(
        title=f"{a} and {b} on the same {made.images:,} out-of-fold images", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("")
    for heading in (a, b, "difference", "95% interval"):
        table.add_column(heading, justify="right")
    for one in made.measures:
        difference = one.difference
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        table.add_row(one.name, *(f"{loss:.4f}" for loss in one.losses), f"{difference.mean:+.4f}", interval)
    return table


def test_sentence(made: Comparison) -> str:
    """What McNemar's test says, with the counts that it rests on."""
    (a, b), test = made.names, made.test
    if not test.only_a + test.only_b:
        return "both have the same pictures among their first three"
    return (
        f"only {a} has {test.only_a:,} pictures among its first three, only {b} {test.only_b:,}: {_verdict(made, test)}"
        f" (McNemar's test, exact, copies counted once: p {_p(test.p)})"
    )


def _verdict(made: Comparison, test: SignTest) -> str:
    if test.p >= 0.05:
        return "chance alone makes such a difference often enough"
    return f"{made.names[0 if test.only_a > test.only_b else 1]} is better, and not by chance"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def change_table(made: Comparison) -> Table:
    """The first few images that the second run has and the first has not, and the other way round."""
    a, b = made.names
    lost, won = ([one for one in made.changes if one.better == better][:SHOWN] for better in (1, 0))
    table = Table(
        title="the largest changes, by the probability of the true class", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("image", "label", f"{a} says", f"{b} says"):
        table.add_column(heading, overflow="fold")
    for one in [*lost, *won]:
        cells = [
            f"{', '.join(guess)} ({prob:.2f} true)" for guess, prob in zip(one.guesses, one.true_probs, strict=True)
        ]
        table.add_row(*(Text(visible(text)) for text in (one.image_id, one.label, *cells)))
    return table
