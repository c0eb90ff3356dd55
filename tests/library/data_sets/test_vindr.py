"""VinDr-CXR: boxes of several readers, PhysioNet's tables, DICOM of both photometric interpretations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read, read_pixels

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

KAGGLE = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")


def box(image, name, reader):
    return [image, name, "14" if name == "No finding" else "3", reader, *[""] * 4]


def test_what_two_readers_find_is_there(tmp_path):
    rows = [
        *(box("aaa", "No finding", reader) for reader in ("R1", "R2", "R3")),
        box("bbb", "Pleural effusion", "R1"),
        box("bbb", "Pleural effusion", "R1"),
        box("bbb", "Pleural effusion", "R2"),
        box("bbb", "Cardiomegaly", "R3"),
        box("bbb", "Other lesion", "R3"),
        box("ccc", "Cardiomegaly", "R1"),
        box("ccc", "Cardiomegaly", "R1"),
        box("ccc", "No finding", "R2"),
        box("ccc", "No finding", "R3"),
        box("ddd", "Cardiomegaly", "R1"),
        box("ddd", "ILD", "R2"),
        box("ddd", "Other lesion", "R3"),
    ]
    trees.table(tmp_path / "train.csv", KAGGLE, rows)
    grey = np.tile(np.linspace(0, 4095, 32).astype(np.uint16), (32, 1))
    trees.dicom(tmp_path / "train" / "aaa.dicom", grey)
    trees.dicom(tmp_path / "train" / "bbb.dicom", 4095 - grey, "MONOCHROME1")
    trees.dicom(tmp_path / "train" / "ccc.dicom", grey)
    trees.dicom(tmp_path / "train" / "ddd.dicom", grey)
    data = read(tmp_path)
    # on whose finding the readers do not agree, is not normal either
    assert data.left_out == {"nothing that a caption names": 1}
    assert data.layout == "vindr" and data.domain is None and data.rule.endswith("found by two readers")
    assert list(data.frame.caption) == [NORMAL, "Chest X-ray showing Pleural Effusion", NORMAL]
    # one of three: uncertain
    assert np.isnan(data.labels["Cardiomegaly"][1:]).all() and data.labels["Cardiomegaly"][0] == 0
    positive = read(tmp_path, uncertain="positive").frame.caption
    assert list(positive[2:]) == ["Chest X-ray showing Cardiomegaly", "Chest X-ray showing Cardiomegaly, ILD"]
    plain, inverted = (read_pixels(data.root / file, 32).astype(int) for file in data.frame.file[:2])
    assert plain[0, 0, 0] == 0 and plain[0, -1, 0] == 255 and np.abs(plain - inverted).max() <= 1
    trees.table(tmp_path / "train.csv", KAGGLE, [box("aaa", "Cough", "R1")])
    with pytest.raises(
        ValueError, match=r"train.csv: line 2: column 'class_name': 'Cough' is no class; write"
    ):
        read(tmp_path)


def test_physionets_tables_have_a_row_for_each_reader_and_a_test_set(tmp_path):
    columns = ("image_id", "rad_id", "Cardiomegaly", "Pneumonia", "No finding")
    rows = [["aaa", "R1", 1, 1, 0], ["aaa", "R2", 1, 0, 0], ["aaa", "R3", 0, 0, 0], ["bbb", "R1", 0, 0, 1]]
    trees.table(tmp_path / "annotations" / "image_labels_train.csv", columns, rows)
    columns = ("image_id", "Cardiomegaly", "Pneumonia", "No finding")
    trees.table(tmp_path / "annotations" / "image_labels_test.csv", columns, [["ccc", 0, 1, 0]])
    for name in ("train/aaa.dicom", "train/bbb.dicom", "test/ccc.dicom"):
        trees.dicom(tmp_path / name, np.zeros((8, 8), np.uint16))
    data = read(tmp_path, held_out=0)
    assert list(data.frame.caption) == [
        "Chest X-ray showing Cardiomegaly",
        NORMAL,
        "Chest X-ray showing Pneumonia",
    ]
    assert list(data.frame.split) == ["train", "train", "test"] and data.frame.file[2] == "test/ccc.dicom"
