"""HAM10000: several images of a lesion, two parts, diagnoses in the pack's words."""

import importlib.util
from pathlib import Path

import pytest

from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def test_lesions_stay_together(tmp_path):
    rows = [
        ["HAM_0000118", "ISIC_0027419", "bkl", "histo", "80.0", "male", "scalp"],
        ["HAM_0000118", "ISIC_0025030", "bkl", "histo", "80.0", "male", "scalp"],
        ["HAM_0002730", "ISIC_0026769", "nv", "histo", "", "unknown", "scalp"],
        ["HAM_0001466", "ISIC_0031633", "MEL", "histo", "75.0", "male", "ear"],
    ]
    trees.table(tmp_path / "HAM10000_metadata.csv", COLUMNS, rows)
    for number, (_, name, *_) in enumerate(rows):
        trees.picture(tmp_path / f"HAM10000_images_part_{number % 2 + 1}" / f"{name}.jpg", number, mode="RGB")
    for seed in range(4):
        data = read(tmp_path, held_out=0.4, seed=seed)
        assert data.frame.split[0] == data.frame.split[1] and set(data.frame.split) == {"train", "validation"}
    assert (data.layout, data.domain) == ("ham10000", "HAM10000")
    assert list(data.frame.caption) == [
        *["a dermoscopic image with benign keratosis (BKL)"] * 2,
        "a dermoscopic image with melanocytic nevus (NV)",
        "a dermoscopic image with melanoma (MEL)",
    ]
    assert data.frame.file[1] == "HAM10000_images_part_2/ISIC_0025030.jpg" and list(data.labels["mel"]) == [
        0,
        0,
        0,
        1,
    ]
    from medtraverse.domain import load_domains

    shipped = load_domains()[data.domain]
    assert {item.prompt for item in shipped.attributes} == set(data.attributes.values())
    assert shipped.neutrals == data.neutrals
    trees.table(tmp_path / "HAM10000_metadata.csv", COLUMNS, [[*rows[0][:2], "scar", *rows[0][3:]]])
    with pytest.raises(
        ValueError, match=r"line 2: column 'dx': 'scar' is no diagnosis; write one of nv, mel"
    ):
        read(tmp_path)
