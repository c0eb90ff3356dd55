"""The phantoms that ship as DICOM files: what a hospital's archive would send, drawn instead of taken.

    python -m demo.phantoms.dicom_files [--out demo/dicom]

Four chest films (MONOCHROME1, 12 bits of 16, two windows, RLE) and one skin image (RGB, 8 bits). None of the
patients has an attribute, and none was trained on. Beside the films lie their true counterfactuals: the same
patients with support devices, and with a pleural effusion. The same command gives the same files.

Synthetic images. Not for clinical use.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from demo.phantoms import chest, dermoscopy
from medtraverse.notice import NOTICE
from medtraverse.whole_file import whole_files

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OUT = Path(__file__).parents[1] / "dicom"
CHEST_SEEDS, SKIN_SEED = (910_001, 910_002, 910_003, 910_004), 910_001
# As the model has seen them: drawn larger, their ribs and wires come out thinner.
SIZE = 128
# In the order in which a traversal has them.
FINDINGS = ("support_devices", "pleural_effusion")
# Values of the darkest and the brightest grey: the film's are inverted.
DARKEST, BRIGHTEST = 3600, 800


def chest_factors(seed: int, finding: str = "") -> chest.ChestFactors:
    """Return the factors of a shipped chest film: a patient without any attribute, or with one finding."""
    flags = {name: name == finding for name in chest.ATTRIBUTES}
    factors: chest.ChestFactors = chest.sample_factors(seed, **flags)
    return factors


def skin_factors(seed: int) -> dermoscopy.DermoscopyFactors:
    """Return the factors of the shipped skin image: a melanoma without any artefact."""
    factors: dermoscopy.DermoscopyFactors = dermoscopy.sample_factors(
        seed, **{"diagnosis": "MEL", **dict.fromkeys(dermoscopy.ARTEFACTS, False)}
    )
    return factors


def chest_film(seed: int, finding: str = "") -> "Dataset":
    """Return a chest film as a Computed Radiography Image (PS3.3, A.2)."""
    from pydicom.uid import ComputedRadiographyImageStorage, RLELossless

    grey = chest.render(chest_factors(seed, finding), SIZE).image[..., 0]
    stored = np.round(DARKEST + (BRIGHTEST - DARKEST) * grey.astype(np.float64)).astype(np.uint16)
    # Beside the body the film is darker than what its window shows.
    stored[:, :1] = stored[:, -1:] = 4000
    dataset = _dataset(f"chest{finding}", seed, str(ComputedRadiographyImageStorage), "CR")
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.ImagerPixelSpacing = ["2.8", "2.8"]
    width = DARKEST - BRIGHTEST
    dataset.WindowCenter = [BRIGHTEST + width / 2 + 0.5, 1900]
    dataset.WindowWidth = [width + 1, 1800]
    dataset.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
    dataset.Rows, dataset.Columns = stored.shape
    dataset.compress(RLELossless, stored, encoding_plugin="pydicom", generate_instance_uid=False)
    return dataset


def skin_image(seed: int) -> "Dataset":
    """Return a skin image as a VL Photographic Image (PS3.3, A.32.4)."""
    from pydicom.uid import ExplicitVRLittleEndian, VLPhotographicImageStorage

    image = dermoscopy.render(skin_factors(seed), SIZE).image
    dataset = _dataset("dermoscopy", seed, str(VLPhotographicImageStorage), "XC")
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = []
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.add_new("PixelData", "OB", np.round(image * 255).astype(np.uint8).tobytes())
    return dataset


def _dataset(domain: str, seed: int, kind: str, modality: str) -> "Dataset":
    """Return what both kinds of file say of a patient who does not exist."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    name = f"{domain}-{seed}"
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.ImplementationVersionName = "MEDTRAVERSE"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = kind
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        # UIDs from words, so that the files come out the same
        setattr(dataset, keyword, generate_uid(entropy_srcs=["MedTraverse", keyword, name]))
    dataset.SyntheticData = "YES"
    dataset.StudyDate, dataset.StudyTime = "20250101", "120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.Manufacturer = modality, "MedTraverse"
    dataset.SeriesDescription = "SYNTHETIC phantom"
    dataset.PatientName, dataset.PatientID = "Phantom^Synthetic", f"PHANTOM-{seed}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, 1
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageComments = NOTICE
    dataset.BurnedInAnnotation = "NO"
    return dataset


def write_all(out: Path = OUT) -> list[Path]:
    """Write all files, those of a folder together; return their paths."""
    chests, truths, skin = out / "chest", out / "chest-truth", out / "dermoscopy"
    true = {
        f"chest-{number}-{place}.dcm": chest_film(seed, finding)
        for number, seed in enumerate(CHEST_SEEDS, 1)
        for place, finding in enumerate(FINDINGS, 1)
    }
    for folder, files in (
        (truths, true),
        (chests, {f"chest-{number}.dcm": chest_film(seed) for number, seed in enumerate(CHEST_SEEDS, 1)}),
        (skin, {"dermoscopy-1.dcm": skin_image(SKIN_SEED)}),
    ):
        with whole_files(folder) as apart:
            for name, dataset in files.items():
                dataset.save_as(apart / name, enforce_file_format=True)
    return sorted(out.rglob("*.dcm"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write into")
    for path in write_all(parser.parse_args().out):
        print(f"{path}: {path.stat().st_size} bytes")
