"""From a figure to pixels or to a file."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..notice import NOTICE
from ..whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

FORMATS = ("png", "svg", "pdf")
# letters in SVG and TrueType in PDF, so that text can be searched and edited; ids in SVG that do not change
_WRITING: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medtraverse",
    "pdf.fonttype": 42,
    "image.composite_image": False,
}
_one_writer = threading.Lock()


@contextmanager
def _writing() -> Iterator[None]:
    """matplotlib has these settings for the whole process only: they are lent to one
    writer at a time and put back.
    """
    from matplotlib import rcParams

    with _one_writer:
        before = {key: rcParams[key] for key in _WRITING}
        try:
            rcParams.update(_WRITING)
            yield
        finally:
            rcParams.update(before)


@contextmanager
def _own_pixels(figure: "Figure | None") -> Iterator[None]:
    """Put images into a vector file as they are, not resampled to the screen's resolution."""
    from matplotlib.image import AxesImage

    images = (
        [(image, image.get_interpolation()) for image in figure.findobj(AxesImage)]
        if figure is not None
        else []
    )
    try:
        for image, _ in images:
            image.set_interpolation("none")
        yield
    finally:
        for image, interpolation in images:
            image.set_interpolation(interpolation)


def to_image(figure: "Figure", dpi: float = 100) -> np.ndarray:
    """Render a figure.

    Parameters
    ----------
    figure : matplotlib Figure
    dpi : float
        Dots per inch, above 0.

    Returns
    -------
    ndarray [H, W, 3]
        float32 in 0..1, contiguous; height and width are inches times `dpi`.

    Raises
    ------
    ValueError
        `dpi` is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not dpi > 0:
        raise ValueError(f"dpi: {dpi} is not positive; give dots per inch, such as 200.")
    drawn_at = figure.dpi
    figure.set_dpi(dpi)
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    finally:
        figure.set_dpi(drawn_at)
    return np.ascontiguousarray(pixels, dtype=np.float32) / 255


def save(
    figure: "Figure",
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    dpi: float = 100,
) -> Path:
    """Write a figure as PNG, SVG or PDF, whole or not at all; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib Figure
    path : path
        Its suffix chooses the format; the folder is made if need be, a file in the way is replaced.
    metadata : mapping of str to str
        Text to go into the file, in PNG under its own keys, in SVG and PDF as lines of the description. The
        notice "Synthetic images. Not for clinical use." is always added.

    Raises
    ------
    ValueError
        Another suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    form = path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise ValueError(
            f"path: {path.name!r} names no format of a figure; end it in .{', .'.join(FORMATS)}."
        )
    texts = {str(key): str(value) for key, value in (metadata or {}).items()}
    lines = "\n".join([NOTICE, *(f"{key}: {value}" for key, value in texts.items())])
    embedded = {
        "png": {**texts, "Description": NOTICE},
        "svg": {"Description": lines, "Date": None},
        "pdf": {"Subject": lines, "CreationDate": None},
    }[form]

    with whole_file(path) as part, _writing(), _own_pixels(figure if form != "png" else None):
        options: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if form == "png" else {}
        FigureCanvasAgg(figure).print_figure(part, format=form, metadata=embedded, dpi=dpi, **options)
    return path
