"""NIH ChestX-ray14: findings in one cell, twelve folders of images, the published lists."""

import importlib.util
from pathlib import Path

import pytest

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Sex",
    "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
ROWS = [
    [
        "00000001_000.png",
        "Cardiomegaly|Pleural_Thickening",
        "0",
        "1",
        "57",
        "M",
        "PA",
        "2682",
        "2749",
        "0.14",
        "0.14",
    ],
    ["00000001_001.png", "No Finding", "1", "1", "058Y", "M", "AP", "2894", "2729", "0.14", "0.14"],
    ["00000002_000.png", "Effusion|Infiltration", "0", "2", "81", "F", "PA", "2500", "2048", "0.17", "0.17"],
]


@pytest.fixture
def folder(tmp_path):
    trees.table(tmp_path / "Data_Entry_2017_v2020.csv", COLUMNS, ROWS)
    for number, (name, *_) in enumerate(ROWS):
        trees.picture(tmp_path / f"images_{number + 1:03d}" / "images" / name, number)
    return tmp_path


def test_findings_become_sentences_of_the_packs_domain(folder):
    data = read(folder, held_out=0)
    assert (data.layout, data.domain) == ("nih", "NIH")
    assert list(data.frame.caption) == [
        "Chest X-ray showing Cardiomegaly, Pleural Thickening",
        NORMAL,
        "Chest X-ray showing Effusion, Infiltration",
    ]
    assert data.frame.file[2] == "images_003/images/00000002_000.png" and list(data.frame.age) == [57, 58, 81]
    assert list(data.labels["No Finding"]) == [0, 1, 0] and list(data.labels["Effusion"]) == [0, 0, 1]
    from medtraverse.domain import load_domains

    shipped = {attribute.prompt for attribute in load_domains()[data.domain].attributes}
    assert shipped <= set(data.attributes.values()) and NORMAL in data.neutrals.values()
    (folder / "test_list.txt").write_text("00000002_000.png\n")
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    assert list(read(folder).frame.split) == ["train", "train", "test"]
    trees.table(folder / "Data_Entry_2017_v2020.csv", COLUMNS, [[ROWS[0][0], "Cough", *ROWS[0][2:]]])
    with pytest.raises(
        ValueError, match=r"line 2: column 'Finding Labels': 'cough' is no finding; write one of"
    ):
        read(folder)
