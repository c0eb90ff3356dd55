"""CheXpert Plus: names with another suffix, labels apart as JSON, reports over several lines."""

import importlib.util
import json
from pathlib import Path

import pytest

from medtraverse.captions import NORMAL
from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id",
    "patient_report_date_order", "report", "section_narrative", "section_clinical_history",
    "section_history", "section_comparison", "section_technique", "section_procedure_comments",
    "section_findings", "section_impression", "section_end_of_impression", "section_summary",
    "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed", "insurance_type",
    "recent_bmi", "deceased", "split",
)  # fmt: skip


def row(number, view="Frontal", split="train", report="No change."):
    path = f"{split}/patient{number:05d}/study1/view1_{view.lower()}"
    cells = {
        "path_to_image": f"{path}.jpg",
        "path_to_dcm": f"{path}.dcm",
        "frontal_lateral": view,
        "ap_pa": "AP",
        "deid_patient_id": f"patient{number:05d}",
        "report": report,
        "age": "61.0",
        "sex": "Male",
        "split": split,
    }
    return [cells.get(name, "") for name in COLUMNS]


def test_images_and_labels_are_joined(tmp_path):
    rows = [
        row(1, report="NARRATIVE:\n\nTubes, lines."),
        row(2, "Lateral"),
        row(3),
        row(4),
        row(5, split="valid"),
    ]
    trees.table(tmp_path / "df_chexpert_plus_240401.csv", COLUMNS, rows)
    labels = {
        1: {"Support Devices": 1.0, "Edema": -1.0},
        2: {},
        3: {"Pleural Effusion": 0.0},
        5: {"Edema": 1.0},
    }
    (tmp_path / "chexbert_labels").mkdir()
    (tmp_path / "chexbert_labels" / "impression_fixed.json").write_text(
        "".join(
            json.dumps(
                {"path_to_image": rows[number - 1][0]}
                | {name: states.get(name) for name in trees.CHEXPERT[5:]}
            )
            + "\n"
            for number, states in labels.items()
        )
    )
    for number, cells in enumerate(rows):
        trees.picture(tmp_path / "PNG" / cells[0].replace(".jpg", ".png"), number)
    data = read(tmp_path)
    assert (data.layout, data.root, data.domain) == ("chexpert-plus", tmp_path / "PNG", "CheXpert")
    assert list(data.frame.caption) == [
        "Chest X-ray showing Support Devices",
        NORMAL,
        "Chest X-ray showing Edema",
    ]
    assert data.left_out == {"lateral": 1, "no labels": 1} and list(data.frame.split)[2] == "test"
    # the first report takes three lines
    assert list(data.frame.place)[1] == "df_chexpert_plus_240401.csv: line 6"
    assert all((data.root / file).is_file() for file in data.frame.file)
    (tmp_path / "chexbert_labels" / "impression_fixed.json").unlink()
    with pytest.raises(ValueError, match=r"^data: .* has no labels; put impression_fixed.json into "):
        read(tmp_path)
