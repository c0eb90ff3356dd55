"""DICOM files as devices write them, made by pydicom: what the tests of reading and of nodes share."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

# Planted where a patient's data may stand; none of these words may leave the file.
SECRETS = ("SECRETNAME", "SECRETID", "19330217", "SECRETDOCTOR", "SECRETWARD", "SECRETNOTE", "SECRETPRIVATE")


def grey_values(bits=12, signed=False, shape=(40, 56), seed=0):
    """Return values [rows, columns] that use the whole range of the bits."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(rows / 7 + seed) * np.cos(columns / 9)
    values = np.round((wave + 1) / 2 * (high - low) + low).astype(np.int64)
    values[0, 0], values[0, 1] = low, high
    return values.astype({(1, False): np.uint8, (2, False): np.uint16, (1, True): np.int8}.get(
        (1 if bits <= 8 else 2, signed), np.int16))  # fmt: skip


def colours(shape=(40, 56), seed=0):
    """Return colours [rows, columns, 3] of 8 bits."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    planes = [np.sin(rows / 5 + seed + k) * np.cos(columns / (6 + k)) for k in range(3)]
    return np.round((np.stack(planes, -1) + 1) * 127.5).astype(np.uint8)


def dataset(values, bits=12, photometric="MONOCHROME2", **elements) -> Dataset:
    """Return a file of one image (or of frames, where `values` has an axis more) of a patient with a name."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "SECRETNAME^Ada", "SECRETID-7"
    made.PatientBirthDate, made.StudyDate = "19330217", "20200102"
    made.ReferringPhysicianName, made.InstitutionName = "SECRETDOCTOR", "SECRETWARD"
    made.ImageComments = made.SeriesDescription = "SECRETNOTE"
    block = made.private_block(0x0031, "SECRETPRIVATE", create=True)
    block.add_new(1, "LO", "SECRETPRIVATE")
    made.Modality = "CR"
    colour = values.ndim >= 3 and values.shape[-1] == 3
    frames = values.shape[0] if values.ndim == 3 + colour else 0
    made.SamplesPerPixel = 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour and photometric.startswith("MONO") else photometric
    if colour:
        made.PlanarConfiguration = 0
    if frames:
        made.NumberOfFrames = frames
    made.Rows, made.Columns = values.shape[bool(frames) : bool(frames) + 2]
    made.BitsAllocated = values.dtype.itemsize * 8
    made.BitsStored = min(8 if colour else bits, made.BitsAllocated)
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(np.issubdtype(values.dtype, np.signedinteger))
    content = values.tobytes()
    made.add_new("PixelData", "OW" if made.BitsAllocated > 8 else "OB", content + b"\0" * (len(content) % 2))
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset, path: Path) -> Path:
    """Write a file as it is, whatever is wrong with it."""
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def table(first, bits, entries) -> Dataset:
    """Return an item of a LUT sequence whose table is bent."""
    item = Dataset()
    steps = np.linspace(0, 1, entries) ** 2
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [entries % 65536, first, bits])
    item.add_new("LUTData", "OW", np.round(steps * (2**bits - 1)).astype("<u2").tobytes())
    return item
