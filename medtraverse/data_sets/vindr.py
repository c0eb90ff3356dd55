"""VinDr-CXR: several readers' findings of each film, which lies as DICOM.

Nguyen et al., *VinDr-CXR* (2022), arXiv 2012.15029: Kaggle's ``train.csv`` with a row for each box and
reader, or PhysioNet's ``annotations/image_labels_train.csv`` with a row for each reader, and ``…_test.csv``
with one a film, agreed upon. A finding is there when two readers have it, or the only one; when one of
several has it, it is uncertain. All films are frontal; the set names no patients.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..captions import NORMAL
from ..labels import plain
from .listing import (
    FRONTAL,
    NO_FINDING,
    TEST,
    TRAIN,
    Fault,
    Listing,
    Options,
    chest_caption,
    chest_rule,
    files_below,
    frame_of,
    read_states,
)
from .tables import header_of, read_table

if TYPE_CHECKING:
    import pandas

NAME, TITLE = "vindr", "VinDr-CXR"
# The set's name, and CheXpert's where it means the same; each word large otherwise.
LABELS = {
    "Aortic enlargement": "Aortic Enlargement",
    "Atelectasis": "Atelectasis",
    "Calcification": "Calcification",
    "Cardiomegaly": "Cardiomegaly",
    "Clavicle fracture": "Clavicle Fracture",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Enlarged PA": "Enlarged PA",
    "ILD": "ILD",
    "Infiltration": "Infiltration",
    "Lung Opacity": "Lung Opacity",
    "Lung cavity": "Lung Cavity",
    "Lung cyst": "Lung Cyst",
    "Mediastinal shift": "Mediastinal Shift",
    "Nodule/Mass": "Nodule/Mass",
    "Pleural effusion": "Pleural Effusion",
    "Pleural thickening": "Pleural Thickening",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Pulmonary Fibrosis",
    "Rib fracture": "Rib Fracture",
    "COPD": "COPD",
    "Lung tumor": "Lung Tumor",
    "Pneumonia": "Pneumonia",
    "Tuberculosis": "Tuberculosis",
    "No finding": NO_FINDING,
}
# They name nothing that a picture could show.
_UNNAMED = ("other lesion", "other disease", "other diseases")
_TABLES = {
    "image_labels_train.csv": TRAIN,
    "image_labels_test.csv": TEST,
    "annotations/image_labels_train.csv": TRAIN,
    "annotations/image_labels_test.csv": TEST,
}


def find(folder: Path) -> Path | None:
    """Return the folder of the tables: the given one, or one folder below."""
    for home in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if any((home / name).is_file() for name in _TABLES):
            return home
        if {"image id", "class name", "rad id"} <= set(header_of(home / "train.csv")):
            return home
    return None


def read(folder: Path, options: Options) -> Listing:
    """Read what the readers found, and count them."""
    import pandas

    faults: list[Fault] = []
    paths = {name: split for name, split in _TABLES.items() if (folder / name).is_file()} or {
        "train.csv": TRAIN
    }
    parts = [_read(folder, name, split, faults) for name, split in paths.items()]
    rows = pandas.concat([part[0] for part in parts], ignore_index=True)
    states = pandas.concat([part[1] for part in parts], ignore_index=True)
    names = files_below(folder, [folder], (".dicom", ".dcm", ".png", ".jpg"))
    rows["file"] = [
        names.get(image, f"{split}/{image}.dicom" if image else "")
        for image, split in zip(rows.file, rows.split)
    ]
    spoken = [name for name in LABELS.values() if name in states and name != NO_FINDING]
    return Listing(
        NAME,
        folder,
        rows,
        states[[*spoken, *(name for name in states if name == NO_FINDING)]],
        chest_caption,
        spoken,
        f"{chest_rule(spoken)}; present: found by two readers",
        {"normal": NORMAL},
        {name: chest_caption([name]) for name in spoken},
        None,
        faults,
        normal=NO_FINDING if NO_FINDING in states else None,
    )


def _read(folder: Path, name: str, split: str, faults: list[Fault]) -> tuple[Any, Any]:
    """Return a row and the states of each film in one of the tables."""
    import pandas

    table = read_table(folder / name, folder)
    image = table.column("image_id")
    reader = table.text("rad_id", "rad_ID")
    rows = frame_of(table, file=image, split=split, view=FRONTAL)
    if table.find("class_name") is not None:
        found = table.column("class_name")
        known = {plain(word): label for word, label in LABELS.items()}
        for row in np.flatnonzero(~found.map(plain).isin({*known, *_UNNAMED})):
            what = f"column 'class_name': {found[row]!r} is no class; write one of the set's."
            faults.append(Fault("no label", rows.place[row], image[row], what))
            rows.loc[row, "reason"] = "no label"
        marked = pandas.DataFrame({"image": image, "reader": reader, "label": found.map(plain).map(known)})
        seen = marked.dropna().drop_duplicates()
        votes = (
            seen.groupby(["image", "label"])
            .size()
            .unstack(fill_value=0)
            .reindex(image.unique(), fill_value=0)
        )
        votes = votes.reindex(columns=[label for label in LABELS.values() if label in votes], fill_value=0)
    else:
        columns = [word for word in LABELS if table.find(word) is not None]
        marks = read_states(table, columns, rows, faults).rename(columns=LABELS)
        votes = (marks == 1).groupby(image, sort=False).sum()
    readers = reader.groupby(image, sort=False).nunique().reindex(votes.index)
    return _films(rows, votes, readers)


def _films(rows: Any, votes: pandas.DataFrame, readers: pandas.Series) -> tuple[Any, Any]:
    """Return a row for each film, and what its readers agree on."""
    import pandas

    needed = readers.clip(upper=2).to_numpy()[:, None]
    count = votes.to_numpy()
    states = np.where(count >= needed, 1, np.where(count > 0, -1, 0)).astype(np.float32)
    films = rows.drop_duplicates("file").set_index("file", drop=False).loc[votes.index].reset_index(drop=True)
    films.loc[films.file.isin(set(rows.file[rows.reason != ""])), "reason"] = "no label"
    return films, pandas.DataFrame(states, films.index, votes.columns)
