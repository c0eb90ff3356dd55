"""Tables of classifier predictions in the column layout of the paper's reference implementation.

One row per patient: `seed`, `neutral_<attribute>` ..., `<point>_<attribute>` ... . In swap tables the points are swap
steps (5, 10, ..., 45); in tables of Bezier frames they are frame numbers and the neutral image is frame 0, so its
columns are `0_<attribute>`. Other columns (`path`, `disease`) are left alone.
"""

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .notice import NOTICE

_COLUMN = re.compile(r"(neutral|\d+)_(.+)")
_PUBLISHED = {"swap": "5,10,15", "curve": "30-49"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classifier probabilities of trajectories or of their frames.

    Attributes
    ----------
    kind : str
        "swap" (points are swap steps, neutral columns `neutral_...`) or "curve" (frames, neutral columns `0_...`).
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
    seeds: tuple
    attributes: tuple
    points: tuple
    neutral: np.ndarray
    probabilities: np.ndarray

    def at(self, points: Sequence) -> np.ndarray:
        """Probabilities at the given points: [patients, len(points), attributes]."""
        return self.probabilities[:, [self.points.index(point) for point in points]]

    def attribute(self, name: str) -> int:
        """Index of an attribute; case, spaces, hyphens and underscores do not matter where that leaves one candidate."""
        if name in self.attributes:
            return self.attributes.index(name)
        alike = [i for i, other in enumerate(self.attributes) if _plain(other) == _plain(name)]
        if len(alike) != 1:
            raise ValueError(f"no attribute {name!r} in the table; it has {', '.join(self.attributes)}")
        return alike[0]

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


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def far_points(text: str, available: Sequence) -> list:
    """The far part of a trajectory, written as a list, a range or both.

    Parameters
    ----------
    text : str
        "5,10,15", "30-49" or "5,30-49". A range takes every available point between its two ends, both included; the
        ends themselves must be available, so that "30-49" cannot quietly mean swap steps 30, 35, 40 and 45.
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
                f"far points {text!r}: {part!r} is no point or range; write e.g. 5,10,15 or 30-49"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        absent = sorted({first, last} - set(numbers))
        if absent:
            offer = ", ".join(map(str, numbers)) or "none"
            raise ValueError(
                f"far points {text!r}: no point {' or '.join(map(str, absent))}; available: {offer}"
            )
        if first > last:
            raise ValueError(f"far points {text!r}: write the range {part!r} as {last}-{first}")
        chosen += [number for number in sorted(numbers) if first <= number <= last]
    if not chosen:
        raise ValueError("far points are empty; write e.g. 5,10,15 (swap steps) or 30-49 (frames)")
    twice = [number for number, count in Counter(chosen).items() if count > 1]
    if twice:
        raise ValueError(f"far points {text!r}: point {twice[0]} is given twice")
    return [numbers[number] for number in chosen]


def published_far_points(available: Sequence, kind: str) -> list:
    """The paper's far part: swap steps 5, 10, 15 of a "swap", frames 30-49 of a "curve".

    Where those are missing the other ones are taken, as some tables of swaps name the neutral `0` and some of frames name
    it `neutral`; but points that count 1, 2, 3 are frames, of which 5, 10 and 15 lie near the neutral. Raises ValueError
    when neither is there.
    """
    complete = {int(str(label)) for label in available if str(label).isdecimal()}
    wanted = {"swap": {5, 10, 15}, "curve": set(range(30, 50))}
    if kind == "curve" and {1, 2, 3} <= complete:
        del wanted["swap"]
    if kind == "curve" and max(complete, default=0) > 49:
        del wanted["curve"]  # of a longer curve, frames 30-49 are not the far part
    for which in sorted(wanted, key=lambda other: other != kind):
        if wanted[which] <= complete:
            return far_points(_PUBLISHED[which], available)
    offer = ", ".join(map(str, available)) or "none"
    raise ValueError(
        f"the paper's far part (swap steps 5,10,15 or frames 30-49) is not there; name the far points; available: {offer}"
    )


def read_table(path: str | os.PathLike) -> Predictions:
    """Read a table of predictions (CSV, comma-separated, UTF-8, one header row).

    Raises
    ------
    ValueError
        The file cannot be read; columns are missing, doubled or incomplete; a seed is empty or repeated; a cell is empty,
        no number, or outside 0..1. The message names the file, the row and the column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [
                (reader.line_num, row)
                for reader in [csv.reader(file, strict=True)]
                for row in reader
                if any(row)
            ]
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of a CSV table"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no UTF-8 CSV table ({error})") from error
    if not rows:
        raise ValueError(
            f"{path}: is empty; expected a header row with seed, neutral_<attribute>, <point>_<attribute>"
        )
    try:
        return _table([name.strip() for name in rows[0][1]], rows[1:])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _table(header: list, rows: list) -> Predictions:
    kind, attributes, points = _layout(header)
    if not rows:
        raise ValueError("has a header but no patients")
    heads = ["neutral" if kind == "swap" else "0", *points]
    columns = [header.index(f"{head}_{name}") for head in heads for name in attributes]
    seed_column = header.index("seed")
    seen, values = {}, np.empty((len(rows), len(columns)))
    for i, (line, row) in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"line {line}: {len(row)} cells, but the header has {len(header)}")
        seed = row[seed_column].strip()
        if not seed:
            raise ValueError(f"line {line}, column 'seed': is empty")
        seed = int(seed) if seed.isdecimal() else seed
        if seed in seen:
            raise ValueError(
                f"line {line}: seed {seed} is already on line {seen[seed]}; keep one row per patient"
            )
        seen[seed] = line
        for j, column in enumerate(columns):
            values[i, j] = _probability(row[column], f"line {line} (seed {seed}), column {header[column]!r}")
    values = values.reshape(len(rows), len(heads), len(attributes))
    return Predictions(kind, tuple(seen), attributes, tuple(map(int, points)), values[:, 0], values[:, 1:])


def _layout(header: list) -> tuple[str, tuple, tuple]:
    """Kind, attributes and points (as written) of a table with these columns."""
    twice = [
        name
        for name, count in Counter(header).items()
        if count > 1 and (name == "seed" or _COLUMN.fullmatch(name))
    ]
    if twice:
        raise ValueError(f"column {twice[0]!r} stands twice in the header")
    if "seed" not in header:
        raise ValueError("has no column 'seed'; the first line must name the columns, separated by commas")
    columns = [match.groups() for name in header if (match := _COLUMN.fullmatch(name))]
    kind, head = ("swap", "neutral") if any(h == "neutral" for h, _ in columns) else ("curve", "0")
    attributes = tuple(name for h, name in columns if h == head)
    if not attributes:
        raise ValueError("has no neutral columns; expected neutral_<attribute> or 0_<attribute>")
    points = tuple(dict.fromkeys(h for h, name in columns if h != head))
    if not points:
        raise ValueError("has no columns <point>_<attribute>, such as 5_" + attributes[0])
    absent = [f"{h}_{name}" for h in points for name in attributes if f"{h}_{name}" not in header]
    if absent:
        raise ValueError(
            f"lacks column {absent[0]!r}" + (f" and {len(absent) - 1} more" if absent[1:] else "")
        )
    orphans = [f"{h}_{name}" for h, name in columns if name not in attributes]
    if orphans:
        raise ValueError(
            f"column {orphans[0]!r} has no neutral beside it: '{head}_{orphans[0].split('_', 1)[1]}' is missing"
        )
    return kind, attributes, points


def _probability(cell: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        problem = f"{cell.strip()!r} is not a number" if cell.strip() else "is empty"
        raise ValueError(f"{place}: {problem}") from None
    if math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(f"{place}: {cell.strip()} is no probability in 0..1")
    return value
