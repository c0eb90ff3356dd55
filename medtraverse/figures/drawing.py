"""A figure with its numbers and the settings that made it, written as the files that a paper needs."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..digest import hashes
from ..whole_file import whole_files, write_text
from .render import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VECTORS = ("svg", "pdf", "none")
SETTINGS, HASHES = "medtraverse", "medtraverse sha256"


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a figure node hands on.

    Attributes
    ----------
    figure : matplotlib Figure
    table_csv : str
        The figure's numbers as CSV, the notice in its last column; of a grid what each cell shows.
    settings : dict
        Everything that the figure depends on, JSON-serialisable; the digest of each weight file under a key
        `sha256`.
    """

    figure: "Figure"
    table_csv: str
    settings: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """Return JSON texts for `save`: settings as "medtraverse", digests as "medtraverse sha256"."""
        return {SETTINGS: json.dumps(self.settings), HASHES: json.dumps(hashes(self.settings))}


def write(
    drawing: Drawing,
    stem: str | os.PathLike[str],
    vector: str = "none",
    table: bool = True,
    dpi: float = 200,
    metadata: Mapping[str, str] | None = None,
    png_metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a drawing as STEM.png, STEM.svg or STEM.pdf, and STEM.csv; all of them, or
    none where one cannot be made.

    Parameters
    ----------
    drawing : Drawing
    stem : path without suffix
        A dot in it belongs to the name. The folder is made if need be, files in the way are replaced.
    vector : "svg", "pdf" or "none"
    table : bool
        Write the CSV.
    dpi : float
        Dots per inch of the PNG, and of images within the SVG or PDF.
    metadata : mapping of str to str, optional
        Texts for PNG and vector file instead of `drawing.metadata()`.
    png_metadata : mapping of str to str, optional
        Further texts for the PNG alone.

    Returns
    -------
    list of Path
        In the order above.

    Raises
    ------
    ValueError
        Another `vector`.
    """
    if vector not in VECTORS:
        raise ValueError(f"vector: {vector!r} is unknown; choose one of {', '.join(VECTORS)}.")
    stem = Path(stem)
    texts = dict(drawing.metadata() if metadata is None else metadata)
    with whole_files(stem.parent) as apart:
        made = [save(drawing.figure, apart / f"{stem.name}.png", {**(png_metadata or {}), **texts}, dpi)]
        if vector != "none":
            made.append(save(drawing.figure, apart / f"{stem.name}.{vector}", texts, dpi))
        if table:
            made.append(apart / f"{stem.name}.csv")
            write_text(made[-1], drawing.table_csv)
    return [stem.parent / path.name for path in made]
