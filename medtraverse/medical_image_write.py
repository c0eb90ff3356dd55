"""Synthetic images written where medical images go: DICOM Secondary Capture, and PNG of 16 bits.

Each says that it is synthetic: in its elements, in its description, and by default in its pixels.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from .medical_image import MedicalSource, pixel_spacing, unfitted
from .medical_image_dicom import INSTALL, has_pydicom
from .medical_image_files import write_png16
from .notice import NOTICE
from .whole_file import whole_files

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SYNTHETIC = "SYNTHETIC"
DICOM, PNG, BOTH = "DICOM", "PNG, 16 bits", "DICOM and PNG"
FORMATS = (DICOM, PNG, BOTH)
MODEL_SIZE, SOURCE_SIZE = "the model's", "the file's"
SIZES = (MODEL_SIZE, SOURCE_SIZE)
AS_SOURCE, GREY, COLOUR = "as the file", "grey", "colour"
COLOURS = (AS_SOURCE, GREY, COLOUR)
# What DICOM's types of text hold: PS3.5, 6.2.
_SHORT, _LONG, _COMMENTS = 64, 1024, 10240


@dataclass(frozen=True)
class Written:
    """How images are written.

    Attributes
    ----------
    format : str
        One of `FORMATS`.
    size : str
        One of `SIZES`.
    colour : str
        One of `COLOURS`; without a source, images whose channels are all equal are grey.
    burn_in : bool
        Whether the word SYNTHETIC is written into a corner.
    series, patient_name, patient_id : str
        Series description, after the word SYNTHETIC; name and number as DICOM writes them.
    """

    format: str = DICOM
    size: str = MODEL_SIZE
    colour: str = AS_SOURCE
    burn_in: bool = True
    series: str = ""
    patient_name: str = ""
    patient_id: str = ""

    def check(self) -> None:
        """Raise ValueError for a choice that is not there, or a text that DICOM cannot hold."""
        for name, value, choices in (
            ("format", self.format, FORMATS),
            ("size", self.size, SIZES),
            ("colour", self.colour, COLOURS),
        ):
            if value not in choices:
                raise ValueError(f"{name}: there is no {value!r}; the choices are {'; '.join(choices)}.")
        for name, value, most in (
            ("series", self.series, _SHORT - len(SYNTHETIC) - 2),
            ("patient_name", self.patient_name, _SHORT),
            ("patient_id", self.patient_id, _SHORT),
        ):
            if len(value) > most:
                raise ValueError(f"{name}: it has {len(value)} letters; DICOM holds {most} here.")
            if "\\" in value or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
                raise ValueError(f"{name}: DICOM cannot hold a backslash or a line break; take it out.")
        if self.patient_name.count("^") > 4 or self.patient_name.count("=") > 2:
            raise ValueError("patient_name: DICOM holds Family^Given^Middle^Prefix^Suffix; write it so.")


def write_medical_images(
    stem: str | os.PathLike[str],
    images: np.ndarray,
    sources: Sequence[MedicalSource] = (),
    written: Written | None = None,
    derivation: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write synthetic images; all files or none.

    Parameters
    ----------
    stem : path
        ``STEM_0001.dcm`` and ``STEM_0001.png`` are written; a single image has no number.
    images : float array [N, H, W, 3] or [N, H, W, 1]
        In 0..1.
    sources : sequence of MedicalSource
        None; or as many as patients, N being a multiple: a patient's images follow each other.
    written : Written, optional
    derivation : mapping, optional
        JSON-serialisable: method, settings, and digests of weights. What it says goes into the files.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        Sources that do not fit the images, a patient's name for several patients, or a choice that is not
        there; DICOM is wanted and pydicom is not installed.
    """
    written, stem = written or Written(), Path(stem)
    written.check()
    if sources and len(images) % len(sources):
        raise ValueError(
            f"source: it is of {len(sources)} patients, but there are {len(images)} images; wire those that "
            "were made from it."
        )
    if len(sources) > 1 and (written.patient_name or written.patient_id):
        raise ValueError(
            f"patient_name: it is one name, but the images are of {len(sources)} patients; leave name and "
            "number empty, or write one patient at a time."
        )
    if written.size == SOURCE_SIZE and not sources:
        raise ValueError(
            f"size: without a source the file's size is not known; wire one, or choose {MODEL_SIZE}."
        )
    if written.format != PNG and not has_pydicom():
        raise ValueError(f"format: DICOM is written by pydicom 3 or later; install it: {INSTALL}.")
    each = len(images) // len(sources) if sources else 1
    settings = dict(derivation or {})
    studies: dict[int, tuple[str, str]] = {}
    names: list[str] = []
    with whole_files(stem.parent) as apart:
        for number, image in enumerate(images):
            source = sources[number // each] if sources else None
            pixels = drawn(np.asarray(image, np.float32), source, written)
            name = stem.name if len(images) == 1 else f"{stem.name}_{number + 1:04}"
            if written.format != PNG:
                # Without a source nothing says that the images are of different patients.
                study = studies.setdefault(number // each if sources else 0, (_uid(), _uid()))
                dataset = capture(pixels, source, written, settings, study, number + 1)
                dataset.save_as(apart / f"{name}.dcm", enforce_file_format=True)
                names.append(f"{name}.dcm")
            if written.format != DICOM:
                texts = {
                    "Title": _series(written),
                    "medtraverse": json.dumps(_told(settings, source, written)),
                }
                write_png16(apart / f"{name}.png", pixels, texts)
                names.append(f"{name}.png")
    return [stem.parent / name for name in names]


def drawn(image: np.ndarray, source: MedicalSource | None, written: Written) -> np.ndarray:
    """Return an image as it is written: channels, size and the word in its corner.

    Parameters
    ----------
    image : float32 [H, W, 3] or [H, W, 1]
    source : MedicalSource, optional
    written : Written

    Returns
    -------
    float32 [rows, columns] or [rows, columns, 3]
    """
    image = np.clip(image, 0, 1)
    alike = bool((np.abs(image - image[..., :1]) < 0.5 / 255).all())
    grey = {GREY: True, COLOUR: False}.get(written.colour, source.grey if source else alike)
    # of three equal channels the mean would be another number in its last digit
    one = image[..., 0] if (image == image[..., :1]).all() else image.mean(axis=-1)
    pixels = one if grey else np.broadcast_to(image[..., :3], (*image.shape[:2], 3))
    if written.size == SOURCE_SIZE and source is not None:
        pixels = unfitted(pixels, source)
    pixels = np.array(pixels, np.float32)
    if written.burn_in:
        burn_in(pixels)
    return pixels


def burn_in(pixels: np.ndarray, text: str = SYNTHETIC) -> None:
    """Write a word into the lower left corner, white on black, in place; up to two fifths as wide."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns = pixels.shape[:2]
    font: Any = ImageFont.load_default()
    for height in range(int(rows * 0.12), 7, -1):
        try:
            font = ImageFont.load_default(height)
        except (TypeError, OSError, ImportError):
            break
        if font.getlength(text) <= 0.4 * columns:
            break
    left, top, right, bottom = font.getbbox(text)
    margin = max(1, round((bottom - top) * 0.2))
    width, height = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    plate = Image.new("L", (width, height))
    ImageDraw.Draw(plate).text((margin - left, margin - top), text, fill=255, font=font)
    shown = np.asarray(plate, np.float32)[: min(height, rows), : min(width, columns)] / 255
    pixels[rows - shown.shape[0] :, : shown.shape[1]] = shown if pixels.ndim == 2 else shown[..., None]


def capture(
    pixels: np.ndarray,
    source: MedicalSource | None,
    written: Written,
    settings: Mapping[str, Any],
    study: tuple[str, str],
    number: int,
) -> "Dataset":
    """Return a DICOM Secondary Capture Image (PS3.3, A.8.1) with new identifiers.

    Parameters
    ----------
    pixels : float32 [rows, columns] or [rows, columns, 3]
    source : MedicalSource, optional
    written : Written
    settings : mapping
        JSON-serialisable.
    study : tuple of str
        Identifiers of study and series.
    number : int
        Of the image in its series, from 1.

    Returns
    -------
    pydicom Dataset
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    grey = pixels.ndim == 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationVersionName = "MEDTRAVERSE"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "SECONDARY", SYNTHETIC]
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, _uid()
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    # PS3.3, C.12.1: made artificially, not measured.
    dataset.SyntheticData = "YES"
    dataset.StudyDate = dataset.ContentDate = dataset.DateOfSecondaryCapture = date
    dataset.StudyTime = dataset.ContentTime = dataset.TimeOfSecondaryCapture = time
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality = source.modality if source and source.modality else "OT"
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = dataset.SecondaryCaptureDeviceManufacturer = "MedTraverse"
    dataset.SecondaryCaptureDeviceManufacturerModelName = "MedTraverse"
    dataset.SecondaryCaptureDeviceSoftwareVersions = __version__
    dataset.SeriesDescription = _series(written)
    dataset.PatientName, dataset.PatientID = written.patient_name, written.patient_id
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "YES" if written.burn_in or (source and source.burned_in) else "NO"
    dataset.DerivationDescription = _derivation(settings)
    dataset.ImageComments = _comments(_told(settings, source, written))
    dataset.SamplesPerPixel = 1 if grey else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if grey else "RGB"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    bits = 16 if grey else 8
    levels = np.round(np.clip(pixels, 0, 1).astype(np.float64) * (2**bits - 1))
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if grey:
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    else:
        dataset.PlanarConfiguration = 0
    spacing = pixel_spacing(source, (pixels.shape[0], pixels.shape[1])) if source else None
    if spacing:
        dataset.PixelSpacing = [f"{number:.6g}" for number in spacing]
    elif source and source.fit == "squash" and written.size == MODEL_SIZE and source.rows != source.columns:
        # How high a pixel is to how wide: the squash is undone by who looks.
        down, across = source.rows * pixels.shape[1], source.columns * pixels.shape[0]
        common = int(np.gcd(down, across))
        dataset.PixelAspectRatio = [down // common, across // common]
    content = levels.astype("<u2" if bits == 16 else np.uint8).tobytes()
    dataset.add_new("PixelData", "OW" if bits == 16 else "OB", content + b"\0" * (len(content) % 2))
    return dataset


def _uid() -> str:
    from pydicom.uid import generate_uid

    # From a random UUID: nothing of the machine, and nothing of the source, is in it.
    return str(generate_uid(prefix=None))


def _series(written: Written) -> str:
    """Return the series description, or a PNG's title."""
    return f"{SYNTHETIC}: {written.series.strip()}" if written.series.strip() else SYNTHETIC


def _told(settings: Mapping[str, Any], source: MedicalSource | None, written: Written) -> dict[str, Any]:
    """Return all that a file says about how it was made."""
    told: dict[str, Any] = {"notice": NOTICE, "version": __version__, **settings, "size": written.size}
    return told | ({"source": source.describe()} if source else {})


def _derivation(settings: Mapping[str, Any]) -> str:
    """Return method, model and the first settings, in as many letters as DICOM has for them."""
    parts = [NOTICE, f"MedTraverse {__version__}."]
    parts += [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    ]
    text = "\n".join(parts).replace("\\", "/")
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _comments(told: Mapping[str, Any]) -> str:
    """Return the settings as JSON, whole or with a note that they were too long."""
    text = json.dumps(told, ensure_ascii=False).replace("\\", "/")
    short = {key: told[key] for key in ("notice", "version", "source") if key in told}
    return text if len(text) <= _COMMENTS else json.dumps({**short, "settings": "too long for this element"})
