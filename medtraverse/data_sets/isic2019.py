"""ISIC 2019: its ground truth, joined with probabilities of artefacts.

The artefacts are Bissoto et al.'s, *Artifact-based domain generalization of skin lesion models* (2022),
github.com/alceubissoto/artifact-generalization-skin: ``isic_inferred_wocarcinoma.csv``, which users
download. TehraniNasab, Kumar, Arbel (2025) cut them at 0.9, the authors at 0.6. A ground truth that has
artefact columns of its own, 0 and 1 or probabilities, needs no such table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..captions import DIAGNOSES, ISIC_ARTEFACTS, isic_caption
from .listing import Fault, Listing, Options, existing, frame_of, read_states, unblanked
from .tables import Table, header_of, numbers, read_table

if TYPE_CHECKING:
    import pandas

NAME, TITLE = "isic2019", "ISIC 2019"
TRUTH, ARTEFACTS = "ISIC_2019_Training_GroundTruth.csv", "isic_inferred_wocarcinoma.csv"
_METADATA, _IMAGES = "ISIC_2019_Training_Metadata.csv", "ISIC_2019_Training_Input"
_REST = "_downsampled"


def find(folder: Path) -> Path | None:
    """Return the folder of the ground truth: the given one, or one folder below."""
    for pattern in (TRUTH, f"*/{TRUTH}"):
        for path in sorted(folder.glob(pattern)):
            if {"image", *map(str.lower, DIAGNOSES)} <= set(header_of(path)):
                return path.parent
    return None


def read(folder: Path, options: Options) -> Listing:
    """Read ground truth, artefacts and metadata; raises ValueError where there are no artefacts."""
    if not 0 < options.threshold <= 1:
        raise ValueError(
            f"threshold: {options.threshold} is out of range; artefacts' probabilities lie in 0 to 1, "
            "and the paper cuts them at 0.9."
        )
    faults: list[Fault] = []
    table = read_table(folder / TRUTH, folder)
    image = table.column("image").str.replace(r"\.jpe?g$", "", regex=True, case=False)
    key = image.str.removesuffix(_REST)
    root, files = _files(folder, image)
    rows = frame_of(table, file=files)
    metadata = folder / _METADATA
    if metadata.is_file():
        more = read_table(metadata, folder)
        index = more.column("image").str.removesuffix(_REST)
        for name, column in (("patient", "lesion_id"), ("sex", "sex")):
            known = dict(zip(index, more.text(column)))
            rows[name] = unblanked(key.map(known).fillna(""))
        rows["age"] = key.map(dict(zip(index, numbers(more.text("age_approx"))))).astype(float)
    told = read_states(table, list(DIAGNOSES), rows, faults)
    for name in DIAGNOSES:
        table.column(name)
    artefacts, source = _artefacts(folder, options, table, key)
    present = artefacts.ge(options.threshold).astype(np.float32).where(artefacts.notna())
    both = (told == 1).sum(axis=1) > 1
    for row in np.flatnonzero(both):
        what = "columns 'MEL' and 'NV': both are 1; give a lesion one diagnosis."
        faults.append(Fault("no label", rows.place[row], rows.file[row], what))
    rows.loc[both, "reason"] = "no label"
    rows.loc[(rows.reason == "") & ~(told == 1).any(axis=1), "reason"] = "neither MEL nor NV"
    rows.loc[(rows.reason == "") & artefacts.isna().any(axis=1), "reason"] = "no artefact probabilities"
    return Listing(
        NAME,
        root,
        rows,
        told.join(present),
        _caption,
        (*DIAGNOSES, *ISIC_ARTEFACTS),
        f"{' | '.join(DIAGNOSES.values())}, then showing + {', '.join(ISIC_ARTEFACTS)} at "
        f"{options.threshold:g} or more in {source}; none: with no visible artifacts",
        dict(DIAGNOSES),
        {name: f"{{neutral}} showing {name}" for name in ISIC_ARTEFACTS},
        "ISIC",
        faults,
    )


def _caption(present: Sequence[str]) -> str:
    diagnosis = next(name for name in present if name in DIAGNOSES)
    return isic_caption(diagnosis, [name for name in present if name not in DIAGNOSES])


def _files(folder: Path, image: pandas.Series) -> tuple[Path, pandas.Series]:
    """Return the folder of the images and their names; some lie under their name with `_REST` added."""
    inner = folder / _IMAGES
    names = image + ".jpg"
    probe = list(names[:: max(1, len(names) // 20)])
    roots = [root for root in (inner / _IMAGES, inner, folder) if root.is_dir()]
    root = next((root for root in roots if existing(root, probe).any()), roots[0])
    there = existing(root, list(names))
    if not there.all():
        other = image.str.removesuffix(_REST) + _REST + ".jpg"
        moved = ~there & existing(root, list(other))
        names = names.where(~moved, other)
    return root, names


def _artefacts(
    folder: Path, options: Options, truth: Table, key: pandas.Series
) -> tuple[pandas.DataFrame, str]:
    """Return the artefacts' probabilities, NaN where there are none, and the name of the table."""
    import pandas

    beside = sorted((*folder.glob("isic_inferred*.csv"), *folder.glob("*/isic_inferred*.csv")))
    path = options.artefacts or next(iter(beside), None)
    table = truth if path is None else read_table(path)
    if missing := [name for name in ISIC_ARTEFACTS if table.find(name) is None]:
        what = (
            f"has no column {missing[0]}"
            if path
            else f"{truth.path} has no artefact columns, and none is given"
        )
        raise ValueError(
            f"artefacts: {path or ''}{' ' if path else ''}{what}; download {ARTEFACTS} from "
            "github.com/alceubissoto/artifact-generalization-skin and give its path with --artefacts."
        )
    values = pandas.DataFrame(
        {name: numbers(table.column(name)) for name in ISIC_ARTEFACTS}, table.cells.index
    )
    outside = (values < 0) | (values > 1)
    if outside.any(axis=None):
        row = int(outside.any(axis=1).to_numpy().argmax())
        name = str(outside.columns[int(outside.iloc[row].to_numpy().argmax())])
        raise ValueError(
            f"{table.path}: line {table.lines[row]}, column {name!r}: {values[name][row]:g} is no "
            "probability; write 0 to 1."
        )
    if path is None:
        return values, truth.path.name
    names = table.column("image").str.replace(r"\.jpe?g$", "", regex=True, case=False)
    values = values.set_index(names.str.removesuffix(_REST))
    values = values[~values.index.duplicated()]
    return values.reindex(key).set_axis(truth.cells.index), Path(path).name
