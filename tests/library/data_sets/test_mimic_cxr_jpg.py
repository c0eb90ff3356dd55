"""MIMIC-CXR-JPG: three tables joined, gzipped and not, the published split, views."""

import gzip
import importlib.util
from pathlib import Path

import pytest

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
    "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip


def label_row(subject, study, **labels):
    return [subject, study, *(labels.get(name.replace(" ", "_"), "") for name in LABELS)]


@pytest.fixture
def folder(tmp_path):
    films = [
        ("aa-1", "10000032", "50414267", "PA", "train"),
        ("aa-2", "10000032", "50414267", "LATERAL", "train"),
        ("bb-1", "11114467", "55935845", "AP", "validate"),
        ("cc-1", "12000001", "50000001", "", "test"),
        ("dd-1", "12000002", "50000002", "PA", "test"),
        ("ee-1", "12000003", "50000003", "AP LLD", "train"),
        ("ff-1", "12000004", "50000004", "AP", "train"),
    ]
    name = "mimic-cxr-2.0.0-{}.csv.gz".format
    metadata = [[d, p, s, "CHEST (PA AND LAT)", v, "3056", "2544", *[""] * 5] for d, p, s, v, _ in films]
    trees.table(tmp_path / name("metadata"), METADATA, metadata)
    trees.table(
        tmp_path / name("split"),
        ("dicom_id", "study_id", "subject_id", "split"),
        [[d, s, p, k] for d, p, s, _, k in films],
    )
    labels = [
        label_row("10000032", "50414267", No_Finding="1.0"),
        label_row("11114467", "55935845", Support_Devices="1.0", Edema="-1.0", Atelectasis="1.0"),
        label_row("12000001", "50000001"),
        label_row("12000002", "50000002"),
        label_row("12000003", "50000003"),
    ]
    trees.table(tmp_path / name("chexpert"), ("subject_id", "study_id", *LABELS), labels)
    for number, (image, patient, study, _, _) in enumerate(films):
        trees.picture(
            tmp_path / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{image}.jpg", number
        )
    return tmp_path


def test_labels_of_studies_views_and_split_are_joined(folder):
    data = read(folder)
    assert (data.layout, data.domain) == ("mimic-cxr-jpg", "CheXpert")
    assert [
        tuple(row) for row in data.frame[["file", "caption", "patient", "split", "projection"]].to_numpy()
    ] == [
        (
            "files/p10/p10000032/s50414267/aa-1.jpg",
            "Chest X-ray showing No Finding",
            "10000032",
            "train",
            "PA",
        ),
        (
            "files/p11/p11114467/s55935845/bb-1.jpg",
            "Chest X-ray showing Support Devices",
            "11114467",
            "validation",
            "AP",
        ),
        ("files/p12/p12000002/s50000002/dd-1.jpg", NORMAL, "12000002", "test", "PA"),
    ]
    assert data.left_out == {"lateral": 1, "view unknown": 1, "other view": 1, "no labels": 1}
    assert (
        data.labels["Atelectasis"][1] == 1
        and data.frame.place[0] == "mimic-cxr-2.0.0-metadata.csv.gz: line 2"
    )
    # unzipped, and without the split, whose place the held-out patients take
    for path in folder.glob("*.csv.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert list(read(folder).frame.caption) == list(data.frame.caption)
    (folder / "mimic-cxr-2.0.0-split.csv").unlink()
    assert set(read(folder, views="all").frame.split) == {"train", "validation"}
