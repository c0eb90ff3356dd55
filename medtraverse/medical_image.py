"""Medical images as they are looked at: any file as grey values or colours in 0..1, at the size of a model.

What a patient's file says beside its pixels stays in it: nothing but what `MedicalSource` lists is kept.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

AUTOMATIC, PRESETS, LUT = "automatic", ("window 1", "window 2", "window 3", "window 4"), "VOI LUT"
WHOLE, OWN = "whole range", "own"
# Centre and width in Hounsfield units, as radiology has them.
CT = {
    "CT lung": (-600.0, 1500.0),
    "CT soft tissue": (40.0, 400.0),
    "CT bone": (500.0, 2000.0),
    "CT brain": (40.0, 80.0),
}
WINDOWS = (AUTOMATIC, *PRESETS, LUT, WHOLE, OWN, *CT)
SQUASH, PAD, CROP = "squash", "pad", "crop"
FITS = (SQUASH, PAD, CROP)
SUFFIXES = (".dcm", ".dicom", ".dic", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")
# More is a slide of pathology, or a file that means harm.
MOST_PIXELS = 120_000_000


class UnreadableImageError(ValueError):
    """Says of a file, which the caller names, what is wrong; what to do: "is truncated; copy it again."."""


@dataclass(frozen=True)
class MedicalSource:
    """What is needed to write an image back, and nothing about the patient.

    Attributes
    ----------
    format : str
        ``DICOM``, or the format of the file, such as ``PNG``.
    rows, columns : int
        Of the file's image, in pixels, turned as its EXIF says.
    grey : bool
        Whether it has one channel.
    bits : int
        Bits stored for each value.
    photometric : str
        DICOM's photometric interpretation, empty elsewhere.
    modality : str
        DICOM's modality, empty elsewhere and for one that the standard does not list.
    frame, frames : int
        Which frame, counted from 1, of how many.
    window : str
        How values became grey values.
    spacing : tuple of float, optional
        Millimetres between rows and between columns.
    burned_in : bool
        Whether the file says that text is burned into its pixels.
    sha256 : str
        Of the pixels, as float32 in 0..1.
    fit : str
        One of `FITS`, or empty while the image has its own size.
    size : tuple of int, optional
        Rows and columns after the fit.
    box : tuple of int
        top, left, rows, columns: after `pad` where the image lies in its new size, after `crop` which part of
        the file's image is left.
    """

    format: str
    rows: int
    columns: int
    grey: bool
    bits: int
    photometric: str = ""
    modality: str = ""
    frame: int = 1
    frames: int = 1
    window: str = ""
    spacing: tuple[float, float] | None = None
    burned_in: bool = False
    sha256: str = ""
    fit: str = ""
    size: tuple[int, int] | None = None
    box: tuple[int, int, int, int] = (0, 0, 0, 0)

    def describe(self) -> dict[str, Any]:
        """Return everything, JSON-serialisable."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return described

    def line(self) -> str:
        """Return one line for a reader."""
        kind = " ".join(filter(None, (self.format, self.modality, self.photometric)))
        parts = [kind, f"{self.columns} × {self.rows}, {self.bits} bits", self.window]
        if self.frames > 1:
            parts.append(f"frame {self.frame} of {self.frames}")
        if self.fit and self.size:
            parts.append(f"{self.fit} to {self.size[1]} × {self.size[0]}")
        if self.burned_in:
            parts.append("the file says that text is burned into its pixels: it may name the patient")
        return "; ".join(filter(None, parts))


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """An image as it is looked at.

    Attributes
    ----------
    pixels : float32 [rows, columns] or [rows, columns, 3]
        In 0..1, bright is 1 whatever the file's photometric interpretation.
    source : MedicalSource
    """

    pixels: np.ndarray
    source: MedicalSource


@dataclass(frozen=True)
class Window:
    """Which values a reader wants to see.

    Attributes
    ----------
    choice : str
        One of `WINDOWS`.
    centre, width : float
        For the choice `OWN`, in the file's units after its rescale (Hounsfield units for CT).
    """

    choice: str = AUTOMATIC
    centre: float = 0.0
    width: float = 0.0

    def check(self) -> None:
        """Raise ValueError for an unknown choice, or a width that shows nothing."""
        if self.choice not in WINDOWS:
            raise ValueError(f"window: there is no {self.choice!r}; the choices are {', '.join(WINDOWS)}.")
        if self.choice == OWN and not (self.width > 0 and np.isfinite([self.centre, self.width]).all()):
            raise ValueError(
                f"window_width: {self.width:g} shows nothing; give a width above 0 in the file's own values."
            )


def read_medical_image(
    path: str | os.PathLike[str], window: Window | None = None, frame: int = 1
) -> MedicalImage:
    """Read one image of a DICOM, PNG, TIFF, JPEG, WebP or BMP file, whatever its name.

    Parameters
    ----------
    path : path
    window : Window, optional
        Automatic unless given: of a DICOM file its VOI LUT, else its first window, else the whole range of
        its values; elsewhere from 0 to the most that the bits in use can hold (8, 10, 12, 14 or 16).
    frame : int
        Counted from 1.

    Returns
    -------
    MedicalImage

    Raises
    ------
    UnreadableImageError
        Another file, or one that is damaged, encrypted, a volume, without pixels, or compressed in a way that
        no installed package reads.
    ValueError
        A window or a frame that the file does not have.
    """
    from .medical_image_dicom import is_dicom, read_dicom
    from .medical_image_files import read_picture

    window = window or Window()
    window.check()
    if frame < 1:
        raise ValueError(f"frame: {frame} is out of range; the first frame is 1.")
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UnreadableImageError(
            f"cannot be opened ({error.strerror or type(error).__name__}); put it back, or choose another."
        ) from None
    foreign(head, path.suffix.lower())
    read = read_dicom if is_dicom(head, path.suffix.lower()) else read_picture
    image = read(path, window, frame)
    pixels = np.ascontiguousarray(np.clip(image.pixels, 0, 1), dtype=np.float32)
    return MedicalImage(
        pixels, replace(image.source, sha256=hashlib.sha256(pixels.tobytes()).hexdigest(), frame=frame)
    )


def foreign(head: bytes, suffix: str) -> None:
    """Raise UnreadableImageError for a file that is empty, encrypted, an archive or a volume, by its first
    bytes.
    """
    if not head:
        raise UnreadableImageError("is empty; copy it again.")
    # RFC 5652: a sequence whose first part names enveloped or encrypted data, as DICOM PS3.15 wraps files.
    if head[:1] == b"0" and any(
        b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01" + kind in head[:64] for kind in (b"\x07\x03", b"\x07\x06")
    ):
        raise UnreadableImageError("is encrypted; decrypt it where its key is, and choose the result.")
    if (
        head[:4] in (b"PK\x03\x04", b"PK\x05\x06")
        or head[:2] == b"\x1f\x8b"
        or head[:6] == b"7z\xbc\xaf\x27\x1c"
    ):
        volume = suffix == ".gz"
        raise UnreadableImageError(
            "is compressed as a whole (it may be a volume in NIfTI); unpack it, and choose one image of it."
            if volume
            else "is an archive; unpack it, and choose an image of it."
        )
    volumes = suffix in (".nii", ".mha", ".mhd", ".nrrd", ".img", ".hdr")
    if (
        volumes
        or head[:4] == b"NRRD"
        or head[344:348] in (b"n+1\x00", b"ni1\x00")
        or head[:10] == b"ObjectType"
    ):
        raise UnreadableImageError("is a volume; export the one slice that you want as DICOM or PNG.")


def automatic_range(values: np.ndarray) -> tuple[float, float, int]:
    """Return where black and white lie for values without a window, and the bits in use.

    Parameters
    ----------
    values : array of any shape
        Unsigned integers, signed ones, or floating point.

    Returns
    -------
    low, high : float
        Unsigned: 0 and the most that 8, 10, 12, 14, 16 or 32 bits hold, the fewest in which all values fit.
        Floating point within 0..1: 0 and 1. Otherwise the smallest and the largest value.
    bits : int
    """
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer) and low >= 0:
        bits = next(bits for bits in (8, 10, 12, 14, 16, 32, 64) if high < 2**bits)
        return 0.0, float(2**bits - 1), bits
    bits = values.dtype.itemsize * 8
    if np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        return 0.0, 1.0, bits
    return low, high, bits


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values as float32, `low` at 0 and `high` at 1; a flat image becomes 0."""
    if not high > low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)


def windowed(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Apply a window as DICOM defines it.

    Parameters
    ----------
    values : array of any shape
        In the units of the window.
    centre, width : float
        The width is above 0.
    function : str
        LINEAR, LINEAR_EXACT or SIGMOID.

    Returns
    -------
    float32 array in 0..1

    References
    ----------
    DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.
    """
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float64) - centre) / width, -700, 700)
        return (1 / (1 + np.exp(exponent))).astype(np.float32)
    if function == "LINEAR_EXACT":
        return between(values, centre - width / 2, centre + width / 2)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float32)
    return between(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def fitted(image: MedicalImage, size: tuple[int, int], fit: str = SQUASH) -> tuple[MedicalImage, np.ndarray]:
    """Bring an image to the size of a model.

    Parameters
    ----------
    image : MedicalImage
    size : tuple of int
        Rows and columns.
    fit : str
        ``squash`` changes both sides on their own, as the paper does; ``pad`` adds black to the shorter
        side; ``crop`` cuts the longer one about its centre.

    Returns
    -------
    image : MedicalImage
        Its source says what was done.
    padding : float32 [rows, columns]
        1 where black was added, 0 elsewhere.

    Raises
    ------
    ValueError
        An unknown `fit`.
    """
    if fit not in FITS:
        raise ValueError(f"fit: there is no {fit!r}; the choices are {', '.join(FITS)}.")
    pixels, (rows, columns) = image.pixels, image.pixels.shape[:2]
    padding = np.zeros(size, np.float32)
    box = (0, 0, rows, columns)
    if fit == PAD:
        scale = min(size[0] / rows, size[1] / columns)
        inner = tuple(min(most, max(1, round(side * scale))) for side, most in zip((rows, columns), size))
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        box = (top, left, inner[0], inner[1])
        sheet = np.zeros((*size, *pixels.shape[2:]), np.float32)
        padding[:] = 1
        place = np.s_[top : top + inner[0], left : left + inner[1]]
        sheet[place], padding[place] = resized(pixels, (inner[0], inner[1])), 0
        pixels = sheet
    else:
        if fit == CROP:
            scale = max(size[0] / rows, size[1] / columns)
            kept = tuple(
                min(side, max(1, round(wanted / scale))) for side, wanted in zip((rows, columns), size)
            )
            top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
            box = (top, left, kept[0], kept[1])
            pixels = pixels[top : top + kept[0], left : left + kept[1]]
        pixels = resized(pixels, size)
    return MedicalImage(pixels, replace(image.source, fit=fit, size=size, box=box)), padding


def unfitted(pixels: np.ndarray, source: MedicalSource) -> np.ndarray:
    """Bring an image of the model's size back to the file's own.

    Parameters
    ----------
    pixels : float32 [rows, columns] or [rows, columns, 3]
    source : MedicalSource

    Returns
    -------
    float32 array
        As many rows and columns as the file's image; after `crop` as the part that was kept.
    """
    if not source.fit or source.size is None:
        return resized(pixels, (source.rows, source.columns))
    top, left, rows, columns = source.box
    if source.fit == CROP:
        return resized(pixels, (rows, columns))
    if source.fit == PAD:
        # The model may have worked at another size than the fit's.
        down, across = pixels.shape[0] / source.size[0], pixels.shape[1] / source.size[1]
        pixels = pixels[
            round(top * down) : round((top + rows) * down),
            round(left * across) : round((left + columns) * across),
        ]
    return resized(pixels, (source.rows, source.columns))


def pixel_spacing(source: MedicalSource, size: tuple[int, int]) -> tuple[float, float] | None:
    """Return millimetres between rows and columns of an image that shows the source's whole or kept part.

    Parameters
    ----------
    source : MedicalSource
    size : tuple of int
        Rows and columns of the image: at the model's size, or of what `unfitted` returns.

    Returns
    -------
    tuple of float, or None
        None where the file gives none.
    """
    if source.spacing is None:
        return None
    shown = (source.rows, source.columns)
    if source.fit == CROP:
        shown = source.box[2:]
    elif source.fit == PAD and source.size == size:
        return (
            source.spacing[0] * source.rows / source.box[2],
            source.spacing[1] * source.columns / source.box[3],
        )
    return (source.spacing[0] * shown[0] / size[0], source.spacing[1] * shown[1] / size[1])


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image in another size, bilinear, averaged where it shrinks; in floating point throughout."""
    from PIL import Image

    if tuple(pixels.shape[:2]) == tuple(size):
        return np.asarray(pixels, np.float32)
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(channels[..., channel], np.float32)).resize(
                (size[1], size[0]), Image.Resampling.BILINEAR
            )
        )
        for channel in range(channels.shape[-1])
    ]
    stacked = np.stack(planes, axis=-1)
    return stacked[..., 0] if pixels.ndim == 2 else stacked
