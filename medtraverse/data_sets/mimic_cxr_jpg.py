"""MIMIC-CXR-JPG: labels of each study, views of each image, and the published split, gzipped or not.

Johnson et al., *MIMIC-CXR-JPG* (2019), arXiv 1901.07042, physionet.org/content/mimic-cxr-jpg.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..captions import CHEXPERT_LABELS, chexpert_caption
from .chexpert import LABELS
from .listing import (
    CHEST,
    FRONTAL,
    LATERAL,
    TEST,
    TRAIN,
    VALIDATION,
    Fault,
    Listing,
    Options,
    chest_prompts,
    existing,
    frame_of,
    read_states,
    views_of,
)
from .tables import first_file, read_table

NAME, TITLE = "mimic-cxr-jpg", "MIMIC-CXR-JPG"
_SPLITS = {"train": TRAIN, "validate": VALIDATION, "test": TEST}
_VIEWS = {"ap": FRONTAL, "pa": FRONTAL, "lateral": LATERAL, "ll": LATERAL, "xtable lateral": LATERAL}


def find(folder: Path) -> Path | None:
    """Return the folder of the tables: the given one, or one folder below."""
    labels = _table(folder, "chexpert")
    return None if labels is None or _table(labels.parent, "metadata") is None else labels.parent


def read(folder: Path, options: Options) -> Listing:
    """Join labels, metadata and, where it is there, the split."""
    faults: list[Fault] = []
    metadata, labels = _table(folder, "metadata"), _table(folder, "chexpert")
    assert metadata is not None and labels is not None
    table = read_table(metadata, folder)
    image, subject, study = (table.column(name) for name in ("dicom_id", "subject_id", "study_id"))
    view = table.column("ViewPosition")
    rows = frame_of(
        table,
        file="files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + image + ".jpg",
        patient=subject,
        view=views_of(view, _VIEWS),
        projection=view,
    )
    split = _table(folder, "split")
    if split is not None:
        told = read_table(split, folder)
        known = dict(zip(told.column("dicom_id"), told.column("split").str.lower().map(_SPLITS)))
        rows["split"] = image.map(known).fillna("")
    by_study = read_table(labels, folder)
    about = frame_of(by_study, file=by_study.column("study_id"))
    states = read_states(by_study, LABELS, about, faults).set_index(about.file)
    states = states[~states.index.duplicated()]
    for label in CHEXPERT_LABELS:
        by_study.column(label)
    rows.loc[~study.isin(states.index), "reason"] = "no labels"
    rows.loc[study.isin(set(about.file[about.reason != ""])), "reason"] = "no label"
    root = folder
    if not (folder / "files").is_dir():
        # some keep the patients' folders, p10 to p19, beside the tables
        probe = rows.file.str.removeprefix("files/")
        if existing(folder, list(probe[:: max(1, len(probe) // 20)])).any():
            rows["file"] = probe
    neutrals, attributes = chest_prompts(CHEXPERT_LABELS)
    return Listing(
        NAME,
        root,
        rows,
        states.reindex(study).set_axis(rows.index).astype(np.float32),
        chexpert_caption,
        CHEXPERT_LABELS,
        CHEST,
        neutrals,
        attributes,
        "CheXpert",
        faults,
    )


def _table(folder: Path, name: str) -> Path | None:
    return first_file(folder, [f"mimic-cxr-*-{name}.csv.gz", f"mimic-cxr-*-{name}.csv"])
