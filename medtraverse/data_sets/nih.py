"""NIH ChestX-ray14: ``Data_Entry_2017_v2020.csv``, findings as ``A|B``, images in one folder or twelve.

Wang et al., *ChestX-ray8* (2017), nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

from pathlib import Path

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
)
from .tables import first_file, numbers, read_table

NAME, TITLE = "nih", "NIH ChestX-ray14"
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural Thickening",
    "Hernia",
)
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017.csv")
_LISTS = {"train_val_list.txt": TRAIN, "test_list.txt": TEST}


def find(folder: Path) -> Path | None:
    """Return the folder of the table: the given one, or one folder below."""
    table = first_file(folder, _TABLES)
    return None if table is None else table.parent


def read(folder: Path, options: Options) -> Listing:
    """Read the table and, where they are there, the lists of the published split."""
    import pandas

    faults: list[Fault] = []
    path = first_file(folder, _TABLES)
    assert path is not None
    table = read_table(path, folder)
    image = table.column("Image Index")
    names = files_below(folder, [folder], (".png", ".jpg", ".jpeg"))
    stem = image.str.replace(r"\.\w+$", "", regex=True)
    age = table.text("Patient Age").str.extract(r"(\d+)\s*([YMD]?)")
    years = numbers(age[0]) / age[1].map({"M": 12, "D": 365}).fillna(1).to_numpy(float)
    view = table.text("View Position")
    rows = frame_of(
        table,
        file=stem.map(names).fillna(image),
        patient=table.text("Patient ID"),
        view=view.map(lambda word: FRONTAL if word in ("PA", "AP") else "other" if word else ""),
        projection=view,
        sex=table.text("Patient Sex", "Patient Gender"),
        age=years,
    )
    for name, split in _LISTS.items():
        if (folder / name).is_file():
            listed = set((folder / name).read_text(encoding="utf-8").split())
            rows.loc[image.isin(listed), "split"] = split
    findings = table.column("Finding Labels")
    known = {plain(name): name for name in (*LABELS, NO_FINDING)}
    kinds = {text: [plain(word) for word in text.split("|") if word.strip()] for text in findings.unique()}
    for text, words in kinds.items():
        if not words or any(word not in known for word in words):
            word = next((word for word in words if word not in known), "")
            rows.loc[findings == text, "reason"] = "no label" if words else "blank labels"
            if not words:
                continue
            what = (
                f"column 'Finding Labels': {word!r} is no finding; write one of {', '.join(known.values())}."
            )
            alike = rows[findings == text]
            faults += [Fault("no label", place, file, what) for place, file in zip(alike.place, alike.file)]
    states = pandas.DataFrame(
        {
            name: findings.map(
                {text: float(key in words) if words else np.nan for text, words in kinds.items()}
            )
            for key, name in known.items()
        },
        rows.index,
        dtype=np.float32,
    )
    return Listing(
        NAME,
        folder,
        rows,
        states,
        chest_caption,
        LABELS,
        chest_rule(LABELS),
        {"normal": NORMAL},
        {name: chest_caption([name]) for name in LABELS},
        "NIH",
        faults,
        normal=NO_FINDING,
    )
