"""Captions of the paper's fine-tuning sets, read from the data sets' own CSV files.

TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623: CheXpert films are described by those of eight labels
that are certain, ISIC 2019 images by diagnosis and artefacts. Model prompts for sampling differ from these
on purpose; see `prompts`.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .labels import plain
from .table import read_csv

NORMAL = "Normal chest X-ray with no significant findings"
CHEXPERT_LABELS = (
    "No Finding",
    "Cardiomegaly",
    "Lung Opacity",
    "Edema",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
ISIC_ARTEFACTS = ("dark corner", "hair", "gel border", "gel bubble", "ruler", "ink", "patches")
DIAGNOSES = {
    "MEL": "a dermoscopic image with melanoma (MEL)",
    "NV": "a dermoscopic image with melanocytic nevus (NV)",
}

# As CheXpert, the authors' tables and pandas write them, in small letters; anything else goes through
# float().
STATES: dict[str, int | None] = {"1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}
STATES |= {"true": 1, "false": 0}
STATES |= dict.fromkeys(("", "nan", "na", "n/a", "<na>", "none", "null"))


class Captioned(NamedTuple):
    """An image and its caption.

    The image is a path relative to the folder that holds the data set; `image_file` finds it.
    """

    image: str
    caption: str


class Captions(list[Captioned]):
    """A list of `Captioned` in the order of the table.

    `left_out` counts the rows that are not in it, by reason.
    """

    def __init__(self, rows: Iterable[Captioned] = (), left_out: dict[str, int] | None = None):
        super().__init__(rows)
        self.left_out = dict(left_out or {})


def chexpert_caption(present: Iterable[str]) -> str:
    """Return the paper's caption of a chest film (section 3 of TehraniNasab, Kumar, Arbel 2025).

    Parameters
    ----------
    present : iterable of str
        Labels that are 1. Those outside `CHEXPERT_LABELS` (Atelectasis, Fracture, ...) change nothing.

    Returns
    -------
    str
        The labels in the order of `CHEXPERT_LABELS`, or the neutral sentence where there are none.
    """
    present = set(present)
    names = [name for name in CHEXPERT_LABELS if name in present]
    return f"Chest X-ray showing {', '.join(names)}" if names else NORMAL


def isic_caption(diagnosis: str, present: Iterable[str]) -> str:
    """Return the paper's caption of a lesion (section 3 of TehraniNasab, Kumar, Arbel 2025).

    Parameters
    ----------
    diagnosis : {"MEL", "NV"}
    present : iterable of str
        Artefacts that are there, of `ISIC_ARTEFACTS`.

    Returns
    -------
    str
        The diagnosis, then the artefacts in the order of `ISIC_ARTEFACTS`.

    Raises
    ------
    ValueError
        Another diagnosis, for which the paper has no sentence, or an unknown artefact.
    """
    if diagnosis not in DIAGNOSES:
        raise ValueError(f"diagnosis: {diagnosis!r} has no sentence; give {' or '.join(DIAGNOSES)}.")
    present = set(present)
    if unknown := sorted(present - set(ISIC_ARTEFACTS)):
        raise ValueError(f"artefact: {unknown[0]!r} is unknown; give one of {', '.join(ISIC_ARTEFACTS)}.")
    names = [name for name in ISIC_ARTEFACTS if name in present]
    return f"{DIAGNOSES[diagnosis]} {'showing ' + ', '.join(names) if names else 'with no visible artifacts'}"


def read_chexpert(path: str | os.PathLike[str], frontal_only: bool = False) -> Captions:
    """Read CheXpert's ``train.csv`` or ``valid.csv``, or a table with `Path` and `CHEXPERT_LABELS`.

    Labels of 1 (or True) enter the caption; 0 (or False), -1 (uncertain) and blank (or NaN, NA) do not.
    Column names may differ in case.

    Parameters
    ----------
    path : path
        CSV file with a header.
    frontal_only : bool
        Leave out lateral films, by the column `Frontal/Lateral`.

    Returns
    -------
    Captions
        `left_out` has "lateral" when `frontal_only` is set.

    Raises
    ------
    ValueError
        The file cannot be read, lacks or repeats a column, has no rows, a label is not 1, 0, -1 or blank, a
        view is neither Frontal nor Lateral, or an image stands on two rows. The message names the file, the
        line and the column.
    """
    view_column = ["Frontal/Lateral"] if frontal_only else []
    films, lateral = Captions(), 0
    for place, cells in _rows(path, "Path", [*CHEXPERT_LABELS, *view_column]):
        image, *labels = cells[: 1 + len(CHEXPERT_LABELS)]
        present = [
            name
            for name, cell in zip(CHEXPERT_LABELS, labels)
            if _state(cell, place, name, (1, 0, -1, None)) == 1
        ]
        if frontal_only and (view := cells[-1]) != "Frontal":
            if view != "Lateral":
                raise ValueError(
                    f"{place}, column 'Frontal/Lateral': {view!r} is no view; write Frontal or Lateral."
                )
            lateral += 1
            continue
        films.append(Captioned(image, chexpert_caption(present)))
    films.left_out = {"lateral": lateral} if frontal_only else {}
    return films


def read_isic(path: str | os.PathLike[str]) -> Captions:
    """Read a table of ISIC 2019.

    It has the columns `image`, `MEL`, `NV` and the artefacts, each 0 or 1, spelled `dark_corner` or
    `dark corner`. Rows of other diagnoses are left out and counted. Other columns, such as the authors'
    `vasc`, are not looked at.

    Parameters
    ----------
    path : path
        CSV file with a header.

    Returns
    -------
    Captions
        Image names get `.jpg` where the table has none; `left_out` has "neither MEL nor NV".

    Raises
    ------
    ValueError
        As for `read_chexpert`; also a row that is both MEL and NV. Predicted probabilities of artefacts are
        refused: cut them first.
    """
    lesions, other = Captions(), 0
    for place, (image, *cells) in _rows(path, "image", [*DIAGNOSES, *ISIC_ARTEFACTS]):
        state = {
            name: _state(cell, place, name, (1, 0))
            for name, cell in zip((*DIAGNOSES, *ISIC_ARTEFACTS), cells)
        }
        diagnoses = [name for name in DIAGNOSES if state[name]]
        if len(diagnoses) > 1:
            raise ValueError(f"{place}, columns 'MEL' and 'NV': both are 1; give a lesion one diagnosis.")
        if not diagnoses:
            other += 1
            continue
        caption = isic_caption(diagnoses[0], (name for name in ISIC_ARTEFACTS if state[name]))
        lesions.append(Captioned(image if Path(image).suffix else f"{image}.jpg", caption))
    lesions.left_out = {"neither MEL nor NV": other}
    return lesions


def image_file(root: str | os.PathLike[str], image: str) -> Path:
    """Find an image of a table.

    Parameters
    ----------
    root : path
        CheXpert's paths begin with the data set's own folder; this is that folder or the one above.
    image : str
        As the table has it. Some images of ISIC 2019 lie under their name with `_downsampled` added.

    Returns
    -------
    Path
        Of a file that is there.

    Raises
    ------
    ValueError
        None of these is there; the message lists where it was looked for.
    """
    plain = Path(root, image)
    candidates = [plain, plain.with_name(f"{plain.stem}_downsampled{plain.suffix}")]
    if len(inner := Path(image).parts[1:]):
        candidates.insert(1, Path(root, *inner))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(f"image: {image!r} is not there; put it at one of {', '.join(map(str, candidates))}.")


def _rows(path: str | os.PathLike[str], key: str, columns: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each row's place, for messages, and the cells of `key` and `columns`.

    A key stands on one row only.
    """
    table = read_csv(path)
    _, header = next(table, (0, []))
    where = _columns(path, header, [key, *columns])
    seen: dict[str, int] = {}
    for line, row in table:
        place = f"{path}: line {line}"
        cells = [row[column] for column in where]
        if not cells[0]:
            raise ValueError(f"{place}, column {header[where[0]]!r}: is empty; name the image.")
        if (first := seen.setdefault(cells[0], line)) != line:
            raise ValueError(
                f"{place}, column {header[where[0]]!r}: {cells[0]} is already on line {first}; "
                "keep one row per image."
            )
        yield place, cells
    if not seen:
        raise ValueError(
            f"{path}: has no rows; give a header with {key}, {', '.join(columns)} and one row per image."
        )


def _columns(path: str | os.PathLike[str], header: list[str], wanted: list[str]) -> list[int]:
    # Case decides where a table has both: the authors' ISIC table has a diagnosis `VASC` and an artefact
    # `vasc`.
    spaced = [name.replace("_", " ") for name in header]
    alike = [
        [index for index, other in enumerate(spaced) if other == name]
        or [index for index, other in enumerate(header) if plain(other) == plain(name)]
        for name in wanted
    ]
    if absent := [name for name, places in zip(wanted, alike) if not places]:
        raise ValueError(
            f"{path}: lacks column{'s' * bool(absent[1:])} {', '.join(absent)}; "
            f"it has {', '.join(header) or 'no header'}."
        )
    if twice := [name for name, places in zip(wanted, alike) if len(places) > 1]:
        raise ValueError(f"{path}: column {twice[0]!r} stands twice in the header; keep one.")
    return [places[0] for places in alike]


def _state(cell: str, place: str, column: str, allowed: tuple[int | None, ...]) -> int | float | str | None:
    value: int | float | str | None
    if cell.lower() in STATES:
        value = STATES[cell.lower()]
    else:
        try:
            value = float(cell)
        except ValueError:
            value = cell
    if value not in allowed:
        listed = ", ".join("blank" if state is None else str(state) for state in allowed)
        remedy = (
            "cut probabilities at a threshold first"
            if isinstance(value, float) and 0 < value < 1
            else "write one of these"
        )
        raise ValueError(f"{place}, column {column!r}: {cell or 'blank'} is none of {listed}; {remedy}.")
    return value
