"""Tables of data sets, read by pandas as they are written: text cells, and the line of each row."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import numpy as np

from ..captions import STATES
from ..labels import plain

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    path : Path
    name : str
        For messages: the path below the data set's folder.
    cells : DataFrame
        Texts without surrounding space, N rows; a blank cell is "".
    lines : int array [N]
        Number of the line in the file on which each row begins; the header is on line 1.
    """

    path: Path
    name: str
    cells: pandas.DataFrame
    lines: np.ndarray

    def find(self, *names: str) -> pandas.Series | None:
        """Return the column of the first name that is there, whatever its case, hyphens and underscores.

        Case decides where a table has both: the authors' table of ISIC 2019 has a diagnosis ``VASC`` and
        an artefact ``vasc``.

        Raises
        ------
        ValueError
            Several columns have that name.
        """
        header = list(self.cells.columns)
        for name in names:
            alike = [place for place, other in enumerate(header) if other == name] or [
                place for place, other in enumerate(header) if plain(other) == plain(name)
            ]
            if len(alike) > 1:
                raise ValueError(f"{self.path}: column {name!r} stands twice in the header; keep one.")
            if alike:
                return self.cells.iloc[:, alike[0]]
        return None

    def column(self, *names: str) -> pandas.Series:
        """Return a column as `find` does.

        Raises
        ------
        ValueError
            It is not there, or several are.
        """
        column = self.find(*names)
        if column is None:
            raise ValueError(
                f"{self.path}: lacks column {names[0]}; it has {_shown(list(self.cells.columns))}."
            )
        return column

    def text(self, *names: str) -> pandas.Series:
        """Return a column as `find` does, or blanks where it is not there."""
        import pandas

        column = self.find(*names)
        return pandas.Series("", self.cells.index) if column is None else column

    def places(self) -> pandas.Series:
        """Return each row's place, such as ``train.csv: line 7``."""
        import pandas

        return pandas.Series([f"{self.name}: line {line}" for line in self.lines], self.cells.index)


def read_table(path: str | os.PathLike[str], root: str | os.PathLike[str] = "") -> Table:
    """Read a CSV table with a header, UTF-8, gzipped or not; blank lines are left out.

    Parameters
    ----------
    path : path
    root : path
        The data set's folder, for the table's name in messages.

    Raises
    ------
    ValueError
        The file cannot be read, is no such table, or a line has more or fewer cells than the header.
    """
    import pandas

    path = Path(path)
    try:
        cells = pandas.read_csv(
            path, header=None, dtype=str, na_filter=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
        header = [str(name).strip() for name in cells.iloc[0]] if len(cells) else []
        lines = _lines(path, header, len(cells))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of a CSV table."
        ) from error
    except (
        UnicodeDecodeError,
        csv.Error,
        pandas.errors.ParserError,
        pandas.errors.EmptyDataError,
        EOFError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: is no UTF-8 CSV table ({reason}); save it as comma-separated UTF-8."
        ) from error
    cells = cells.iloc[1:].set_axis(header, axis=1)
    for place in range(len(header)):
        cells.isetitem(place, cells.iloc[:, place].str.strip())
    there = (cells != "").any(axis=1).to_numpy()
    return Table(path, _name(path, root), cells[there].reset_index(drop=True), lines[1:][there])


def read_json_lines(path: str | os.PathLike[str], root: str | os.PathLike[str] = "") -> Table:
    """Read a file with a JSON object a line as a table of text: null is blank, true is ``True``.

    Raises ValueError where the file cannot be read, or a line is no object.
    """
    import json

    import pandas

    path, records, lines, number = Path(path), [], [], 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no object")
                records.append(record)
                lines.append(number)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); give a JSON file.") from error
    except ValueError as error:
        raise ValueError(f"{path}: line {number}: is no JSON object; write one object a line.") from error
    cells = pandas.DataFrame(records)
    for name in cells.columns:
        cells[name] = cells[name].map(_text)
    return Table(path, _name(path, root), cells, np.asarray(lines, int))


def header_of(path: Path) -> list[str]:
    """Return the names in a CSV table's first line, in small letters; none where there is no such line."""
    try:
        with _opened(path) as file:
            return [plain(name) for name in next(csv.reader([file.readline()]), [])]
    except (OSError, UnicodeDecodeError, csv.Error, EOFError):
        return []


def states(cells: pandas.Series) -> tuple[np.ndarray, np.ndarray]:
    """Read the cells of a label.

    Parameters
    ----------
    cells : Series of str [N]
        ``1``, ``1.0``, ``True``, ``0``, ``-1`` …, or blank: empty, ``NaN``, ``NA``.

    Returns
    -------
    values : float32 [N]
        1 present, 0 absent, -1 uncertain, NaN blank.
    faulty : bool [N]
        Where a cell is none of these; its value is NaN.
    """
    import pandas

    codes, texts = pandas.factorize(cells)
    known = np.full(len(texts), np.nan, np.float32)
    unknown = np.zeros(len(texts), bool)
    for number, text in enumerate(texts):
        word = str(text).lower()
        value: float | None = STATES.get(word, 2)
        if value == 2:
            try:
                value = float(word)
            except ValueError:
                value = 2
            unknown[number] = value not in (1, 0, -1)
        if value is not None and not unknown[number]:
            known[number] = value
    return known[codes], unknown[codes]


def numbers(cells: pandas.Series) -> np.ndarray:
    """Return cells as float64, NaN where a cell is no number."""
    import pandas

    return np.asarray(pandas.to_numeric(cells, errors="coerce"), np.float64)


def first_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """Return the first file of a folder, or of one folder in it, that a pattern finds; None for none."""
    for pattern in patterns:
        for depth in (pattern, f"*/{pattern}"):
            if found := sorted(path for path in folder.glob(depth) if path.is_file()):
                return found[0]
    return None


def joined(names: Sequence[str]) -> str:
    """Return names for a message, as ``A, B and C``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _lines(path: Path, header: Sequence[str], records: int) -> np.ndarray:
    """Return the line on which each record of a table begins, counted from 1.

    Raises ValueError for a record with fewer cells than the header has names: pandas would fill it up.
    """
    # the older table of NIH has a comma at the end of its header
    width = max((place for place, name in enumerate(header, 1) if name), default=0)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = file.read().splitlines()
    if len(lines) == records and not any(b'"' in line for line in lines):
        counts = ((number, line.count(b",") + 1) for number, line in enumerate(lines, 1) if line.strip())
        starts = np.arange(1, records + 1)
    else:
        # reports with line breaks in quotes
        with _opened(path) as text:
            reader = csv.reader(text)
            found, end = [], 0
            for row in reader:
                found.append((end + 1, len(row)))
                end = reader.line_num
        counts = ((number, cells) for number, cells in found if cells)
        starts = np.asarray(
            [number for number, _ in found] if len(found) == records else range(1, records + 1)
        )
    for number, cells in counts:
        if cells < width:
            raise ValueError(
                f"{path}: line {number}: {cells} cells, but the header has {width}; copy the table again."
            )
    return starts


def _shown(names: Sequence[object]) -> str:
    """Return the names of a header for a message: short, on one line, and not too many."""
    words = [" ".join(str(name).split()) for name in names[:40]]
    more = f" and {len(names) - 40} more" if len(names) > 40 else ""
    return ", ".join(word if len(word) <= 40 else f"{word[:40]}…" for word in words) + more or "no header"


def _name(path: Path, root: str | os.PathLike[str]) -> str:
    try:
        return path.relative_to(root).as_posix() if root else path.name
    except ValueError:
        return str(path)


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return value.strip() if isinstance(value, str) else str(value)
