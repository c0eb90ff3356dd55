"""CheXpert: ``train.csv`` and ``valid.csv`` with the column ``Path``, in the small set and the full one.

Irvin et al., *CheXpert* (2019), https://stanfordmlgroup.github.io/competitions/chexpert.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..captions import CHEXPERT_LABELS, chexpert_caption
from .listing import (
    CHEST,
    FRONTAL,
    LATERAL,
    TEST,
    TRAIN,
    Fault,
    Listing,
    Options,
    chest_prompts,
    existing,
    frame_of,
    read_states,
    views_of,
)
from .tables import header_of, numbers, read_table

if TYPE_CHECKING:
    import pandas

NAME, TITLE = "chexpert", "CheXpert"
LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
# `valid.csv` was read by radiologists, all else by a labeller of reports: it is what others test on.
_TABLES = {"train.csv": TRAIN, "valid.csv": TEST}
_VIEWS = {"frontal": FRONTAL, "lateral": LATERAL}


def find(folder: Path) -> Path | None:
    """Return the folder of the tables: the given one, or one folder below."""
    for pattern in (name for table in _TABLES for name in (table, f"*/{table}")):
        for path in sorted(folder.glob(pattern)):
            if {"path", *map(str.lower, CHEXPERT_LABELS)} <= set(header_of(path)):
                return path.parent
    return None


def read(folder: Path, options: Options) -> Listing:
    """Read the tables; the blank ones' view is taken from the file's name."""
    import pandas

    faults: list[Fault] = []
    parts, labels = [], []
    for name, split in _TABLES.items():
        if not (folder / name).is_file():
            continue
        table = read_table(folder / name, folder)
        path = table.column("Path")
        named = path.str.extract(r"view\d+_(\w+?)\.", expand=False).fillna("")
        told = table.text("Frontal/Lateral")
        rows = frame_of(
            table,
            file=path.str.replace(r"^CheXpert[^/]*/", "", regex=True),
            patient=path.str.extract(r"(patient\d+)", flags=re.IGNORECASE, expand=False).fillna(""),
            split=split,
            view=views_of(told.where(told != "", named), _VIEWS),
            projection=table.text("AP/PA"),
            sex=table.text("Sex"),
            age=numbers(table.text("Age")),
        )
        for label in CHEXPERT_LABELS:
            table.column(label)
        labels.append(read_states(table, LABELS, rows, faults))
        parts.append(rows)
    rows = pandas.concat(parts, ignore_index=True)
    root = _place(folder, rows)
    neutrals, attributes = chest_prompts(CHEXPERT_LABELS)
    return Listing(
        NAME,
        root,
        rows,
        pandas.concat(labels, ignore_index=True),
        chexpert_caption,
        CHEXPERT_LABELS,
        CHEST,
        neutrals,
        attributes,
        "CheXpert",
        faults,
    )


def _place(folder: Path, rows: pandas.DataFrame) -> Path:
    """Return where images lie: beside the tables, or in the folder above or below, where the first ones do.

    The full set is downloaded in parts, ``CheXpert-v1.0 batch 2 (train 1)/patient00001``; their names are
    then written into the rows' files.
    """
    first = rows.file[rows.split == rows.split.iloc[0]]
    probe = list(first[:: max(1, len(first) // 20)])
    inner = [path for path in sorted(folder.glob("CheXpert-v1.0*")) if path.is_dir()]
    for root in (folder, folder.parent, *inner):
        if existing(root, probe).any():
            return root
    for root in (folder, folder.parent):
        parts = [path for path in sorted(root.glob("CheXpert*batch*")) if path.is_dir()]
        homes = {
            patient.name: patient.relative_to(root).as_posix()
            for part in parts
            for pattern in ("patient*", "*/patient*")
            for patient in part.glob(pattern)
        }
        if homes:
            rest = rows.file.str.replace(r"^.*?patient\d+", "", regex=True)
            home = rows.patient.map(homes)
            rows["file"] = rows.file.where(home.isna(), home.fillna("") + rest)
            return root
    return folder
