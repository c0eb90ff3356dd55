"""PadChest: lists in a cell, PNG of 16 bits in numbered folders, missing files, projections."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read, read_pixels

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
    "PatientSex_DICOM", "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric",
    "Modality_DICOM", "Manufacturer_DICOM", "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM",
    "PixelAspectRatio_DICOM", "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM",
    "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM",
    "ExposureInuAs_DICOM", "ExposureTime", "RelativeXRayExposure_DICOM", "ReportID", "Report",
    "MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS",
    "LocalizationsCUIS",
)  # fmt: skip


def row(number, labels, projection="PA", patient="839860488694292331637988235681460987"):
    cells = {
        "": str(number),
        "ImageID": f"{number}_fzis7d.png",
        "ImageDir": "0",
        "StudyDate_DICOM": "20140915",
        "PatientID": patient,
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": projection,
        "Pediatric": "No",
        "Report": "cambi pulmonar .",
        "MethodLabel": "Physician",
        "Labels": labels,
    }
    return [cells.get(name, "") for name in COLUMNS]


def test_findings_views_and_films_of_16_bits_are_read(tmp_path):
    rows = [
        row(1, "['pleural effusion', ' NSG tube', 'unchanged']"),
        row(2, "['normal']", "L"),
        row(3, "['normal']"),
        row(4, "", "PA", "p4"),
        row(5, "['emphysema', 'unchanged']", "AP_horizontal", "p5"),
        row(9, "['unchanged', 'goiter']"),
        row(6, "['exclude']"),
        row(7, "['normal']", "COSTAL"),
        row(8, "['loculated pleural effusion', '']"),
    ]
    trees.table(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", COLUMNS, rows)
    (tmp_path / "0").mkdir()
    for number in (1, 2, 3, 4, 5, 6, 7):
        grey = np.linspace(0, 4095, 400, dtype=np.uint16).reshape(20, 20) + number % 2
        Image.fromarray(np.minimum(grey, 4095)).save(tmp_path / "0" / f"{number}_fzis7d.png")
    data = read(tmp_path)
    assert list(data.frame.caption) == [
        "Chest X-ray showing Pleural Effusion, Support Devices",
        NORMAL,
        "Chest X-ray showing Emphysema",
    ]
    assert data.left_out == {
        "blank labels": 1,
        "lateral": 1,
        "excluded by its readers": 1,
        "other view": 1,
        "nothing that a caption names": 1,
        "missing": 1,
    }
    assert list(data.frame.age) == [84, 84, 84] and data.frame.projection[2] == "AP_horizontal"
    assert list(data.labels["No Finding"]) == [0, 1, 0]
    pixels = read_pixels(data.root / data.frame.file[0], 20)
    assert pixels.min() == 0 and pixels.max() == 255 and abs(float(pixels.mean()) - 127.5) < 2
    trees.table(
        tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", COLUMNS, [row(1, "[normal")]
    )
    with pytest.raises(ValueError, match=r"line 2: column 'Labels': '\[normal' is no list; write"):
        read(tmp_path)
