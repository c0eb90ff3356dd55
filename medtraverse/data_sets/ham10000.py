"""HAM10000: ``HAM10000_metadata``, a diagnosis for each image, several images of a lesion.

Tschandl et al., *The HAM10000 dataset* (2018), doi 10.7910/DVN/DBW86T.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .listing import Fault, Listing, Options, files_below, frame_of
from .tables import first_file, header_of, numbers, read_table

NAME, TITLE = "ham10000", "HAM10000"
# In the words of the pack's domain, which are the paper's for ISIC 2019.
SENTENCES = {
    "nv": "a dermoscopic image with melanocytic nevus (NV)",
    "mel": "a dermoscopic image with melanoma (MEL)",
    "bcc": "a dermoscopic image with basal cell carcinoma (BCC)",
    "akiec": "a dermoscopic image with actinic keratosis (AKIEC)",
    "bkl": "a dermoscopic image with benign keratosis (BKL)",
    "df": "a dermoscopic image with dermatofibroma (DF)",
    "vasc": "a dermoscopic image with vascular lesion (VASC)",
}
# The Dataverse names it without a suffix.
_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata")


def find(folder: Path) -> Path | None:
    """Return the folder of the table: the given one, or one folder below."""
    table = first_file(folder, _TABLES)
    return None if table is None or "dx" not in header_of(table) else table.parent


def read(folder: Path, options: Options) -> Listing:
    """Read the table; images lie in one folder or in two parts."""
    import pandas

    faults: list[Fault] = []
    path = first_file(folder, _TABLES)
    assert path is not None
    table = read_table(path, folder)
    image, diagnosis = table.column("image_id"), table.column("dx").str.lower()
    names = files_below(folder, [folder], (".jpg", ".jpeg", ".png"))
    rows = frame_of(
        table,
        file=[names.get(name, f"{name}.jpg" if name else "") for name in image],
        patient=table.text("lesion_id"),
        sex=table.text("sex"),
        age=numbers(table.text("age")),
    )
    for row in np.flatnonzero(~diagnosis.isin(SENTENCES) & (diagnosis != "")):
        what = f"column 'dx': {diagnosis[row]!r} is no diagnosis; write one of {', '.join(SENTENCES)}."
        faults.append(Fault("no label", rows.place[row], rows.file[row], what))
    rows.loc[~diagnosis.isin(SENTENCES), "reason"] = "no label"
    rows.loc[diagnosis == "", "reason"] = "blank labels"
    states = pandas.DataFrame(
        {name: (diagnosis == name).astype(np.float32) for name in SENTENCES}, rows.index
    ).where(diagnosis != "")
    return Listing(
        NAME,
        folder,
        rows,
        states,
        _caption,
        tuple(SENTENCES),
        f"by diagnosis: {' | '.join(SENTENCES.values())}",
        {"NV": SENTENCES["nv"]},
        {name: sentence for name, sentence in SENTENCES.items() if name != "nv"},
        "HAM10000",
        faults,
    )


def _caption(present: Sequence[str]) -> str:
    return SENTENCES[present[0]]
