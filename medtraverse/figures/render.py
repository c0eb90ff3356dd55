"""From a figure to pixels or to a file."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..notice import NOTICE

FORMATS = ("png", "svg", "pdf")
_VECTOR = {"svg.fonttype": "none", "pdf.fonttype": 42, "image.composite_image": False}


def to_image(figure, dpi: float = 100) -> np.ndarray:
    """Render a figure: float32 [H, W, 3] in 0..1, contiguous, height and width in pixels = inches x dpi."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not dpi > 0:
        raise ValueError(f"dpi is {dpi}; it must be positive")
    drawn_at = figure.dpi
    figure.set_dpi(dpi)
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    finally:
        figure.set_dpi(drawn_at)
    return np.ascontiguousarray(pixels, dtype=np.float32) / 255


def save(figure, path: str | os.PathLike, metadata: Mapping[str, str] | None = None, dpi: float = 100) -> Path:
    """Write a figure as PNG, SVG or PDF, whole or not at all; the same figure gives the same bytes for PNG.

    Parameters
    ----------
    figure : matplotlib Figure
    path : path
        Its suffix chooses the format; the folder is made if need be, a file in the way is replaced.
    metadata : mapping of str to str
        Text to go into the file, in PNG under its own keys, in SVG and PDF as lines of the description. The notice
        "Synthetic images. Not for clinical use." is always added.

    Raises
    ------
    ValueError
        Another suffix.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    form = path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise ValueError(f"{path.name!r} has no suffix among .{', .'.join(FORMATS)}, which choose the format of a figure")
    texts = {str(key): str(value) for key, value in (metadata or {}).items()}
    lines = "\n".join([NOTICE, *(f"{key}: {value}" for key, value in texts.items())])
    embedded = {
        "png": {**texts, "Description": NOTICE},
        "svg": {"Description": lines, "Date": None},
        "pdf": {"Subject": lines, "CreationDate": None},
    }[form]

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=f".{form}.part")
    try:
        # Text stays text, to be edited and searched: in SVG by the viewer's own fonts, in PDF as TrueType.
        with os.fdopen(handle, "wb") as file, rc_context(_VECTOR), _own_pixels(figure if form != "png" else None):
            options = {"pil_kwargs": {"compress_level": 3}} if form == "png" else {}
            FigureCanvasAgg(figure).print_figure(file, format=form, metadata=embedded, dpi=dpi, **options)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
    return path


@contextlib.contextmanager
def _own_pixels(figure):
    """Put images into a vector file as they are, not resampled to the screen's resolution."""
    from matplotlib.image import AxesImage

    images = [(image, image.get_interpolation()) for image in figure.findobj(AxesImage)] if figure is not None else []
    try:
        for image, _ in images:
            image.set_interpolation("none")
        yield
    finally:
        for image, interpolation in images:
            image.set_interpolation(interpolation)
