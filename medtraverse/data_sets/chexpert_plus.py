"""CheXpert Plus: ``df_chexpert_plus_240401.csv``, its images as PNG, its labels apart as JSON.

Chambon et al., *CheXpert Plus* (2024), arXiv 2405.19538. Of the three label files that of the impressions is
taken, which CheXpert's own labels come from; the reports' also name what an earlier film showed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..captions import CHEXPERT_LABELS, chexpert_caption
from .chexpert import LABELS
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
from .tables import first_file, numbers, read_json_lines, read_table

if TYPE_CHECKING:
    import pandas

NAME, TITLE = "chexpert-plus", "CheXpert Plus"
_TABLE = "df_chexpert_plus_*.csv"
_LABELS = ("impression_fixed.json", "findings_fixed.json", "report_fixed.json")
_FOLDERS = ("chexbert_labels", "chexpert_labels", "label", "")
# As CheXpert's: the radiologists read the films of "valid".
_SPLITS = {"train": TRAIN, "valid": TEST}


def find(folder: Path) -> Path | None:
    """Return the folder of the table: the given one, or one folder below."""
    table = first_file(folder, [_TABLE])
    return None if table is None else table.parent


def read(folder: Path, options: Options) -> Listing:
    """Read the table and the labels; raises ValueError where there is no label file."""
    faults: list[Fault] = []
    path = first_file(folder, [_TABLE])
    assert path is not None
    table = read_table(path, folder)
    image = table.column("path_to_image")
    rows = frame_of(
        table,
        file=image,
        patient=table.text("deid_patient_id"),
        split=table.text("split").map(lambda word: _SPLITS.get(word.lower(), "")),
        view=views_of(table.text("frontal_lateral"), {"frontal": FRONTAL, "lateral": LATERAL}),
        projection=table.text("ap_pa"),
        sex=table.text("sex"),
        age=numbers(table.text("age")),
    )
    source = next(
        (place for name in _LABELS for inner in _FOLDERS if (place := folder / inner / name).is_file()), None
    )
    if source is None:
        raise ValueError(
            f"data: {folder} has no labels; put {_LABELS[0]} into {folder / _FOLDERS[0]}, where its archive "
            "has it."
        )
    told = read_json_lines(source, folder)
    about = frame_of(told, file=told.column("path_to_image"))
    states = read_states(told, LABELS, about, faults).set_index(about.file)
    states = states[~states.index.duplicated()]
    rows.loc[~image.isin(states.index), "reason"] = "no labels"
    rows.loc[image.isin(set(about.file[about.reason != ""])), "reason"] = "no label"
    root, rows["file"] = _place(folder, image)
    neutrals, attributes = chest_prompts(CHEXPERT_LABELS)
    return Listing(
        NAME,
        root,
        rows,
        states.reindex(image).set_axis(rows.index),
        chexpert_caption,
        CHEXPERT_LABELS,
        f"{CHEST} ({source.name})",
        neutrals,
        attributes,
        "CheXpert",
        faults,
    )


def _place(folder: Path, image: pandas.Series) -> tuple[Path, pandas.Series]:
    """Return where images lie, and their names: the table says ``.jpg``, the disk has ``PNG/….png``."""
    for suffix in (".png", ".jpg"):
        names = image.str.replace(r"\.\w+$", suffix, regex=True)
        probe = list(names[:: max(1, len(names) // 20)])
        for root in (folder / "PNG", folder, *sorted(folder.glob("PNG/*"))):
            if root.is_dir() and existing(root, probe).any():
                return root, names
    return folder, image.str.replace(r"\.\w+$", ".png", regex=True)
