"""PadChest: ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` and PNG of 16 bits.

Bustos et al., *PadChest* (2020), arXiv 1901.07441, bimcv.cipf.es/bimcv-projects/padchest. Its 174 findings
are gathered under CheXpert's names where they mean the same, and under names of their own where a thousand
frontal films or more have them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

from ..captions import NORMAL
from ..labels import plain
from .listing import (
    FRONTAL,
    LATERAL,
    NO_FINDING,
    Fault,
    Listing,
    Options,
    chest_caption,
    chest_rule,
    existing,
    files_below,
    frame_of,
    views_of,
)
from .tables import first_file, numbers, read_table

NAME, TITLE = "padchest", "PadChest"
FINDINGS = {
    "Cardiomegaly": ("cardiomegaly",),
    "Edema": ("pulmonary edema",),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Atelectasis": (
        "atelectasis",
        "laminar atelectasis",
        "lobar atelectasis",
        "segmental atelectasis",
        "total atelectasis",
        "round atelectasis",
        "atelectasis basal",
    ),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Pleural Effusion": (
        "pleural effusion",
        "loculated pleural effusion",
        "loculated fissural effusion",
        "hydropneumothorax",
    ),
    "Fracture": (
        "fracture",
        "rib fracture",
        "callus rib fracture",
        "vertebral fracture",
        "clavicle fracture",
        "humeral fracture",
    ),
    "Support Devices": (
        "pacemaker",
        "single chamber device",
        "dual chamber device",
        "dai",
        "electrical device",
        "catheter",
        "central venous catheter",
        "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein",
        "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
        "endotracheal tube",
        "tracheostomy tube",
        "nsg tube",
        "chest drain tube",
        "gastrostomy tube",
        "ventriculoperitoneal drain tube",
        "endoprosthesis",
        "aortic endoprosthesis",
        "prosthesis",
        "artificial heart valve",
        "artificial aortic heart valve",
        "artificial mitral heart valve",
    ),
    "Infiltration": ("infiltrates",),
    "Nodule": ("nodule", "multiple nodules"),
    "Mass": ("mass", "pulmonary mass", "mediastinal mass", "pleural mass"),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Pleural Thickening": (
        "pleural thickening",
        "apical pleural thickening",
        "calcified pleural thickening",
    ),
    "Hernia": ("hiatal hernia",),
    "Scoliosis": ("scoliosis",),
    "Aortic Elongation": ("aortic elongation", "descendent aortic elongation", "ascendent aortic elongation"),
    "Aortic Atheromatosis": ("aortic atheromatosis",),
    "COPD Signs": ("copd signs",),
    "Air Trapping": ("air trapping",),
    "Interstitial Pattern": ("interstitial pattern", "reticular interstitial pattern"),
    "Alveolar Pattern": ("alveolar pattern",),
    "Increased Density": ("increased density",),
    "Costophrenic Angle Blunting": ("costophrenic angle blunting",),
    "Hilar Enlargement": ("hilar enlargement", "vascular hilar enlargement"),
    "Hemidiaphragm Elevation": ("hemidiaphragm elevation",),
    "Volume Loss": ("volume loss",),
    "Bronchiectasis": ("bronchiectasis",),
    "Fibrotic Band": ("fibrotic band",),
    "Calcified Granuloma": ("calcified granuloma",),
    "Pseudonodule": ("pseudonodule",),
    "Heart Insufficiency": ("heart insufficiency",),
    "Chronic Changes": ("chronic changes",),
    "Kyphosis": ("kyphosis",),
    "Vertebral Degenerative Changes": ("vertebral degenerative changes",),
    "Surgical Material": ("suture material", "sternotomy", "osteosynthesis material", "metal"),
    NO_FINDING: ("normal",),
}
# The radiologists' words for a film that they would not judge.
_EXCLUDED = ("exclude", "suboptimal study")
_TABLES = ("PADCHEST_chest_x_ray_images_labels_160K*.csv", "PADCHEST_chest_x_ray_images_labels_160K*.csv.gz")
_VIEWS = {"pa": FRONTAL, "ap": FRONTAL, "ap horizontal": FRONTAL, "l": LATERAL, "unk": ""}


def find(folder: Path) -> Path | None:
    """Return the folder of the table: the given one, or one folder below."""
    table = first_file(folder, _TABLES)
    return None if table is None else table.parent


def read(folder: Path, options: Options) -> Listing:
    """Read the table; images lie in the folders that it numbers, or anywhere below."""
    import pandas

    faults: list[Fault] = []
    path = first_file(folder, _TABLES)
    assert path is not None
    table = read_table(path, folder)
    image = table.column("ImageID")
    view = table.text("Projection")
    place = table.text("ImageDir").str.replace(r"\.0$", "", regex=True)
    rows = frame_of(
        table,
        file=(place + "/" + image).where(image != "", "").str.removeprefix("/"),
        patient=table.text("PatientID"),
        view=views_of(view, _VIEWS),
        projection=view,
        sex=table.text("PatientSex_DICOM"),
        age=numbers(table.text("StudyDate_DICOM").str[:4]) - numbers(table.text("PatientBirth")),
    )
    if not existing(folder, list(rows.file[:: max(1, len(rows) // 20)])).any():
        names = files_below(folder, [folder], (".png",))
        rows["file"] = image.str.replace(r"\.png$", "", regex=True).map(names).fillna(rows.file)
    cells = table.column("Labels")
    kinds = {text: _words(text) for text in cells.unique()}
    words = cells.map(kinds)
    for row in np.flatnonzero(words.isna()):
        what = f"column 'Labels': {cells[row]!r} is no list; write ['one', 'two']."
        faults.append(Fault("no label", rows.place[row], rows.file[row], what))
    rows.loc[words.isna(), "reason"] = "no label"
    rows.loc[cells.map(lambda text: kinds[text] == set()), "reason"] = "blank labels"
    rows.loc[cells.map(lambda text: bool((kinds[text] or set()) & set(_EXCLUDED))), "reason"] = (
        "excluded by its readers"
    )
    states = pandas.DataFrame(
        {
            name: cells.map(
                {text: float(bool(found & set(terms))) if found else np.nan for text, found in kinds.items()}
            )
            for name, terms in FINDINGS.items()
        },
        rows.index,
        dtype=np.float32,
    )
    spoken = [name for name in FINDINGS if name != NO_FINDING]
    return Listing(
        NAME,
        folder,
        rows,
        states,
        chest_caption,
        spoken,
        chest_rule(spoken),
        {"normal": NORMAL},
        {name: chest_caption([name]) for name in spoken},
        None,
        faults,
        normal=NO_FINDING,
    )


def _words(text: str) -> set[str] | None:
    """Return the findings of a cell, none for a blank one, None where it is no list of texts."""
    if text.lower() in ("", "nan", "na"):
        return set()
    try:
        listed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        return None
    return {plain(word) for word in listed if word.strip()}
