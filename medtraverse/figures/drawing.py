"""A figure with the numbers it shows and the settings that made them: what a paper needs, saved side by side."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from .render import save

VECTORS = ("svg", "pdf", "none")


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure ready to be saved.

    Attributes
    ----------
    figure : matplotlib Figure
    table : str
        The figure's numbers as CSV, the notice among them.
    settings : dict
        Everything that the figure depends on, JSON-serialisable.
    """

    figure: object
    table: str
    settings: dict = field(default_factory=dict)

    def save(self, stem, vector: str = "svg", table: bool = True, dpi: float = 200, metadata: Mapping[str, str] | None = None) -> list[Path]:
        """Write ``stem.png`` and, as asked, ``stem.svg`` or ``.pdf`` and ``stem.csv``, each whole or not at all.

        Parameters
        ----------
        stem : path
            Without suffix.
        vector : ``"svg"``, ``"pdf"`` or ``"none"``
        table : bool
            Write the CSV.
        dpi : float
            Of the PNG.
        metadata : mapping of str to str, optional
            More text for the PNG, such as ComfyUI's ``prompt`` and ``workflow``. All files but the CSV hold ``settings`` and ``versions``.

        Returns
        -------
        list of Path
            The PNG first.

        Raises
        ------
        ValueError
            Another `vector`.
        """
        if vector not in VECTORS:
            raise ValueError(f"vector: there is no {vector!r}; the choices are {', '.join(VECTORS)}.")
        stem = Path(stem)
        own = {"settings": json.dumps(self.settings, ensure_ascii=False), "versions": json.dumps(versions())}
        paths = [save(self.figure, stem.with_name(f"{stem.name}.png"), {**(metadata or {}), **own}, dpi)]
        if vector != "none":
            paths.append(save(self.figure, stem.with_name(f"{stem.name}.{vector}"), own, dpi))
        if table:
            path = stem.with_name(f"{stem.name}.csv")
            part = path.with_name(f"{path.name}.part")
            part.write_text(self.table, encoding="utf-8")
            os.replace(part, path)
            paths.append(path)
        return paths


def versions() -> dict:
    """Versions of what computes: MedTraverse, Python, torch."""
    import torch

    return {"medtraverse": __version__, "python": platform.python_version(), "torch": torch.__version__}
