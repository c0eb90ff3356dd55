"""DICOM files read as a radiologist's viewer shows them.

Only the elements in `READ` are taken out of a file: name, number, dates and all else of a patient are never
in memory. Messages show no text of a file either.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .medical_image import (
    AUTOMATIC,
    CT,
    LUT,
    MOST_PIXELS,
    OWN,
    PRESETS,
    WHOLE,
    MedicalImage,
    MedicalSource,
    UnreadableImageError,
    Window,
    between,
    windowed,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

INSTALL = 'pip install "medtraverse[dicom]"'
READ = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "Modality",
    "BurnedInAnnotation",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "NominalScannedPixelSpacing",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "EncryptedAttributesSequence",
    "DirectoryRecordSequence",
    "PixelDataProviderURL",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)
# Objects that are one volume, whatever the number of frames: PS3.4, B.5.
VOLUMES = {
    "1.2.840.10008.5.1.4.1.1.2.1": "an enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "a converted enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "an enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "an enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "a converted enhanced MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "a converted enhanced PET",
    "1.2.840.10008.5.1.4.1.1.130": "an enhanced PET",
    "1.2.840.10008.5.1.4.1.1.13.1.1": "an X-ray 3D angiogram",
    "1.2.840.10008.5.1.4.1.1.13.1.2": "an X-ray 3D image",
    "1.2.840.10008.5.1.4.1.1.13.1.3": "a breast tomosynthesis",
    "1.2.840.10008.5.1.4.1.1.6.2": "an enhanced ultrasound volume",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose distribution",
}
SLICES = ("CT", "MR", "PT")
_DEFINED = (
    "AR AU BDUS BI BMD CR CT DMS DX ECG EPS ES FID GM HC HD IO IVOCT IVUS KER LS MG MR NM OAM OCT OP OPM OPT "
    "OPTBSV OPTENF OPV OSS OT PT PX RF RG RTIMAGE SC SM SRF US VA VF XA XC"
)
# Only a term of the standard is passed on: in another word a name may stand.
MODALITIES = frozenset(_DEFINED.split())
GREY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
SYNTAX_PACKAGES = {
    "1.2.840.10008.1.2.4.201": "pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg and pylibjpeg-openjpeg",
}
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
VIDEO = ("MPEG", "HEVC", "SMPTE")
_one_reader = threading.Lock()


def is_dicom(head: bytes, suffix: str) -> bool:
    """Return whether a file is DICOM: by its mark, by its suffix, or by a first element of group 2 or 8."""
    if head[128:132] == b"DICM" or suffix in (".dcm", ".dicom", ".dic"):
        return True
    return head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"


def has_pydicom() -> bool:
    """Return whether pydicom is there, and not one from before version 3."""
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """pydicom's warnings and log quote the values of a file: none of them gets out."""
    from pydicom import config

    with _one_reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = logging.getLogger("pydicom")
        quiet, mode = log.disabled, config.settings.reading_validation_mode
        log.disabled, config.settings.reading_validation_mode = True, config.IGNORE
        try:
            yield
        finally:
            log.disabled, config.settings.reading_validation_mode = quiet, mode


def _dataset(path: Path) -> "Dataset":
    """Return the elements in `READ` of a file. Raises UnreadableImageError."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        dataset = pydicom.dcmread(path, force=True, specific_tags=list(READ))
        len(dataset)
        little = dataset.original_encoding[1]
    # pydicom raises whatever the damage leads to
    except Exception:
        raise UnreadableImageError("is no DICOM file, or a damaged one; copy it again.") from None
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not syntax:
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if dataset.original_encoding[0] else explicit
        )
    return dataset


def series_of(path: str | os.PathLike[str]) -> tuple[str, tuple[float, ...]] | None:
    """Return of a slice of CT, MR or PET what series it belongs to, and where it lies; None for all else."""
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(132)
    if not is_dicom(head, path.suffix.lower()) or not has_pydicom():
        return None
    try:
        import pydicom

        with _silent():
            dataset = pydicom.dcmread(
                path,
                force=True,
                stop_before_pixels=True,
                specific_tags=["SeriesInstanceUID", "ImagePositionPatient", "Modality"],
            )
            place = tuple(float(number) for number in dataset.get("ImagePositionPatient") or ())
            series = str(dataset.get("SeriesInstanceUID") or "")
            slices = str(dataset.get("Modality") or "") in SLICES
    # what is wrong with it, the reader says
    except Exception:
        return None
    return (series, place) if slices and series and place else None


def read_dicom(path: Path, window: Window, frame: int) -> MedicalImage:
    """Read a DICOM file; `read_medical_image` says the rest."""
    if not has_pydicom():
        raise UnreadableImageError(f"is DICOM, which pydicom 3 or later reads; install it: {INSTALL}.")
    with _silent():
        try:
            dataset = _dataset(path)
            _check(dataset)
            frames = int(dataset.get("NumberOfFrames") or 1)
            if frame > frames:
                raise ValueError(f"frame: {frame} is out of range; the file has {frames}.")
            _take_groups(dataset, frame)
            values = _decoded(dataset, frame)
            return _shown(dataset, values, window, frames)
        except (UnreadableImageError, MemoryError):
            raise
        except ValueError as error:
            if str(error).startswith(("frame:", "window")):
                raise
            raise UnreadableImageError(_DAMAGED) from None
        # pydicom raises whatever the damage leads to, and its texts quote the file
        except Exception:
            raise UnreadableImageError(_DAMAGED) from None


_DAMAGED = "is damaged: an element that its pixels need cannot be read; export it anew."


def _check(dataset: "Dataset") -> None:
    """Raise UnreadableImageError for what is no single image."""
    if "DirectoryRecordSequence" in dataset:
        raise UnreadableImageError("is an index of files (DICOMDIR); choose one of the images beside it.")
    pixels = [name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in dataset]
    if not pixels:
        if "EncryptedAttributesSequence" in dataset:
            raise UnreadableImageError("is encrypted; decrypt it where its key is, and choose the result.")
        if "PixelDataProviderURL" in dataset:
            raise UnreadableImageError("keeps its pixels on a server; export it with its pixels.")
        if len(dataset) == 0:
            raise UnreadableImageError("is no DICOM file, or a damaged one; copy it again.")
        raise UnreadableImageError(
            "holds no pixel data (it may be a report, a plan, or cut short); choose an image."
        )
    volume = VOLUMES.get(str(dataset.get("SOPClassUID") or ""))
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    placed = len({str(group.PlanePositionSequence[0].get("ImagePositionPatient")) for group in groups
                  if group.get("PlanePositionSequence")})  # fmt: skip
    if frames > 1 and (volume or placed > 1):
        raise UnreadableImageError(
            f"is a volume of {frames} slices ({volume or 'each at a place of its own'}); export the one "
            "slice that you want as DICOM or PNG."
        )
    wanted = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
    if any(dataset.get(name) in (None, "", 0) for name in wanted):
        raise UnreadableImageError(
            "does not say how its pixels lie (rows, columns, bits, channels or photometric interpretation); "
            "export it anew."
        )
    if dataset.BitsAllocated == 1:
        raise UnreadableImageError("has 1 bit a pixel: it is a mask, not an image; choose the image.")
    if dataset.Rows * dataset.Columns > MOST_PIXELS:
        raise UnreadableImageError(
            f"has {dataset.Columns} × {dataset.Rows} pixels, more than {MOST_PIXELS // 10**6} million; cut "
            "out the part that you want."
        )
    photometric = str(dataset.PhotometricInterpretation)
    if photometric not in (*GREY, PALETTE, *COLOURS):
        raise UnreadableImageError(
            "has a photometric interpretation that is not read; export it as MONOCHROME2 or RGB."
        )
    if int(dataset.SamplesPerPixel) != (3 if photometric in COLOURS else 1):
        raise UnreadableImageError(
            "contradicts itself: its channels do not fit its photometric interpretation; export it anew."
        )
    _check_syntax(dataset)


def _check_syntax(dataset: "Dataset") -> None:
    """Raise UnreadableImageError where no installed package decompresses the pixels, and name one."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    known = syntax.is_transfer_syntax if not syntax.is_private else False
    name = syntax.name if known else "unknown"
    if (known and name.startswith(VIDEO)) or "MPEG" in name:
        raise UnreadableImageError(f"is a video ({name}); export the one frame that you want.")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImageError(
            f"has a transfer syntax that no package here reads ({name if known else 'not a standard one'}); "
            "export it uncompressed (Explicit VR Little Endian), for instance with gdcmconv --raw."
        ) from None
    if not decoder.is_available:
        package = SYNTAX_PACKAGES.get(str(syntax))
        remedy = f"pip install {package.replace(' and ', ' ')}" if package else INSTALL
        raise UnreadableImageError(
            f"is compressed as {name}, which {package or 'python-gdcm'} reads; install it: {remedy}."
        )


def _take_groups(dataset: "Dataset", frame: int) -> None:
    """Copy rescale, window and spacing of a frame out of the functional groups of an enhanced object."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    for group in (*shared[:1], *own[frame - 1 : frame]):
        for macro, names in (
            ("PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept")),
            ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTFunction")),
            ("PixelMeasuresSequence", ("PixelSpacing",)),
        ):
            for item in (group.get(macro) or ())[:1]:
                for name in names:
                    if name in item:
                        dataset[name] = item[name]


def _decoded(dataset: "Dataset", frame: int) -> np.ndarray:
    """Return the stored values of a frame, [rows, columns] or [rows, columns, 3], signs and unused bits set
    right.
    """
    from pydicom.pixels.utils import pixel_array

    shape = (int(dataset.Rows), int(dataset.Columns))
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    high = int(dataset.get("HighBit") or stored - 1)
    whole_numbers = "PixelData" in dataset
    if whole_numbers and (not 1 <= stored <= allocated or not stored - 1 <= high < allocated):
        raise UnreadableImageError("contradicts itself in the bits that it stores; export it anew.")
    # pydicom takes the stored bits for the lowest ones, which they are not in old files.
    shifted = whole_numbers and high != stored - 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed
    options: dict[str, Any] = {"bits_stored": allocated} if shifted else {}
    try:
        values: np.ndarray = np.asarray(pixel_array(dataset, index=frame - 1, **options))
    except MemoryError:
        raise
    # every decoder has errors of its own
    except Exception:
        if str(dataset.file_meta.TransferSyntaxUID) == JPEG_EXTENDED and dataset.get("BitsStored", 8) > 8:
            raise UnreadableImageError(
                "is compressed as JPEG Extended of 12 bits, which pylibjpeg-libjpeg alone reads (GPL); "
                "install it: pip install pylibjpeg pylibjpeg-libjpeg."
            ) from None
        raise UnreadableImageError(
            "has pixels that cannot be decoded: it is damaged or truncated; copy it again."
        ) from None
    if values.shape[:2] != shape or values.ndim != (3 if dataset.SamplesPerPixel == 3 else 2):
        raise UnreadableImageError("has pixels that cannot be decoded: it is damaged; export it anew.")
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).any():
            raise UnreadableImageError("has values that are no numbers; export it anew.")
        finite: np.ndarray = np.nan_to_num(values)
        return finite
    if stored < allocated and values.dtype.itemsize * 8 == allocated and values.ndim == 2:
        # Above and below the stored bits old devices keep overlays; the right shift spreads the sign.
        values = np.left_shift(values, allocated - 1 - (high if shifted else stored - 1))
        values = np.right_shift(values, allocated - stored)
    return values


def _shown(dataset: "Dataset", values: np.ndarray, window: Window, frames: int) -> MedicalImage:
    """Return a frame as it is looked at."""
    photometric, stored = (
        str(dataset.PhotometricInterpretation),
        int(dataset.get("BitsStored") or dataset.BitsAllocated),
    )
    modality = str(dataset.get("Modality") or "")
    grey = photometric in GREY
    if grey:
        pixels, shown = _windowed(dataset, values, window)
        if photometric == "MONOCHROME1":
            pixels = 1 - pixels
        padding = _padding(dataset, values)
        if padding is not None:
            pixels = np.where(padding, np.float32(0), pixels)
    elif window.choice not in (AUTOMATIC, WHOLE):
        raise ValueError(
            f"window: {window.choice!r} is not in the file, as a colour image has no window; choose "
            f"{AUTOMATIC}."
        )
    elif photometric == PALETTE:
        from pydicom.pixels.processing import apply_color_lut

        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        colours = apply_color_lut(values, dataset)
        pixels, shown = (
            between(colours, 0, 2 ** (16 if colours.dtype.itemsize == 2 and bits > 8 else 8) - 1),
            "",
        )
    else:
        pixels, shown = between(values, 0, 2**stored - 1), ""
    rows, columns = values.shape[:2]
    return MedicalImage(
        pixels,
        MedicalSource(
            "DICOM",
            rows,
            columns,
            grey,
            stored,
            photometric,
            modality if modality in MODALITIES else "",
            frames=frames,
            window=shown,
            spacing=_spacing(dataset),
            burned_in=str(dataset.get("BurnedInAnnotation") or "") == "YES",
        ),
    )


def _spacing(dataset: "Dataset") -> tuple[float, float] | None:
    """Return millimetres between rows and columns; None where the file does not say."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            down, across = (float(number) for number in dataset.get(name) or ())
        except (TypeError, ValueError):
            continue
        if 0 < down < 1000 and 0 < across < 1000:
            return down, across
    return None


def _padding(dataset: "Dataset", values: np.ndarray) -> np.ndarray | None:
    """Return where a grey image only pads its sheet; None where the file names no such value."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    last = dataset.get("PixelPaddingRangeLimit")
    ends = [int(first), int(first if last is None else last)]
    if dataset.get("PixelRepresentation") == 1:
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    padding: np.ndarray = (values >= min(ends)) & (values <= max(ends))
    return None if padding.all() else padding


def _windowed(dataset: "Dataset", values: np.ndarray, window: Window) -> tuple[np.ndarray, str]:
    """Return grey values in 0..1 before the photometric interpretation, and how they were made."""
    padding = _padding(dataset, values)
    real = _rescaled(dataset, values)
    centres, widths = (_numbers(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    presets = [pair for pair in zip(centres, widths) if pair[1] > 0]
    tables = dataset.get("VOILUTSequence") or ()
    choice = window.choice
    if choice == AUTOMATIC:
        choice = LUT if tables else PRESETS[0] if presets else WHOLE
    if choice == LUT:
        if not tables:
            raise ValueError(f"window: the file has no {LUT}; choose {_offered(presets, tables)}.")
        looked_up, bits = _looked_up(real, tables[0])
        return between(looked_up, 0, max(2**bits - 1, int(looked_up.max()))), LUT
    if choice in CT:
        if str(dataset.get("Modality") or "") != "CT":
            raise ValueError(f"window: {choice!r} is for CT; choose {_offered(presets, tables)}.")
        centre, width = CT[choice]
    elif choice == OWN:
        centre, width = window.centre, window.width
    elif choice in PRESETS:
        number = PRESETS.index(choice)
        if number >= len(presets):
            have = f"{len(presets)} window{'s' * (len(presets) != 1)}"
            raise ValueError(
                f"window: {choice!r} is not in the file, which has {have}; "
                f"choose {_offered(presets, tables)}."
            )
        centre, width = presets[number]
    else:
        inside = real if padding is None else real[~padding]
        low, high = float(inside.min()), float(inside.max())
        return between(real, low, high), f"{low:g} to {high:g}"
    function = str(dataset.get("VOILUTFunction") or "LINEAR") if choice in PRESETS else "LINEAR"
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    kind = f", {function}" if function != "LINEAR" else ""
    return windowed(real, centre, width, function), f"centre {centre:g}, width {width:g}{kind}"


def _offered(presets: list[tuple[float, float]], tables: Any) -> str:
    """Return the choices that a file has, for a message."""
    return ", ".join([AUTOMATIC, *PRESETS[: len(presets)], *([LUT] if tables else []), WHOLE]) + f" or {OWN}"


def _numbers(value: Any) -> list[float]:
    """Return one number or several as a list; those that cannot be read are left out."""
    if value is None or value == "":
        return []
    numbers = []
    for item in [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") else value:
        try:
            number = float(item)
        except (TypeError, ValueError):
            continue
        if np.isfinite(number):
            numbers.append(number)
    return numbers


def _rescaled(dataset: "Dataset", values: np.ndarray) -> np.ndarray:
    """Apply the modality's table, or its slope and intercept: PS3.3, C.11.1."""
    tables = dataset.get("ModalityLUTSequence") or ()
    if tables:
        return _looked_up(values, tables[0])[0].astype(np.float64)
    slope, intercept = (_numbers(dataset.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    real = values.astype(np.float64)
    # A slope of 0, which some converters write, would leave nothing to see.
    return real * (slope[0] if slope and slope[0] else 1.0) + (intercept[0] if intercept else 0.0)


def _looked_up(values: np.ndarray, item: "Dataset") -> tuple[np.ndarray, int]:
    """Apply the table of a sequence's item: PS3.3, C.11.1.1. Returns values and their bits."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, np.uint8 if len(data) <= entries + 1 and bits <= 8 else "<u2")
    else:
        table = np.asarray(data if hasattr(data, "__iter__") else [data]).astype(np.int64) & 0xFFFF
    # Where values are signed, so is the first one that the table maps.
    if first > 32767 and values.min() < 0:
        first -= 65536
    places = np.clip(np.floor(values).astype(np.int64) - first, 0, min(entries, len(table)) - 1)
    return table[places].astype(np.int64), bits if 8 <= bits <= 16 else 16
