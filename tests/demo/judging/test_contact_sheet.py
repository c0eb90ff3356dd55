"""Contact sheets of the model card."""

import re

import numpy as np
import pytest
from PIL import Image

from demo.judging import contact_sheet
from demo.judging.measurements import STUDIES
from demo.judging.phantom_references import draw_with


def test_the_sheet_of_phantoms_says_that_they_are_synthetic(tmp_path, capsys):
    contact_sheet.main(["isic", "--phantoms", "--patients", "1", "--out", str(tmp_path / "sheet.jpg")])
    picture = Image.open(tmp_path / "sheet.jpg")
    assert b"Not for clinical use" in picture.info["comment"] and np.asarray(picture).std() > 10
    assert "Not for clinical use" in capsys.readouterr().out and [
        path.name for path in tmp_path.iterdir()
    ] == ["sheet.jpg"]


@pytest.mark.parametrize("name", ["chexpert", "isic"])
def test_one_attribute_is_drawn_and_the_patient_stays(name):
    study = STUDIES[name]
    neutral = draw_with(study.phantoms, "", 7).astype(int)
    for label in study.labels:
        changed = (np.abs(draw_with(study.phantoms, label, 7) - neutral).max(-1) > 12).mean()
        assert 0.01 < changed < 0.5


def test_the_model_s_patients(tmp_path):
    contact_sheet.main(["chexpert", "--patients", "1", "--out", str(tmp_path / "sheet.jpg")])
    assert np.asarray(Image.open(tmp_path / "sheet.jpg")).std() > 10


@pytest.mark.parametrize(
    ("arguments", "name", "fault"),
    [
        (["--patients", "0"], "sheet.jpg", "--patients is 0"),
        ([], "sheet.xyz", "--out is .*sheet.xyz"),
        ([], "none/sheet.jpg", "in a folder that is there"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, arguments, name, fault):
    with pytest.raises(SystemExit):
        contact_sheet.main(["isic", *arguments, "--out", str(tmp_path / name)])
    assert re.search(fault, capsys.readouterr().err) and not list(tmp_path.iterdir())
