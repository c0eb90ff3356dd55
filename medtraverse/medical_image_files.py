"""PNG, TIFF, JPEG, WebP and BMP at their full depth, and PNG of 16 bits written."""

import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .medical_image import (
    AUTOMATIC,
    MOST_PIXELS,
    OWN,
    WHOLE,
    MedicalImage,
    MedicalSource,
    UnreadableImageError,
    Window,
    automatic_range,
    between,
    windowed,
)
from .notice import NOTICE
from .whole_file import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# TIFF's tag PhotometricInterpretation, and its value for values that grow towards black.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP")


def read_picture(path: Path, window: Window, frame: int) -> MedicalImage:
    """Read a picture that is no DICOM file; `read_medical_image` says the rest."""
    from PIL import Image as Pillow
    from PIL import ImageFile, ImageOps, UnidentifiedImageError

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        # Other packs make Pillow fill up with grey what is missing.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(path, formats=_FORMATS) as picture:
                frames = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1
                if frame > frames:
                    raise ValueError(f"frame: {frame} is out of range; the file has {frames}.")
                if picture.width * picture.height > MOST_PIXELS:
                    raise UnreadableImageError(
                        f"has {picture.width} × {picture.height} pixels, more than {MOST_PIXELS // 10**6} "
                        "million; cut out the part that you want."
                    )
                picture.seek(frame - 1)
                name = "JPEG" if picture.format == "MPO" else (picture.format or "")
                inverted = name == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
                picture.load()
                values, inverted = _values(ImageOps.exif_transpose(picture), inverted)
    except UnidentifiedImageError:
        raise UnreadableImageError(
            "is no image that can be read; choose DICOM, PNG, TIFF, JPEG, WebP or BMP."
        ) from None
    except Pillow.DecompressionBombError:
        raise UnreadableImageError(
            f"has more than {MOST_PIXELS // 10**6} million pixels; cut out the part that you want."
        ) from None
    except UnreadableImageError:
        raise
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error, MemoryError, OverflowError, TypeError):
        raise UnreadableImageError("is damaged or truncated; copy it again.") from None
    except ValueError as error:
        if str(error).startswith("frame:"):
            raise
        raise UnreadableImageError("is damaged or truncated; copy it again.") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if not values.size or not np.isfinite(values).all():
        raise UnreadableImageError("has values that are no numbers; export it anew.")

    grey = values.ndim == 2
    low, high, bits = automatic_range(values)
    if grey and window.choice == OWN:
        pixels, shown = (
            windowed(values, window.centre, window.width),
            f"centre {window.centre:g}, width {window.width:g}",
        )
    elif grey and window.choice == WHOLE:
        low, high = float(values.min()), float(values.max())
        pixels, shown = between(values, low, high), f"{low:g} to {high:g}"
    elif window.choice == AUTOMATIC or (not grey and window.choice == WHOLE):
        pixels, shown = between(values, low, high), f"{low:g} to {high:g}" if grey else ""
    else:
        kind = "windows of its own" if grey else "a window"
        raise ValueError(
            f"window: {window.choice!r} is not in the file, as {'a ' + name if grey else 'a colour'} image "
            f"has no {kind}; choose {AUTOMATIC if not grey else f'{AUTOMATIC}, {WHOLE} or {OWN}'}."
        )
    if inverted:
        pixels = 1 - pixels
    rows, columns = values.shape[:2]
    return MedicalImage(
        pixels,
        MedicalSource(name, rows, columns, grey, bits, frames=frames, window=shown if grey else ""),
    )


def _values(picture: "Image", inverted: bool) -> tuple[np.ndarray, bool]:
    """Return the values of a picture, one channel or three, and whether they still grow towards black."""
    mode = picture.mode
    if mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16), inverted
    if mode == "I":
        values = np.asarray(picture)
        return (values if values.min() < 0 else values.astype(np.uint32)), inverted
    if mode == "F":
        return np.asarray(picture, np.float32), inverted
    # Pillow itself turns 8 bits and fewer the right way round.
    if mode in ("1", "L", "LA", "La"):
        return np.asarray(picture.convert("L")), False
    values = np.asarray(picture.convert("RGBA" if mode in ("P", "PA") else "RGB"))[..., :3]
    if mode in ("P", "PA") and (values == values[..., :1]).all():
        values = values[..., 0]
    return values, False


def write_png16(path: str | os.PathLike[str], pixels: np.ndarray, texts: Mapping[str, str]) -> None:
    """Write a PNG of 16 bits a channel, whole or not at all.

    Parameters
    ----------
    path : path
        The folder is made if need be, a file in the way is replaced.
    pixels : float array [rows, columns] or [rows, columns, 3]
        In 0..1.
    texts : mapping of str to str
        Go into the file under their keys, beside the notice under "Description".

    References
    ----------
    W3C, Portable Network Graphics (PNG) Specification, third edition, 5 and 11.
    """
    grey = pixels.ndim == 2
    levels = np.round(np.clip(pixels, 0, 1).astype(np.float64) * 65535).astype(">u2")
    rows, columns = levels.shape[:2]
    lines = levels.reshape(rows, -1).view(np.uint8)
    # Each line begins with its filter; 0 is none.
    filtered = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0 if grey else 2, 0, 0, 0))]
    for key, text in {**texts, "Description": NOTICE}.items():
        # iTXt: key, uncompressed, no language, no translated key, UTF-8
        chunks.append((b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")))
    chunks += [(b"IDAT", zlib.compress(filtered, 6)), (b"IEND", b"")]
    write_bytes(
        path,
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        ),
    )
