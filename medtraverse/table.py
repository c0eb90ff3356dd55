"""Tables as CSV: written with the notice on each row, read with errors that name the file and the line."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .notice import NOTICE


def csv_text(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV, lines ended by a line feed, the notice in a last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "notice"])
    writer.writerows([*row, NOTICE] for row in rows)
    return text.getvalue()


def read_csv(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table, comma-separated and UTF-8, the header first; a byte order mark is left out.

    Parameters
    ----------
    path : path

    Yields
    ------
    int
        Number of the line in the file. Lines without a letter are left out.
    list of str
        Its cells without surrounding space, as many as the header has.

    Raises
    ------
    ValueError
        The file cannot be read, is no such table, or a line has more or fewer cells than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader, width = csv.reader(file, strict=True), 0
            for row in filter(any, reader):
                width = width or len(row)
                if len(row) != width:
                    raise ValueError(
                        f"{path}: line {reader.line_num}: {len(row)} cells, but the header has {width}; "
                        "quote cells that hold commas."
                    )
                yield reader.line_num, [cell.strip() for cell in row]
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of a CSV table."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: is no UTF-8 CSV table ({error}); save it as comma-separated UTF-8."
        ) from error


def finite_list(values: Any) -> list[Any]:
    """Return a tensor or array [N] as a list for JSON, which has no NaN: None in its place."""
    return [None if value != value else value for value in values.tolist()]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text, each ended: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        )
        + "\n"
        for line in lines
    )
