"""Shows what each column was taken for, and how good the member is that was made of them."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from ensemble.columns.table_member import TableResult
from folds.base.terminal import duration


def table_summary(result: TableResult) -> Group:
    """One row per column, then the scores and what is to be said."""
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("column", overflow="fold")
    grid.add_column("taken for", overflow="fold")
    for heading in ("values", "missing, train", "test", "train/test AUC"):
        grid.add_column(heading, justify="right")
    for column in result.table.columns:
        auc = result.table.aucs.get(column.name)
        missing = ("", "") if column.is_left_out else (f"{count:,}" for count in column.missing)
        grid.add_row(
            Text(column.name), Text(column.kind), f"{column.n_values:,}", *missing, f"{auc[0]:.2f}" if auc else ""
        )
    counts = f"{result.images:,} out-of-fold and {len(result.table.test_id):,} test images"
    how = "unchanged, nothing to do" if result.seconds is None else f"in {duration(result.seconds)}"
    return Group(
        grid,
        *(Text(f"note: {note}") for note in result.table.notes),
        *(Text(f"warning: {warning}") for warning in result.table.warnings),
        Text(f"{result.name}: {counts}, {how}; in {result.folder}"),
        Text(score_sentence(result)),
    )


def score_sentence(result: TableResult) -> str:
    """The errors out of fold, beside those of the classes' shares alone."""
    scores = result.scores
    useless = "" if scores["log_loss"] < scores["prior_log_loss"] else ": these columns teach nothing"
    return (
        f"{result.name}: OOF top-3 error {scores['top3_error']:.4f}, log loss {scores['log_loss']:.4f}"
        f" ({scores['prior_top3_error']:.4f} and {scores['prior_log_loss']:.4f} by the shares of the classes){useless}"
    )
