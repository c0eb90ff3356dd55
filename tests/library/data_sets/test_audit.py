"""The audit: every pitfall that was put into a data set is named by file and line, and nothing else is."""

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtraverse.__main__ import main
from medtraverse.data_sets import read
from medtraverse.data_sets.audit import audit
from medtraverse.data_sets.image_check import check_image, check_images

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)

NAMES = {
    "good": 2, "missing": 3, "cut": 4, "text": 5, "lateral": 6, "copy": 7, "deep": 8, "webp": 9, "flat": 10,
    "blank": 11, "contrast": 12, "leak": 13, "cell": 14, "doubtful": 15,
}  # fmt: skip


def image_of(name):
    return f"train/patient{NAMES[name]:05d}/study1/view1_frontal.jpg"


@pytest.fixture
def folder(tmp_path):
    """CheXpert's layout with one of each pitfall."""
    root = tmp_path / "CheXpert-v1.0"
    labels = {"blank": {}, "cell": {"Edema": "yes"}}
    rows = [
        trees.film(
            f"CheXpert-v1.0/{image_of(name)}",
            "Lateral" if name == "lateral" else "Frontal",
            "LL" if name == "doubtful" else "AP",
            **labels.get(name, {"Support_Devices": "1.0", "Edema": "-1.0"}),
        )
        for name in NAMES
    ]
    # the second study of a patient, in other contrast, and a third in the set's own validation films
    rows[NAMES["contrast"] - 2][0] = "CheXpert-v1.0/train/patient00002/study2/view1_frontal.jpg"
    trees.table(root / "train.csv", trees.CHEXPERT, rows)
    leak = trees.film("CheXpert-v1.0/valid/patient00013/study1/view1_frontal.jpg", Cardiomegaly="1.0")
    trees.table(root / "valid.csv", trees.CHEXPERT, [leak])
    for number, row in enumerate([*rows, leak]):
        trees.picture(tmp_path / row[0], number, (64, 48))
    (root / image_of("missing")).unlink()
    cut = root / image_of("cut")
    cut.write_bytes(cut.read_bytes()[:-400])
    (root / image_of("text")).write_text("<html>404</html>")
    deep = np.random.default_rng(1).integers(0, 4096, (48, 64)).astype(np.uint16)
    Image.fromarray(deep).save(root / image_of("deep"), format="PNG")
    Image.open(root / image_of("webp")).save(root / image_of("webp"), format="WEBP", lossless=True)
    Image.new("L", (64, 48), 7).save(root / image_of("flat"))
    grey = chest(0.3)
    Image.fromarray(np.round(255 * grey).astype(np.uint8)).save(root / image_of("good"), quality=95)
    darker = Image.fromarray(np.round(200 * grey**1.5 + 20).astype(np.uint8))
    darker.save(root / "train/patient00002/study2/view1_frontal.jpg", quality=95)
    (root / image_of("copy")).write_bytes((root / image_of("good")).read_bytes())
    return root


def chest(heart, seed=0):
    """Two lungs and a heart of this size, float [256, 256] in 0..1."""
    across, down = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256))
    lungs = np.exp(-((abs(across) - 0.45) ** 2) * 12 - down**2 * 2)
    middle = np.exp(-(across**2 + (down - 0.3) ** 2) / heart**2)
    noise = np.random.default_rng(seed).normal(0, 0.02, across.shape)
    return np.clip(0.75 - 0.5 * lungs + 0.4 * middle + noise, 0, 1)


def state_of(folder):
    """Everything in a folder, with the times at which it was written."""
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")
    }


def test_each_pitfall_is_named_by_file_and_line_and_nothing_else(folder, tmp_path, capsys):
    before = state_of(tmp_path)
    found = audit(folder, workers=1)
    named = {(fault.kind, fault.place, fault.file) for fault in found.faults}
    kinds = {
        "missing": "missing", "cut": "truncated", "text": "not an image", "lateral": "lateral",
        "copy": "duplicate pixels", "webp": "other format", "flat": "one grey value", "blank": "blank labels",
        "cell": "no label", "doubtful": "doubtful view",
    }  # fmt: skip
    expected = {(kind, f"train.csv: line {NAMES[name]}", image_of(name)) for name, kind in kinds.items()}
    deep = f"train.csv: line {NAMES['deep']}"
    expected |= {("more than 8 bits", deep, image_of("deep")), ("other format", deep, image_of("deep"))}
    contrast = f"train.csv: line {NAMES['contrast']}"
    expected |= {
        ("other contrast", contrast, "train/patient00002/study2/view1_frontal.jpg"),
        ("two splits", "valid.csv: line 2", "valid/patient00013/study1/view1_frontal.jpg"),
    }
    assert named == expected
    assert all(re.search(r"\w\.$", fault.what) for fault in found.faults)
    report = found.report()
    assert report["left_out"] == {"no label": 1, "lateral": 1, "missing": 1}
    assert report["used"] == 12 and report["images_checked"] == 12 and report["rows"] == 15
    assert report["labels"]["Edema"] == {"present": 0, "absent": 0, "uncertain": 10, "blank": 2}
    assert report["captions"][0]["text"] == "Chest X-ray showing Support Devices"
    assert report["captions"][0]["images"] == 10
    # the command: the same, in several processes, and all of it as JSON
    assert main(["data", "audit", str(folder), "--json", str(tmp_path / "a.json"), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert f"    train.csv: line 4: {image_of('cut')} is damaged or truncated; copy it again.\n" in text
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["faults"] == report["faults"] and "not for clinical use" in written["notice"]
    assert main(["data", "audit", str(folder), "--json", str(folder / "a.json")]) == 2
    assert "in which nothing is written; name another place." in capsys.readouterr().err
    (tmp_path / "a.json").unlink()
    assert state_of(tmp_path) == {**before, tmp_path / "CheXpert-v1.0": before[tmp_path / "CheXpert-v1.0"]}


def test_captions_leave_out_what_cannot_be_read_and_are_a_data_set_themselves(folder, tmp_path, capsys):
    out = tmp_path / "captions.jsonl"
    command = ["data", "captions", str(folder), "--out", str(out), "--workers", "1", "--held-out", "0.3"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train.csv: line 14: column 'Edema': yes is none of 1, 0, -1" in error
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("yes", "1.0"))
    assert main([*command[:3], "--out", str(folder / "c.jsonl")]) == 2 and not (folder / "c.jsonl").exists()
    (tmp_path / "mine.jsonl").write_text("mine\n")
    assert main([*command[:3], "--out", str(tmp_path / "mine.jsonl")]) == 2
    assert "is no table of captions" in capsys.readouterr().err
    assert main([*command, "--views", "all"]) == 0
    assert "  left out, truncated: 1\n" in capsys.readouterr().out
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert set(records[1]) >= {"file_name", "text", "patient", "split", "Edema"} and records[1]["Edema"] == -1
    whole, data = read(folder, held_out=0.3, views="all"), read(out)
    kept = whole.frame[~whole.frame.file.isin([image_of("cut"), image_of("text")])].reset_index(drop=True)
    assert data.frame.drop(columns="place").equals(kept.drop(columns="place"))
    assert data.labels.equals(whole.labels.loc[whole.frame.file.isin(kept.file)].reset_index(drop=True))
    assert (data.layout, data.root, data.rule, data.domain) == ("chexpert", folder, whole.rule, "CheXpert")
    assert data.policies["held_out"] == 0.3 and data.attributes == whole.attributes
    assert read(out, uncertain="positive").labels["Edema"].sum() > whole.labels["Edema"].sum()
    # a domain in the words that were trained
    assert main(["domain", "Mine", "--data", str(out), "--out", str(tmp_path / "mine.json")]) == 0
    domain = json.loads((tmp_path / "mine.json").read_text())
    assert domain["neutrals"] == {"normal": "Normal chest X-ray with no significant findings"}
    assert "Chest X-ray showing Support Devices" in {item["prompt"] for item in domain["attributes"]}


def test_a_film_of_another_day_is_no_copy(tmp_path):
    """Two films of one patient are much alike; contrast alone must be what differs."""
    for number, heart in enumerate((0.30, 0.36)):
        Image.fromarray(np.round(255 * chest(heart, number)).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    ranks = [np.frombuffer(check_image(tmp_path / f"{number}.png").ranks, np.uint8) for number in (0, 1)]
    assert 0.9 < np.corrcoef(ranks)[0, 1] < 0.99


def test_several_processes_find_the_same_and_hear_an_interrupt(tmp_path):
    for number in range(40):
        trees.picture(tmp_path / f"{number}.png", number, (32, 32))
    (tmp_path / "7.png").write_bytes(b"none")
    files = [f"{number}.png" for number in range(40)]
    steps = []
    several = check_images(tmp_path, files, 2, lambda done, count: steps.append(done))
    assert several == check_images(tmp_path, files, 1) and several[7].kind == "not an image"
    assert steps[0] == 0 and steps[-1] == 40 and steps == sorted(steps)

    def interrupt(done, count):
        if done:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        check_images(tmp_path, files * 500, 2, interrupt)
    assert time.monotonic() - begin < 10
