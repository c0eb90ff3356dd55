"""Tables of classifier predictions in the column layout of the paper's reference implementation.

One row per patient: `seed`, `neutral_<attribute>` ..., `<point>_<attribute>` ... . In swap tables the points
are swap steps (5, 10, ..., 45); in tables of Bezier frames they are frame numbers and the neutral image is
frame 0, so its columns are `0_<attribute>`. Other columns (`path`, `disease`) are left alone.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .labels import plain, position
from .notice import NOTICE
from .share import share_of
from .table import read_csv

_COLUMN = re.compile(r"(neutral|\d+)_(.+)", re.IGNORECASE)
# what pandas' describe() and people write below a table
_SUMMARY = re.compile(
    r"(mean|average|avg|median|std|sd|sem|var|variance|min|max|minimum|maximum|sum|total|count|overall|all|nan)"
    r"\b.*|\d+ ?%",
    re.IGNORECASE,
)
PUBLISHED_STEPS = 50
_PUBLISHED = {"swap": "5,10,15", "curve": "30-49"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classifier probabilities of trajectories or of their frames.

    Attributes
    ----------
    kind : str
        "swap" (points are swap steps, neutral columns `neutral_...`) or "curve" (frames, neutral columns
        `0_...`).
    seeds : tuple
        One per patient, an integer where it is written as one.
    attributes : tuple of str
        In the order of the neutral columns.
    points : tuple of int
        Swap steps or frame numbers, in the order of the table.
    neutral : ndarray [patients, attributes], float64
    probabilities : ndarray [patients, points, attributes], float64
    """

    kind: str
    seeds: tuple[int | str, ...]
    attributes: tuple[str, ...]
    points: tuple[int, ...]
    neutral: np.ndarray
    probabilities: np.ndarray

    def at(self, points: Sequence[int]) -> np.ndarray:
        """Return the probabilities at some points.

        Parameters
        ----------
        points : sequence of int
            Points of the table.

        Returns
        -------
        ndarray [patients, len(points), attributes]
            In 0..1.
        """
        return self.probabilities[:, [self.points.index(point) for point in points]]

    def attribute(self, name: str) -> int:
        """Return the index of an attribute.

        Parameters
        ----------
        name : str
            Case, spaces, `-` and `_` do not matter where that leaves one candidate.

        Raises
        ------
        ValueError
            The table has no such attribute, or several.
        """
        index = position(name, self.attributes)
        if index is None:
            raise ValueError(
                f"attribute: {name!r} is not in the table; choose one of {', '.join(self.attributes)}."
            )
        return index

    def to_csv(self) -> str:
        """The table as CSV text that `read_table` and the reference implementation read back unchanged."""
        heads = ["neutral" if self.kind == "swap" else "0", *map(str, self.points)]
        values = np.concatenate([self.neutral[:, None], self.probabilities], axis=1).reshape(
            len(self.seeds), -1
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["seed", *(f"{head}_{name}" for head in heads for name in self.attributes), "notice"])
        for seed, row in zip(self.seeds, values, strict=True):
            writer.writerow([seed, *(repr(float(value)) for value in row), NOTICE])
        return text.getvalue()


def far_points(text: str, available: Sequence[Any]) -> list[Any]:
    """The far part of a trajectory, written as a list, a range or both.

    Parameters
    ----------
    text : str
        "5,10,15", "30-49" or "5,30-49". A range takes every available point between its two ends, both
        included; the ends themselves must be available, so that "30-49" cannot quietly mean swap steps 30,
        35, 40 and 45.
    available : sequence
        Point labels, integers or their decimal text; other labels ("neutral") cannot be far points.

    Returns
    -------
    list
        Members of `available`, as they stand there, in the order of `text`.

    Raises
    ------
    ValueError
        Nothing given, something that is no number or range, a point that is not available or is given twice.
    """
    numbers = {int(str(label)): label for label in available if str(label).isdecimal()}
    chosen = []
    for part in filter(None, (part.strip() for part in str(text).split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if not match:
            raise ValueError(
                f"far points {text!r}: {part!r} is no point or range; write e.g. 5,10,15 or 30-49."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        absent = sorted({first, last} - set(numbers))
        if absent:
            offer = ", ".join(map(str, numbers)) or "none"
            raise ValueError(
                f"far points {text!r}: there is no point {' or '.join(map(str, absent))}; "
                f"choose from {offer}."
            )
        if first > last:
            raise ValueError(f"far points {text!r}: the range {part!r} runs backwards; write {last}-{first}.")
        chosen += [number for number in sorted(numbers) if first <= number <= last]
    if not chosen:
        raise ValueError("far points: the list is empty; write e.g. 5,10,15 (swap steps) or 30-49 (frames).")
    twice = [number for number, count in Counter(chosen).items() if count > 1]
    if twice:
        raise ValueError(f"far points {text!r}: point {twice[0]} is given twice; give each once.")
    return [numbers[number] for number in chosen]


def published_far_points(available: Sequence[Any], kind: str, steps: int = PUBLISHED_STEPS) -> list[Any]:
    """Return the paper's far part: swap steps 5, 10, 15 of 50, or frames 30-49.

    Parameters
    ----------
    available : sequence
        Points that are there.
    kind : {"swap", "curve"}
        Whose far part is looked for first. Where it is missing the other one is taken, as some tables of
        swaps name the neutral `0` and some of frames name it `neutral`; but points that count 1, 2, 3 are
        frames, of which 5, 10 and 15 lie near the neutral.
    steps : int
        Denoising steps. Of another number than 50 the same shares are taken (10, 20 and 30 %), if all are
        there.

    Returns
    -------
    list
        Points of `available`.

    Raises
    ------
    ValueError
        Neither far part is there.
    """
    if kind == "swap" and steps != PUBLISHED_STEPS:
        points = [share_of(share, steps) for share in (10, 20, 30)]
        numbers = {int(point): point for point in available if str(point).isdecimal()}
        if len({*points}) == len(points) and all(point in numbers for point in points):
            return [numbers[point] for point in points]
    which = published_kind(available, kind)
    if which:
        return far_points(_PUBLISHED[which], available)
    offer = ", ".join(map(str, available)) or "none"
    raise ValueError(
        "far points: the paper's (swap steps 5,10,15 or frames 30-49) are not all there; name some of "
        f"{offer}."
    )


def published_kind(available: Sequence[Any], kind: str) -> str | None:
    """Tell whose far part of the paper is there.

    Parameters
    ----------
    available : sequence
        Points that are there.
    kind : {"swap", "curve"}
        Looked for first.

    Returns
    -------
    str or None
        "swap" or "curve"; None where neither is there.
    """
    complete = {int(str(label)) for label in available if str(label).isdecimal()}
    wanted = {"swap": {5, 10, 15}, "curve": set(range(30, 50))}
    if kind == "curve" and {1, 2, 3} <= complete:
        del wanted["swap"]
    if kind == "curve" and max(complete, default=0) > 49:
        del wanted["curve"]  # of a longer curve, frames 30-49 are not the far part
    kinds = sorted(wanted, key=lambda other: other != kind)
    return next((which for which in kinds if wanted[which] <= complete), None)


def read_table(path: str | os.PathLike[str]) -> Predictions:
    """Read a table of predictions (CSV, comma-separated, UTF-8, one header row).

    Parameters
    ----------
    path : path
        Columns `seed`, `neutral_<attribute>` or `0_<attribute>`, and `<point>_<attribute>`, in 0..1.

    Returns
    -------
    Predictions
        Patients in the order of the rows, attributes and points in that of the columns.

    Raises
    ------
    ValueError
        The file cannot be read; columns are missing, doubled or incomplete; a seed is empty or repeated; a
        cell is empty, no number, or outside 0..1. The message names the file, the row and the column.
    """
    rows = list(read_csv(path))
    if not rows:
        raise ValueError(
            f"{path}: is empty; give a header with seed, neutral_<attribute> and <point>_<attribute>."
        )
    try:
        return _table(rows[0][1], rows[1:])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _table(header: list[str], rows: list[tuple[int, list[str]]]) -> Predictions:
    # the seed and the word before an attribute in any case; an attribute keeps its own, by which it may
    # differ
    header = [
        f"{match[1].lower()}_{match[2]}" if (match := _COLUMN.fullmatch(name)) else name for name in header
    ]
    seed_column = position("seed", header)
    kind, attributes, points = _layout(header, seed_column)
    assert seed_column is not None  # refused before
    if not rows:
        raise ValueError("has a header but no patients; give one row per patient.")
    heads = ["neutral" if kind == "swap" else "0", *points]
    columns = [header.index(f"{head}_{name}") for head in heads for name in attributes]
    seen: dict[int | str, int] = {}
    values = np.empty((len(rows), len(columns)))
    for i, (line, row) in enumerate(rows):
        cell = row[seed_column]
        if not cell:
            raise ValueError(f"line {line}, column 'seed': is empty; give each patient a seed of its own.")
        if _SUMMARY.fullmatch(cell):
            raise ValueError(
                f"line {line}, column 'seed': {cell!r} is a summary and no patient; leave the row out."
            )
        seed = int(cell) if cell.isdecimal() else cell
        if seed in seen:
            raise ValueError(
                f"line {line}: seed {seed} is already on line {seen[seed]}; keep one row per patient."
            )
        seen[seed] = line
        for j, column in enumerate(columns):
            values[i, j] = _probability(row[column], f"line {line} (seed {seed}), column {header[column]!r}")
    cells = values.reshape(len(rows), len(heads), len(attributes))
    return Predictions(kind, tuple(seen), attributes, tuple(map(int, points)), cells[:, 0], cells[:, 1:])


def _layout(header: list[str], seed_column: int | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Kind, attributes and points (as written) of a table with these columns."""
    twice = [
        name
        for name, count in Counter(header).items()
        if count > 1 and (plain(name) == "seed" or _COLUMN.fullmatch(name))
    ]
    if twice:
        raise ValueError(f"column {twice[0]!r} stands twice in the header; keep one.")
    if seed_column is None:
        several = [name for name in header if plain(name) == "seed"]
        raise ValueError(
            f"has the columns {' and '.join(map(repr, several))}; keep one."
            if several
            else "has no column 'seed'; name the columns in the first line, separated by commas, "
            f"seed among them; it has {', '.join(header)}."
        )
    columns = [match.groups() for name in header if (match := _COLUMN.fullmatch(name))]
    kind, head = ("swap", "neutral") if any(h == "neutral" for h, _ in columns) else ("curve", "0")
    attributes = tuple(name for h, name in columns if h == head)
    if not attributes:
        raise ValueError("has no neutral columns; add neutral_<attribute> or 0_<attribute>.")
    spelt: dict[int, str] = {}
    for written, name in columns:
        if written != "neutral" and (other := spelt.setdefault(int(written), written)) != written:
            raise ValueError(
                f"column '{written}_{name}': point {int(written)} is also written {other!r}; "
                "write a point one way, and keep one column of it per attribute."
            )
    points = tuple(dict.fromkeys(h for h, name in columns if h != head))
    if not points:
        raise ValueError(f"has no columns <point>_<attribute>; add some, such as 5_{attributes[0]}.")
    absent = [f"{h}_{name}" for h in points for name in attributes if f"{h}_{name}" not in header]
    if absent:
        raise ValueError(
            f"lacks column {absent[0]!r}{f' and {len(absent) - 1} more' if absent[1:] else ''}; "
            "give every attribute at every point."
        )
    orphans = [f"{h}_{name}" for h, name in columns if name not in attributes]
    if orphans:
        raise ValueError(
            f"column {orphans[0]!r} has no neutral beside it; "
            f"add '{head}_{orphans[0].split('_', 1)[1]}', which is missing."
        )
    return kind, attributes, points


def _probability(cell: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        problem = f"{cell!r} is not a number" if cell else "is empty"
        raise ValueError(f"{place}: {problem}; give a probability.") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{place}: {cell} is no probability in 0..1; give sigmoid outputs.")
    return value
