"""Finds the columns of ids and labels in a training CSV, whose header may call them anything."""

from __future__ import annotations

from collections.abc import Sequence

from folds.base.csvfile import ID_NAMES, LABEL_NAMES, CsvTable, pick_column, usual_column
from folds.base.errors import UserError
from folds.find.lookup import Lookup
from folds.settings import PrepareSettings

LOOKED_AT = 100  # cells of a column that are looked for among the files


def pick_train_columns(
    table: CsvTable, sample: CsvTable | None, lookup: Lookup, settings: PrepareSettings
) -> tuple[str, str]:
    """The columns of the ids and of the labels.

    Those that the settings name; else both columns of the sample submission, where the table has them too; else those
    with usual names; else, of two columns, the one whose cells name files is that of the ids.
    Raises UserError, naming the columns that there are, where that decides nothing.
    """
    given = settings.id_column, settings.label_column
    if len(table.header) == 2 and sum(name in table.header for name in given if name) == 1:  # one names the other
        given = given[0] or _other(table.header, given[1] or ""), given[1] or _other(table.header, given[0] or "")
    shared = _shared(table, sample) or _of_two(table, lookup)
    id_column = given[0] or (shared[0] if shared else None)
    label_column = given[1] or (shared[1] if shared and shared[1] != id_column else None)
    return (
        pick_column(table, ID_NAMES, what="id", given=id_column, flag="--id-column"),
        pick_column(table, LABEL_NAMES, what="label", given=label_column, flag="--label-column"),
    )


def _shared(table: CsvTable, sample: CsvTable | None) -> tuple[str, str] | None:
    """The id and the label column of a sample submission that has these two only, where the table has both."""
    if sample is None or len(set(sample.header)) != 2 or not set(sample.header) <= set(table.header):
        return None
    id_column = pick_column(sample, ID_NAMES, what="id", given=None, flag="--id-column", position=0)
    return id_column, _other(sample.header, id_column)


def _of_two(table: CsvTable, lookup: Lookup) -> tuple[str, str] | None:
    """The id and the label column of a table of two, by their usual names or by which of them names files."""
    if len(set(table.header)) != 2 or len(table.header) != 2:
        return None
    id_column, label_column = usual_column(table.header, ID_NAMES), usual_column(table.header, LABEL_NAMES)
    if id_column and label_column:
        return id_column, label_column
    of_files = [name for name in table.header if _names_files(table.column(name), lookup)]
    if len(of_files) == 1:
        id_column = of_files[0]
    elif label_column:
        id_column = _other(table.header, label_column)
    if id_column is None or usual_column((_other(table.header, id_column),), ID_NAMES):
        return None  # two columns of ids, and none of labels
    return id_column, _other(table.header, id_column)


def _other(header: Sequence[str], name: str) -> str:
    """Of two columns the other one."""
    return header[1] if header[0] == name else header[0]


def _names_files(cells: Sequence[str], lookup: Lookup) -> bool:
    return any(_is_found(cell, lookup) for cell in cells[:LOOKED_AT] if cell)


def _is_found(cell: str, lookup: Lookup) -> bool:
    try:
        return lookup.find(cell) is not None
    except UserError:
        return True  # it fits several files
