"""A drawing is written with its numbers and settings, or not at all."""

import csv
import hashlib
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medtraverse import __version__
from medtraverse.cfrt import cfrt, to_csv
from medtraverse.digest import hashes, sha256_of, versions
from medtraverse.figures.drawing import Drawing, write
from medtraverse.figures.grid import grid_table, strip_frames
from medtraverse.figures.sheet import sheet
from medtraverse.notice import NOTICE
from medtraverse.table import csv_text

SETTINGS = {
    "cfg": 7.5,
    "note": "Bézier, λ = 45",
    "model": {"checkpoint": "m", "sha256": {"m/unet": "aa", "m/vae": "bb"}},
    "trajectories": [{"settings": {"classifier": {"name": "c", "sha256": "cc"}}}],
}


def drawing(fault=""):
    figure = sheet(4, 3, "λ and Δ")
    figure.text(0.5, 0.5, fault)
    return Drawing(figure, csv_text(["λ"], [[45], [5]]), SETTINGS)


@pytest.mark.parametrize("vector", ["svg", "pdf", "none"])
@pytest.mark.parametrize("table", [True, False])
def test_files_of_one_stem_lie_beside_each_other(tmp_path, vector, table):
    written = write(drawing(), tmp_path / "new" / "fig.5_00001_", vector, table)
    suffixes = ["png", *([vector] if vector != "none" else []), *(["csv"] if table else [])]
    assert [path.name for path in written] == [f"fig.5_00001_.{suffix}" for suffix in suffixes]
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    if table:
        assert written[-1].read_bytes().decode() == drawing().table_csv


def test_metadata_is_read_back(tmp_path):
    path = write(drawing(), tmp_path / "a", png_metadata={"workflow": '{"ä": 1}'}, dpi=120)[0]
    picture = Image.open(path)
    assert json.loads(picture.info["medtraverse"]) == SETTINGS and picture.info["workflow"] == '{"ä": 1}'
    assert json.loads(picture.info["medtraverse sha256"]) == hashes(SETTINGS)
    assert picture.info["Description"] == NOTICE and picture.size == (480, 360)
    assert "medtraverse" not in Image.open(write(drawing(), path.with_name("b"), metadata={})[0]).info


def test_text_in_vector_files_is_text_and_settings_are_in_them(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = write(drawing(), tmp_path / "a", "svg")[1].read_text(encoding="utf-8")
    assert ">λ and Δ</text>" in svg and NOTICE in svg and "7.5" in svg and "workflow" not in svg
    pdf = write(drawing(), tmp_path / "a", "pdf")[1].read_bytes()
    assert b"/Type /Font" in pdf and b"/Type3" not in pdf and b"/FontFile2" in pdf
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("vector", ["svg", "pdf"])
def test_the_same_drawing_gives_the_same_bytes(tmp_path, vector):
    first, second = (write(drawing(), tmp_path / name / "figure", vector) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_breaks_off_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch):
    old = {path: path.read_bytes() for path in write(drawing(), tmp_path / "a", "svg")}
    with pytest.raises(ValueError, match="nonsense"):
        write(drawing(r"$\nonsense$"), tmp_path / "a", "svg")
    with pytest.raises(ValueError, match="vector: 'eps' is unknown; choose one of svg, pdf, none"):
        write(drawing(), tmp_path / "a", "eps")
    unwritable = Drawing(sheet(4, 3), "\ud800", {})
    with pytest.raises(UnicodeEncodeError):
        write(unwritable, tmp_path / "a", "svg")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_others_may_read_what_is_written(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    modes = {path.stat().st_mode for path in write(drawing(), tmp_path / "a", "pdf")}
    assert modes == {plain.stat().st_mode}


def test_hashes_are_named_by_their_place():
    assert hashes(SETTINGS) == {
        "model/m/unet": "aa",
        "model/m/vae": "bb",
        "trajectories/0/settings/classifier": "cc",
    }
    assert hashes({}) == {} and hashes({"model": None}) == {}


@given(st.binary(max_size=3000))
def test_a_file_is_hashed_whole(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("digest") / "weights"
    path.write_bytes(content * 700)
    assert sha256_of(path) == hashlib.sha256(content * 700).hexdigest()


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(tmp_path, monkeypatch):
    path, opened = tmp_path / "weights", []
    path.write_bytes(b"one")
    first = sha256_of(path)
    monkeypatch.setattr(
        "builtins.open", lambda *args, real=open, **kwargs: (opened.append(args[0]), real(*args, **kwargs))[1]
    )
    assert sha256_of(path) == first and not opened
    path.write_bytes(b"another")
    assert sha256_of(path) == hashlib.sha256(b"another").hexdigest()


def test_versions_are_those_that_run():
    import torch

    assert versions() == {"medtraverse": __version__, "torch": torch.__version__}


def test_a_grids_table_names_every_cell():
    cells = list(csv.DictReader(io.StringIO(grid_table(["a", "b"], ["neutral", "45", "5"], [7, 8]))))
    assert len(cells) == 12 and all(cell["notice"] == NOTICE for cell in cells)
    assert [tuple(cell.values())[:5] for cell in cells[-2:]] == [
        ("4", "2", "8", "b", "45"),
        ("4", "3", "8", "b", "5"),
    ]


@given(st.integers(2, 200).flatmap(lambda total: st.tuples(st.just(total), st.integers(2, total))))
def test_a_strip_has_both_ends_and_no_frame_twice(sizes):
    total, count = sizes
    frames = strip_frames(total, count)
    assert (
        frames[0] == 0
        and frames[-1] == total - 1
        and len(frames) == count == len(set(frames))
        and frames == sorted(frames)
    )


def test_the_papers_values_are_a_column_of_their_own():
    result = cfrt(np.random.default_rng(0).random((4, 1, 2)), np.zeros((4, 2)), 0)
    first, second = csv.DictReader(io.StringIO(to_csv({"a": result, "b": result}, "ab", {"a": 0.888})))
    assert (first["cfrt_from_the_paper"], second["cfrt_from_the_paper"]) == ("0.888", "")
    assert "paper" not in to_csv({"a": result}, "ab")
