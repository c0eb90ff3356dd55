"""Files and texts: Hugging Face's imagefolder, CSV, and `data captions`' own file."""

import importlib.util
import json
from pathlib import Path

import pytest

from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return path


def test_an_imagefolder_of_jsonl_has_texts_labels_and_patients(tmp_path):
    records = [
        {"file_name": "a.png", "text": 'one, "quoted"', "patient": "p1", "edema": True, "size": 3.5},
        {"file_name": "below/b.png", "text": "two", "patient": "p2", "edema": None, "size": 1},
        {"file_name": "c.png", "text": "", "patient": "p3", "edema": 0},
        {"file_name": "d.png", "text": "three", "patient": "p1", "edema": -1},
    ]
    lines(tmp_path / "metadata.jsonl", records)
    for number, record in enumerate(records):
        trees.picture(tmp_path / record["file_name"], number)
    data = read(tmp_path)
    assert data.layout == "captions" and data.domain is None and data.rule == "as written in metadata.jsonl"
    assert list(data.frame.caption) == ['one, "quoted"', "two", "three"]
    assert (
        list(data.labels.columns) == ["edema"]
        and data.labels.edema[0] == 1
        and data.labels.edema[1:].isna().all()
    )
    assert data.left_out == {"no text": 1} and data.frame.place[2] == "metadata.jsonl: line 4"
    assert data.frame.split[0] == data.frame.split[2] and "validation" in set(data.frame.split)
    assert read(tmp_path / "metadata.jsonl").frame.equals(data.frame)


def test_a_csv_of_any_name_and_one_in_each_split(tmp_path):
    trees.table(
        tmp_path / "films.csv", ["Image", "Caption"], [["a.png", "one\nin two lines"], ["b.png", "two"]]
    )
    for name in ("a.png", "b.png", "train/a.png", "validation/a.png"):
        trees.picture(tmp_path / name)
    data = read(tmp_path)
    assert list(data.frame.caption) == ["one\nin two lines", "two"]
    assert list(data.frame.place) == ["films.csv: line 2", "films.csv: line 4"]
    for split in ("train", "validation"):
        trees.table(tmp_path / split / "metadata.csv", ["file_name", "text"], [["a.png", split]])
    data = read(tmp_path)
    assert [tuple(row) for row in data.frame[["file", "caption", "split"]].to_numpy()] == [
        ("train/a.png", "train", "train"),
        ("validation/a.png", "validation", "validation"),
    ]


def test_a_file_that_is_cut_off_is_refused_by_line(tmp_path):
    path = lines(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "one"}])
    path.write_text(path.read_text() + '{"file_name": "b.png", "te')
    with pytest.raises(
        ValueError, match=r"metadata.jsonl: line 3: is no JSON object; write one object a line"
    ):
        read(tmp_path)
