"""An image of a data set as training sees it: a square of bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..medical_image import CROP, FITS, MOST_PIXELS, PAD, SQUASH, UnreadableImageError, read_medical_image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def read_pixels(path: str | os.PathLike[str], size: int, fit: str = SQUASH) -> np.ndarray:
    """Read an image at the size of a model.

    Parameters
    ----------
    path : path
        PNG, JPEG, WebP, TIFF, BMP or DICOM, whatever its name. Values of more than 8 bits are read from 0
        to the most that the bits in use hold, DICOM as its window says.
    size : int
        Side, in pixels.
    fit : str
        ``squash`` changes both sides on their own, as the paper does; ``pad`` adds black to the shorter
        side; ``crop`` cuts the longer one about its centre.

    Returns
    -------
    ndarray
        RGB uint8 [size, size, 3].

    Raises
    ------
    ValueError
        The file is missing, truncated or no image, or there is no such fit.
    """
    from PIL import Image

    if fit not in FITS:
        raise ValueError(f"fit: there is no {fit!r}; the choices are {', '.join(FITS)}.")
    try:
        picture, _ = picture_of_bytes(Path(path))
        if picture is None:
            return _deep(Path(path), size, fit)
    except UnreadableImageError as error:
        raise ValueError(f"image: {path} {error}") from error
    if fit == CROP:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if fit == PAD:
        scale = size / max(picture.size)
        inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet = Image.new("RGB", (size, size))
        sheet.paste(
            picture.resize(inner, Image.Resampling.BICUBIC), ((size - inner[0]) // 2, (size - inner[1]) // 2)
        )
        return np.asarray(sheet)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture.convert("RGB"))


def picture_of_bytes(path: Path) -> tuple[Picture | None, str]:
    """Return a picture of 8 bits, grey or RGB, turned as its EXIF says, and its format; None for any other.

    Raises UnreadableImageError where there is no such file. What is damaged is None too.
    """
    from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP")) as picture:
            if picture.mode not in ("L", "RGB") or picture.width * picture.height > MOST_PIXELS:
                return None, ""
            picture.load()
            return ImageOps.exif_transpose(picture), (picture.format or "").replace("MPO", "JPEG")
    except UnidentifiedImageError:
        return None, ""
    except FileNotFoundError:
        raise UnreadableImageError("is not there; put it back, or leave its row out.") from None
    except (OSError, SyntaxError, ValueError):
        return None, ""
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _deep(path: Path, size: int, fit: str) -> np.ndarray:
    """Read what is no picture of 8 bits; what is damaged is named by this reader too."""
    from PIL import Image

    pixels = read_medical_image(path).pixels
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    rows, columns = planes.shape[:2]
    top = left = 0
    inner = (size, size)
    if fit == CROP:
        side = min(rows, columns)
        down, across = (rows - side) // 2, (columns - side) // 2
        planes = planes[down : down + side, across : across + side]
    if fit == PAD:
        inner = (
            max(1, round(rows * size / max(rows, columns))),
            max(1, round(columns * size / max(rows, columns))),
        )
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    sheet = np.zeros((size, size, 3), np.uint8)
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(planes[..., min(channel, planes.shape[-1] - 1)]))
        resized = np.asarray(plane.resize((inner[1], inner[0]), Image.Resampling.BICUBIC))
        sheet[top : top + inner[0], left : left + inner[1], channel] = np.round(np.clip(resized, 0, 1) * 255)
    return sheet
