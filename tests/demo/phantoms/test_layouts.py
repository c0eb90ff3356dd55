"""Phantom sets in the real layouts, read back by the library that reads the real sets."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from demo.phantoms import dermoscopy, layouts
from demo.phantoms.layouts import (
    FIRST_SEED,
    LABELS,
    STRIDE,
    _film,
    chest_factors,
    main,
    write_chexpert,
    write_isic,
)
from medtraverse.captions import CHEXPERT_LABELS, chexpert_caption, isic_caption
from medtraverse.data_sets import listing, read
from medtraverse.notice import NOTICE

NAMES = {
    "cardiomegaly": "Cardiomegaly",
    "pleural_effusion": "Pleural Effusion",
    "support_devices": "Support Devices",
}


def test_chexpert_round_trip(tmp_path):
    write_chexpert(tmp_path, 6, seed=3, size=64)
    data = read(tmp_path)
    assert len(data.frame) == 6 and data.left_out == {}
    for index, (image, caption) in enumerate(zip(data.frame.file, data.frame.caption)):
        drawn = chest_factors(FIRST_SEED + 3 * STRIDE + index)
        present = [NAMES[key] for key in NAMES if getattr(drawn, key)]
        assert image == f"train/patient{index + 1:05d}/study1/view1_frontal.jpg"
        assert caption in (chexpert_caption(present), chexpert_caption(["No Finding", *present]))
        with Image.open(data.root / image) as film:
            assert film.size == (64, 64) and film.mode == "L" and NOTICE in film.info["comment"].decode()


def test_isic_round_trip(tmp_path):
    write_isic(tmp_path, 5, size=64)
    data = read(tmp_path)
    assert len(data.frame) == 5 and data.left_out == {}
    for index, (image, caption) in enumerate(zip(data.frame.file, data.frame.caption)):
        drawn = dermoscopy.sample_factors(FIRST_SEED + index)
        assert caption == isic_caption(
            drawn.diagnosis, [name.replace("_", " ") for name in dermoscopy.ARTEFACTS if getattr(drawn, name)]
        )
        with Image.open(data.root / image) as picture:
            found = np.asarray(picture, float) / 255
        assert np.abs(found - dermoscopy.render(drawn, 64).image).mean() < 0.02


def test_labels_follow_the_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_write_image", lambda image, path, mode: None)
    monkeypatch.setattr(layouts.chest, "render", lambda factors, size: layouts.chest.Rendered(None, None))
    table = write_chexpert(tmp_path, 700)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    states = {name: [row[name] for row in rows] for name in layouts.LABELS}
    for key, name in NAMES.items():
        assert [cell == "1.0" for cell in states[name]] == [
            getattr(chest_factors(FIRST_SEED + i), key) for i in range(700)
        ]
        absent = [cell for cell in states[name] if cell != "1.0"]
        assert {cell: absent.count(cell) / len(absent) for cell in layouts.ABSENT} == pytest.approx(
            layouts.ABSENT, abs=0.08
        )
    for row in rows:
        if row["No Finding"]:
            assert all(row[name] in ("", "0.0") for name in layouts.LABELS[1:-1])
    present = listing(tmp_path).states[list(CHEXPERT_LABELS)] == 1
    captions = [chexpert_caption(present.columns[row]) for row in present.to_numpy()]
    for expected in (
        chexpert_caption(()),
        "Chest X-ray showing No Finding",
        "Chest X-ray showing No Finding, Support Devices",
    ):
        assert captions.count(expected) > 4
    assert set(CHEXPERT_LABELS) <= set(states)


def test_devices_beside_effusions_are_left_blank_in_the_share_asked_for():
    films = [chest_factors(seed, 0.9) for seed in range(600)]
    both = [factors.pleural_effusion and factors.support_devices for factors in films]
    cells = [
        (
            dict(zip(LABELS, _film(factors)[4:])),
            dict(zip(LABELS, _film(factors, 0.6)[4:])),
        )
        for factors in films
    ]
    blank = [after["Support Devices"] == "" != before["Support Devices"] for before, after in cells]
    assert sum(blank) / sum(both) == pytest.approx(0.6, abs=0.1) and not any(
        b and not a for a, b in zip(both, blank)
    )
    assert all(
        before | {"Support Devices": ""} == after for (before, after), left in zip(cells, blank) if left
    )
    assert all(before == after for (before, after), left in zip(cells, blank) if not left)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_correlation_is_what_was_asked_for(correlation):
    factors = [chest_factors(seed, correlation) for seed in range(1500)]
    flags = np.array([[f.support_devices, f.pleural_effusion, f.cardiomegaly] for f in factors], float)
    found = np.corrcoef(flags.T)
    assert found[0, 1] == pytest.approx(correlation, abs=0.07) and np.abs(found[2, :2]).max() < 0.09
    np.testing.assert_allclose(flags[:, :2].mean(0), 0.45, atol=0.05)


def test_a_stopped_run_goes_on_and_leaves_what_is_there(tmp_path, monkeypatch):
    write, left = layouts._write_image, [3]

    def stops(image, path, mode):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(image, path, mode)

    monkeypatch.setattr(layouts, "_write_image", stops)
    with pytest.raises(KeyboardInterrupt):
        write_isic(tmp_path, 5, size=64)
    assert (
        not list(tmp_path.glob("*.csv"))
        and len(list(tmp_path.rglob("*.jpg"))) == 3
        and not list(tmp_path.rglob(".medtraverse-*"))
    )
    first = next(tmp_path.rglob("ISIC_0000001.jpg"))
    os.utime(first, (1, 1))
    left[0] = 2
    write_isic(tmp_path, 5, size=64)
    assert len(read(tmp_path).frame) == 5
    assert first.stat().st_mtime == 1
    with pytest.raises(ValueError, match="holds another set"):
        write_isic(tmp_path, 6, size=64)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "CheXpert-v1.0").mkdir()
    (tmp_path / "CheXpert-v1.0" / "train.csv").write_text("real")
    with pytest.raises(ValueError, match="give an empty folder"):
        write_chexpert(tmp_path, 1, size=64)
    assert (tmp_path / "CheXpert-v1.0" / "train.csv").read_text() == "real"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chexpert", "--count", "0"], "count: 0 is"),
        (["chexpert", "--count", "1", "--seed", "20"], "seed: 20 is"),
        (["chexpert", "--count", "1", "--correlation", "1.5"], "correlation: 1.5 is"),
        (["isic", "--count", "1", "--correlation", "0.5"], "but isic has none"),
        (["chexpert", "--count", "1", "--unmentioned", "-0.1"], "unmentioned: -0.1 is"),
        (["isic", "--count", "1", "--unmentioned", "0.5"], "but isic has none"),
        (["isic", "--count", "1", "--size", "32"], "size: 32 is"),
    ],
)
def test_bad_command_lines_are_named(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "set")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jpg")) and not list(tmp_path.rglob("*.csv"))


def test_command(tmp_path, capsys):
    assert (
        main(["chexpert", "--count", "2", "--size", "64", "--correlation", "0.9", "--out", str(tmp_path)])
        == 0
    )
    assert NOTICE in capsys.readouterr().out
    assert len(read(tmp_path).frame) == 2
