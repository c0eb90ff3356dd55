"""Data sets as they lie on disk, read into captions and labels: the first step of stage 1.

TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623, section 3. `read` takes the folder of a data set in the
layout that it is published in, or a table of captions. Each layout has an adapter, a module of this package.
All of them end in a `Listing`, and the policies of `read` are the same for all. Nothing in a data set's
folder is ever written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .listing import Fault, Listing, Options
from .picture import read_pixels
from .policies import BLANKS, UNCERTAIN, VIEWS, DataSet, data_set
from .tables import joined

__all__ = [
    "BLANKS",
    "LAYOUTS",
    "UNCERTAIN",
    "VIEWS",
    "DataSet",
    "layout_of",
    "listing",
    "read",
    "read_pixels",
]

# Names of the modules beside this one, in the order in which they are asked.
LAYOUTS = (
    "chexpert",
    "chexpert-plus",
    "mimic-cxr-jpg",
    "nih",
    "padchest",
    "vindr",
    "isic2019",
    "ham10000",
    "captions",
)


def read(
    folder: str | os.PathLike[str],
    *,
    layout: str | None = None,
    uncertain: str = "ignore",
    views: str = "frontal",
    threshold: float = 0.9,
    artefacts: str | os.PathLike[str] | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    blank: str = "unknown",
) -> DataSet:
    """Read a data set; the defaults are the paper's.

    Parameters
    ----------
    folder : path
        Of the data set, or the one above; or a table of files and texts (``.jsonl``, ``.csv``).
    layout : str, optional
        One of `LAYOUTS`; recognised by its tables unless given.
    uncertain : str
        What becomes of a label of -1. ``ignore``: absent in the caption, NaN in the labels; ``positive``:
        present; ``drop``: the image is left out where the caption could name the label.
    views : str
        ``frontal``, ``lateral`` or ``all``. A set that knows no views is taken whole.
    threshold : float
        Probability from which an artefact of ISIC 2019 is there, above 0, to 1.
    artefacts : path, optional
        Table of ISIC 2019's artefacts, where it does not lie in the folder.
    held_out : float
        Share of the training patients (lesions; images, where a set names neither) that become the
        validation split where the set has none of its own, 0 to below 1.
    seed : int
        Of that choice. It does not depend on the other options, so what is trained with them shares it.
    blank : str
        What an empty label is: ``unknown``, NaN, or ``negative``, 0. Captions are the same.

    Returns
    -------
    DataSet

    Raises
    ------
    ValueError
        The folder is of no layout that is known, a table is not as it is published (the message names file
        and line), an option is out of range, or no image is left.
    """
    options = Options(threshold, None if artefacts is None else Path(artefacts))
    data = data_set(listing(folder, layout, options), uncertain, views, held_out, seed, blank)
    if not len(data.frame):
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in data.left_out.items())
        raise ValueError(
            f"data: no image of {folder} is left ({reasons or 'its tables are empty'}); "
            "put the images in their place, or change the options."
        )
    return data


def listing(
    folder: str | os.PathLike[str],
    layout: str | None = None,
    options: Options | None = None,
    faulty: bool = False,
) -> Listing:
    """Return what the tables of a data set say.

    Parameters
    ----------
    folder, layout
        As for `read`.
    options : Options, optional
    faulty : bool
        Whether to go on where cells cannot be read; their rows have a reason then, and `Listing.faults`
        names them. Otherwise the first is raised as a ValueError.
    """
    folder = Path(folder)
    name, found = layout_of(folder, layout)
    listed: Listing = _adapter(name).read(found, options or Options())
    rows = listed.rows
    for row in (rows.reason == "") & (rows.file == ""), (rows.reason == "") & rows.file.duplicated():
        kind = "twice" if rows.file[row].any() else "no name"
        for place, file in zip(rows.place[row], rows.file[row]):
            what = (
                "is already on another line; keep one row per image." if file else "names no image; write it."
            )
            listed.faults.append(Fault(kind, place, file, what))
        rows.loc[row, "reason"] = kind
    if listed.faults and not faulty:
        first = listed.faults[0]
        image = first.file if first.kind == "twice" else ""
        raise ValueError(f"{folder}: {first.place}: {image}{' ' * bool(image)}{first.what}")
    return listed


def layout_of(folder: Path, layout: str | None = None) -> tuple[str, Path]:
    """Return the layout of a folder, and where its tables lie. Raises ValueError where there is none."""
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout: there is no {layout!r}; the choices are {', '.join(LAYOUTS)}.")
    if not folder.exists():
        raise ValueError(f"data: {folder} is not there; give the folder of a data set.")
    found = {
        name: place
        for name in (LAYOUTS if layout is None else (layout,))
        if (name == "captions" or folder.is_dir()) and (place := _adapter(name).find(folder)) is not None
    }
    # published tables go before captions, and those in the folder itself before those one folder below
    published = {name: place for name, place in found.items() if name != "captions"} or found
    own = {name: place for name, place in published.items() if place == folder} or published
    if len(own) > 1:
        raise ValueError(
            f"data: {folder} holds {joined(list(own))}; give the folder of one of them, or --layout."
        )
    for name, place in own.items():
        return name, place
    titles = [_adapter(name).TITLE for name in (LAYOUTS if layout is None else (layout,))]
    raise ValueError(
        f"data: {folder} does not hold the tables of {', '.join(titles[:-1])}{' or ' * (len(titles) > 1)}"
        f"{titles[-1]}; give the folder that its archive unpacks to."
    )


def _adapter(name: str) -> Any:
    from importlib import import_module

    module = "captions_file" if name == "captions" else name.replace("-", "_")
    return import_module(f".{module}", __package__)
