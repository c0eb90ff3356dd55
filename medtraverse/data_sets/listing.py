"""What a data set's tables say, before any policy: an adapter of a layout makes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..captions import CHEXPERT_LABELS, NORMAL, STATES, chexpert_caption
from ..labels import plain
from .tables import Table, states

if TYPE_CHECKING:
    import pandas

NO_FINDING = "No Finding"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
FRONTAL, LATERAL, OTHER = "frontal", "lateral", "other"
# Columns of `Listing.rows`, text but for the age; "" or NaN where a set does not say.
BLANK = [word for word, state in STATES.items() if state is None]
COLUMNS = ("file", "patient", "split", "view", "projection", "sex", "age", "place", "reason")
CHEST = f"Chest X-ray showing + labels that are 1 of {', '.join(CHEXPERT_LABELS)}; none: {NORMAL}"


@dataclass(frozen=True)
class Fault:
    """Something in a data set that somebody should look at.

    Attributes
    ----------
    kind : str
        Such as ``missing``, ``truncated``, ``duplicate pixels``.
    place : str
        Table and line, such as ``train.csv: line 7``.
    file : str
        The image, as `DataSet.frame` has it.
    what : str
        What is wrong; what to do, where something can be done.
    """

    kind: str
    place: str
    file: str
    what: str


@dataclass
class Listing:
    """The rows of a data set.

    Attributes
    ----------
    layout : str
    root : Path
        Images are ``root / file``.
    rows : DataFrame
        A row an image, with `COLUMNS`: ``reason`` says why a row is not to be used, whatever the policies.
    states : DataFrame
        float32, same index: 1, 0, -1 (uncertain), NaN (blank) for each label.
    caption : callable
        Makes the sentence from the names of the labels that are 1; None where `rows` has a column
        ``caption``.
    spoken : sequence of str
        The labels that the sentence may name.
    rule : str
        How captions come to be, in one line.
    neutrals, attributes : dict of str to str
        Prompts as the sentences have them, for a domain file.
    domain : str, optional
        Name of the pack's domain whose prompts these sentences are.
    faults : list of Fault
        Cells that cannot be read. Rows with one have a reason.
    normal : str, optional
        The label that means that there is nothing to see, in sets that have one for every such image. An
        image with neither this label nor one that its caption could name is left out: its caption would be
        the neutral sentence, and wrong.
    settled : dict, optional
        The policies by which these rows were chosen before, for a file that holds what is left. Views and
        the split stay as they are then.
    """

    layout: str
    root: Path
    rows: pandas.DataFrame
    states: pandas.DataFrame
    caption: Callable[[Sequence[str]], str] | None
    spoken: Sequence[str]
    rule: str
    neutrals: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    domain: str | None = None
    faults: list[Fault] = field(default_factory=list)
    settled: dict[str, Any] | None = None
    normal: str | None = None


@dataclass(frozen=True)
class Options:
    """What an adapter may need beside the folder: see `read`."""

    threshold: float = 0.9
    artefacts: Path | None = None


def frame_of(table: Table, **columns: Any) -> pandas.DataFrame:
    """Return `Listing.rows` for a table; columns that are not given are blank."""
    import pandas

    columns = {"place": table.places(), **columns}
    rows = {name: columns.pop(name, np.nan if name == "age" else "") for name in COLUMNS} | columns
    frame = pandas.DataFrame(rows, table.cells.index)
    for name in ("patient", "sex", "projection"):
        frame[name] = unblanked(frame[name])
    return frame


def unblanked(cells: pandas.Series) -> pandas.Series:
    """Return cells with "" for "nan" and its like: as a patient, all that are unknown would be one."""
    return cells.mask(cells.str.lower().isin(BLANK), "")


def read_states(
    table: Table, labels: Sequence[str], rows: pandas.DataFrame, faults: list[Fault]
) -> pandas.DataFrame:
    """Read the label columns of a table; a cell that is none is a fault, and its row gets a reason."""
    import pandas

    values = {}
    for name in labels:
        column = table.find(name)
        if column is None:
            continue
        values[name], faulty = states(column)
        for row in np.flatnonzero(faulty):
            what = f"column {name!r}: {column.iloc[row]} is none of 1, 0, -1, blank; write one of these."
            faults.append(Fault("no label", rows.place.iloc[row], rows.file.iloc[row], what))
        rows.loc[faulty, "reason"] = "no label"
    return pandas.DataFrame(values, rows.index)


def chest_caption(present: Sequence[str]) -> str:
    """Return the paper's sentence with any labels, in the order given, but for the label of normal films.

    In sets that label every film, `No Finding` is what the neutral sentence stands for: with the paper's own
    rule, which names it, no film would have the neutral sentence.
    """
    names = [name for name in present if name != NO_FINDING]
    return f"Chest X-ray showing {', '.join(names)}" if names else NORMAL


def chest_rule(names: Sequence[str]) -> str:
    """Return `chest_caption` in one line."""
    return f"Chest X-ray showing + those present of {', '.join(names)}; none: {NORMAL}"


def chest_prompts(labels: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return neutral and attribute prompts in the paper's words for those labels that a set has."""
    named = [name for name in CHEXPERT_LABELS if name in labels and name != "No Finding"]
    return {"normal": NORMAL}, {name: chexpert_caption([name]) for name in named}


def views_of(cells: pandas.Series, known: Mapping[str, str]) -> pandas.Series:
    """Return `FRONTAL`, `LATERAL`, `OTHER` or "" for the set's own words; `known` is by `plain`."""
    words = {word: known.get(plain(word), OTHER if word else "") for word in cells.unique()}
    return cells.map(words)


def files_below(root: Path, folders: Sequence[Path], suffixes: Collection[str]) -> dict[str, str]:
    """Return where images lie, by name without suffix, for sets whose tables name no folder.

    Parameters
    ----------
    root : Path
    folders : sequence of Path
        Searched with all folders in them, the first wins.
    suffixes : collection of str
        Such as ``.png``.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner.sort()
            below = os.path.relpath(place, root)
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    file = name if below == "." else os.path.join(below, name)
                    found.setdefault(stem, Path(file).as_posix())
    return found


def existing(root: Path, files: Sequence[str]) -> np.ndarray:
    """Return which files are there, asked in parallel, as a share over the network answers slowly."""

    def ask(block: Sequence[str]) -> list[bool]:
        return [os.path.isfile(os.path.join(root, file)) for file in block]

    blocks = [files[start : start + 512] for start in range(0, len(files), 512)]
    with ThreadPoolExecutor(16) as pool:
        return np.asarray([answer for block in pool.map(ask, blocks) for answer in block], bool)
