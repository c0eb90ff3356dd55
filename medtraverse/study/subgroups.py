"""Subgroups of patients: a table of seeds, any column of which gives a row for each of its values."""

import os
from dataclasses import dataclass

from ..labels import position
from ..table import read_csv
from .pooled import Study


@dataclass(frozen=True)
class SeedsTable:
    """What is known of patients by their seed.

    Attributes
    ----------
    columns : tuple of str
        As the header writes them, seed left out.
    values : dict of int to tuple of str
        A cell for each column.
    """

    columns: tuple[str, ...]
    values: dict[int, tuple[str, ...]]

    def groups(self, column: str) -> dict[str, list[int]]:
        """Return the seeds of each value of a column, values in the order of the table; empty cells left out.

        Raises ValueError for a column that is not there.
        """
        place = position(column, self.columns)
        if place is None:
            raise ValueError(
                f"--by: there is no column {column!r}; choose one of {', '.join(self.columns) or 'none'}."
            )
        groups: dict[str, list[int]] = {}
        for seed, cells in self.values.items():
            if cells[place]:
                groups.setdefault(cells[place], []).append(seed)
        return groups


def read_seeds_table(path: str | os.PathLike[str]) -> SeedsTable:
    """Read a table of seeds, CSV with a column ``seed``.

    Raises
    ------
    ValueError
        It cannot be read, has no such column, or a seed that is no whole number or stands twice.
    """
    rows = list(read_csv(path))
    header = rows[0][1] if rows else []
    place = position("seed", header)
    if place is None:
        raise ValueError(
            f"{path}: has no column 'seed'; name the columns in the first line, seed among them."
        )
    values: dict[int, tuple[str, ...]] = {}
    for line, cells in rows[1:]:
        if not cells[place].isdecimal():
            raise ValueError(
                f"{path}: line {line}: {cells[place]!r} is no seed; give a whole number for each patient."
            )
        seed = int(cells[place])
        if seed in values:
            raise ValueError(f"{path}: line {line}: seed {seed} stands twice; keep one row for each patient.")
        values[seed] = tuple(cell for number, cell in enumerate(cells) if number != place)
    return SeedsTable(tuple(name for number, name in enumerate(header) if number != place), values)


def subgroups(study: Study, table: SeedsTable, column: str) -> dict[str, Study]:
    """Return the part of a study that each value of a column stands for, those without a patient left out.

    Raises ValueError for a column that is not there, or whose seeds the study does not have.
    """
    own = set(study.seeds)
    parts = {
        value: study.take(seeds) for value, seeds in table.groups(column).items() if not own.isdisjoint(seeds)
    }
    if not parts:
        raise ValueError(
            f"--by: none of the seeds with a {column!r} are in the study; give a table of its patients."
        )
    return parts
