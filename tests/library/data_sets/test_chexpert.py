"""CheXpert: both prefixes, its own validation films, views, uncertain labels, the full set's parts."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)
CHEXPERT, film, picture, table = trees.CHEXPERT, trees.film, trees.picture, trees.table


@pytest.fixture
def folder(tmp_path):
    name = "CheXpert-v1.0-small"
    rows = [
        film(f"{name}/train/patient00001/study1/view1_frontal.jpg", Support_Devices="1.0", Edema="-1.0"),
        film(f"{name}/train/patient00001/study2/view1_frontal.jpg", projection="PA", Pleural_Effusion="1.0"),
        film(f"{name}/train/patient00001/study2/view2_lateral.jpg", "Lateral", "", Pleural_Effusion="1.0"),
        film(f"{name}/train/patient00002/study1/view1_frontal.jpg", sex="Unknown", age=0, No_Finding="1.0"),
        film(f"{name}/train/patient00003/study1/view1_frontal.jpg", Fracture="1.0", Edema="0.0"),
        film(f"{name}/train/patient00004/study1/view1_frontal.jpg", Support_Devices="True", Edema="NaN"),
        film(f"{name}/train/patient00005/study1/view1_frontal.jpg", Edema="-1"),
    ]
    valid = [film(f"{name}/valid/patient64541/study1/view1_frontal.jpg", Cardiomegaly="1.0")]
    table(tmp_path / name / "train.csv", CHEXPERT, rows)
    table(tmp_path / name / "valid.csv", CHEXPERT, valid)
    for number, row in enumerate([*rows[:-1], *valid]):
        picture(tmp_path / row[0], number)
    return tmp_path / name


def test_films_get_the_papers_captions(folder):
    data = read(folder)
    assert (data.layout, data.domain, data.root) == ("chexpert", "CheXpert", folder)
    assert list(data.frame.caption) == [
        "Chest X-ray showing Support Devices",
        "Chest X-ray showing Pleural Effusion",
        "Chest X-ray showing No Finding",
        NORMAL,
        "Chest X-ray showing Support Devices",
        "Chest X-ray showing Cardiomegaly",
    ]
    assert data.left_out == {"lateral": 1, "missing": 1}
    assert list(data.frame.place)[3] == "train.csv: line 6" and set(data.frame["view"]) == {"frontal"}
    assert list(data.frame.projection)[:2] == ["AP", "PA"] and data.frame.age[2] == 0
    assert all((data.root / file).is_file() for file in data.frame.file)
    edema = data.labels["Edema"]
    assert edema.dtype == np.float32 and edema[3] == 0 and edema.drop(3).isna().all()
    # from the folder above, with the full set's prefix, and with the columns' names in small letters
    text = (folder / "train.csv").read_text().replace("CheXpert-v1.0-small/", "CheXpert-v1.0/")
    head, rest = text.split("\n", 1)
    (folder / "train.csv").write_text(head.lower() + "\n" + rest)
    assert read(folder.parent).frame.equals(data.frame)


def test_uncertain_labels_are_ignored_taken_or_their_films_dropped(folder):
    positive = read(folder, uncertain="positive")
    assert positive.frame.caption[0] == "Chest X-ray showing Edema, Support Devices"
    assert positive.labels["Edema"][0] == 1
    dropped = read(folder, uncertain="drop")
    assert (
        dropped.left_out == {"lateral": 1, "missing": 1, "uncertain": 1} or dropped.left_out["uncertain"] == 2
    )
    assert "train/patient00001/study1/view1_frontal.jpg" not in set(dropped.frame.file)
    assert read(folder, views="all").left_out == {"missing": 1}
    assert list(read(folder, views="lateral").frame["view"]) == ["lateral"]
    negative = read(folder, blank="negative").labels["Edema"]
    assert np.isnan(negative[0]) and negative.drop(0).eq(0).all()


def test_patients_stay_together_and_the_same_are_held_out_whatever_the_policies(folder):
    for seed in range(4):
        data = read(folder, held_out=0.4, seed=seed, views="all")
        by_patient = data.frame.groupby("patient").split.agg(set)
        assert all(len(kinds) == 1 for kinds in by_patient)
        assert by_patient["patient64541"] == {"test"}
        held = set(data.frame.patient[data.frame.split == "validation"])
        other = read(folder, held_out=0.4, seed=seed, uncertain="drop").frame
        assert set(other.patient[other.split == "validation"]) <= held
    assert len({tuple(read(folder, held_out=0.4, seed=seed).frame.split) for seed in range(4)}) > 1


def test_parts_of_the_full_set_are_found(folder, tmp_path):
    whole = read(folder)
    (tmp_path / "CheXpert-v1.0 batch 2 (train 1)").mkdir()
    for patient in list((folder / "train").iterdir()):
        patient.rename(tmp_path / "CheXpert-v1.0 batch 2 (train 1)" / patient.name)
    first = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    folder.rename(first)
    (first / "train").rmdir()
    parts = read(first)
    assert list(parts.frame.caption) == list(whole.frame.caption)
    assert all((parts.root / file).is_file() for file in parts.frame.file)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Edema": "2"}, r": train.csv: line 2: column 'Edema': 2 is none of 1, 0, -1, blank; write"),
        ({"path": "CheXpert-v1.0/train/patient00002/study1/view1_frontal.jpg"}, r"line 3: .* is already on"),
        ({"path": ""}, r"train.csv: line 2: names no image; write it\.$"),
    ],
)
def test_a_table_that_is_not_as_published_is_refused_by_line(tmp_path, cells, message):
    path = cells.pop("path", "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")
    rows = [film(path, **cells), film("CheXpert-v1.0/train/patient00002/study1/view1_frontal.jpg")]
    table(tmp_path / "train.csv", CHEXPERT, rows)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_folder_that_is_none_says_what_it_could_be(tmp_path):
    with pytest.raises(
        ValueError, match=r"^data: .* does not hold the tables of CheXpert, .*; give the folder"
    ):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"^layout: there is no 'x'; the choices are chexpert, "):
        read(tmp_path, layout="x")
    with pytest.raises(ValueError, match=r"^data: .*none is not there; give"):
        read(tmp_path / "none")
    table(
        tmp_path / "train.csv", CHEXPERT, [film("CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")]
    )
    with pytest.raises(ValueError, match=r"^data: no image of .* is left \(missing \(1\)\); put the images"):
        read(tmp_path)
    # of several data sets in one folder, none is guessed
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "train.csv").rename(tmp_path / "a" / "train.csv")
    table(tmp_path / "b" / "HAM10000_metadata.csv", ("lesion_id", "image_id", "dx"), [])
    with pytest.raises(ValueError, match=r"^data: .* holds chexpert and ham10000; give the folder of one"):
        read(tmp_path)
