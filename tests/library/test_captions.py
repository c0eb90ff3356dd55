"""Captions from the data sets' CSV files.

The paper's rules, and errors that name the file, the line and the column.
"""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.captions import (
    CHEXPERT_LABELS,
    DIAGNOSES,
    ISIC_ARTEFACTS,
    NORMAL,
    chexpert_caption,
    image_file,
    isic_caption,
    read_chexpert,
    read_isic,
)

FOURTEEN = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
HEAD = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
FILM = "CheXpert-v1.0/train/patient{:05d}/study1/view1_frontal.jpg"
ISIC_HEAD = (
    "",
    "image",
    "MEL",
    "NV",
    "BCC",
    "VASC",
    "dark_corner",
    "hair",
    "gel_border",
    "gel_bubble",
    "ruler",
    "ink",
    "patches",
    "vasc",
    "label",
)


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def film(number=1, view="Frontal", **labels):
    """A row of CheXpert; labels by name with underscores, the others blank."""
    return [
        FILM.format(number),
        "Female",
        "68",
        view,
        "AP" if view == "Frontal" else "",
        *(labels.get(name.replace(" ", "_"), "") for name in FOURTEEN),
    ]


def lesion(name="ISIC_0000001", **cells):
    full = {"": "0", "image": name, "label": "0"} | dict.fromkeys(ISIC_HEAD[2:-1], "0") | cells
    return [full[column] for column in ISIC_HEAD]


@pytest.fixture
def chexpert(tmp_path):
    return lambda *rows: write(tmp_path / "train.csv", HEAD + FOURTEEN, rows)


@pytest.fixture
def isic(tmp_path):
    return lambda *rows: write(tmp_path / "isic.csv", ISIC_HEAD, rows)


@pytest.mark.parametrize(
    ("labels", "caption"),
    [
        ({}, NORMAL),
        ({"No_Finding": "1.0"}, "Chest X-ray showing No Finding"),
        (
            {"Support_Devices": "1.0", "Pleural_Effusion": "1.0"},
            "Chest X-ray showing Pleural Effusion, Support Devices",
        ),
        (
            {"Pleural_Effusion": "-1.0", "Edema": "0.0", "Support_Devices": "1"},
            "Chest X-ray showing Support Devices",
        ),
        ({"Atelectasis": "1.0", "Fracture": "1.0"}, NORMAL),  # labels that the paper does not use
        (
            {"Pneumothorax": "1.0", "Pneumonia": "1.0", "Lung_Opacity": "1.0", "Cardiomegaly": "1.0"},
            "Chest X-ray showing Cardiomegaly, Lung Opacity, Pneumonia, Pneumothorax",
        ),
    ],
)
def test_chexpert_rules(chexpert, labels, caption):
    assert read_chexpert(chexpert(film(**labels))) == [(FILM.format(1), caption)]


def test_views(chexpert):
    table = chexpert(film(1), film(2, "Lateral", Edema="1.0"), film(3))
    everything, frontal = read_chexpert(table), read_chexpert(table, frontal_only=True)
    assert len(everything) == 3 and everything.left_out == {}
    assert [row.image for row in frontal] == [FILM.format(1), FILM.format(3)] and frontal.left_out == {
        "lateral": 1
    }


def test_the_authors_table_of_eight_labels(tmp_path):
    row = [FILM.format(7), "Male", "70", "Frontal", "AP", *["0.0"] * 5, "1.0", "0.0", "1.0"]
    table = write(tmp_path / "chexpert_val.csv", HEAD + CHEXPERT_LABELS, [row])
    assert (
        read_chexpert(table, frontal_only=True)[0].caption
        == "Chest X-ray showing Pneumothorax, Support Devices"
    )


@pytest.mark.parametrize(
    ("cells", "caption"),
    [
        ({"MEL": "1.0"}, "a dermoscopic image with melanoma (MEL) with no visible artifacts"),
        (
            {"NV": "1", "ruler": "1", "dark_corner": "1.0"},
            "a dermoscopic image with melanocytic nevus (NV) showing dark corner, ruler",
        ),
        (
            {"NV": "1.0", "vasc": "1"},
            "a dermoscopic image with melanocytic nevus (NV) with no visible artifacts",
        ),
        (
            {"MEL": "1.0", "patches": "1", "ink": "1", "gel_bubble": "1", "gel_border": "1", "hair": "1"},
            "a dermoscopic image with melanoma (MEL) showing hair, gel border, gel bubble, ink, patches",
        ),
    ],
)
def test_isic_rules(isic, cells, caption):
    assert read_isic(isic(lesion(**cells))) == [("ISIC_0000001.jpg", caption)]


def test_other_diagnoses_are_counted_and_names_keep_their_ending(isic):
    captions = read_isic(isic(lesion("a", BCC="1.0"), lesion("b.png", NV="1.0"), lesion("c", VASC="1.0")))
    assert [row.image for row in captions] == ["b.png"] and captions.left_out == {"neither MEL nor NV": 2}


@given(present=st.sets(st.sampled_from(ISIC_ARTEFACTS)), diagnosis=st.sampled_from(sorted(DIAGNOSES)))
def test_a_caption_tells_what_is_present(present, diagnosis):
    caption = isic_caption(diagnosis, present)
    assert caption.startswith(DIAGNOSES[diagnosis])
    shown = caption.removeprefix(DIAGNOSES[diagnosis] + " showing ")
    assert (
        shown.split(", ") == [name for name in ISIC_ARTEFACTS if name in present]
        if present
        else caption.endswith("with no visible artifacts")
    )


@given(present=st.sets(st.sampled_from(CHEXPERT_LABELS)))
def test_chexpert_captions_are_distinct_and_ordered(present):
    caption = chexpert_caption(present)
    assert (
        caption == NORMAL
        if not present
        else caption.removeprefix("Chest X-ray showing ").split(", ")
        == [n for n in CHEXPERT_LABELS if n in present]
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([film(Edema="2.0")], r"train.csv: line 2, column 'Edema': 2.0 is none of 1, 0, -1, blank"),
        ([film(1), film(2, Pleural_Effusion="yes")], r"line 3, column 'Pleural Effusion': yes is none of"),
        ([film(1), film(2), film(1)], r"line 4, column 'Path': CheXpert-v1.0/.* is already on line 2"),
        ([film(1), film(2)[:-1]], r"line 3: 18 cells, but the header has 19"),
        ([film(1, "Oblique")], r"line 2, column 'Frontal/Lateral': 'Oblique' is no view"),
        ([["", *film(1)[1:]]], r"line 2, column 'Path': is empty"),
        ([], r"train.csv: has no rows"),
    ],
)
def test_bad_chexpert_rows_are_named(chexpert, rows, message):
    with pytest.raises(ValueError, match=message):
        read_chexpert(chexpert(*rows), frontal_only=True)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"MEL": "1", "NV": "1"}, "both are 1"),
        ({"NV": "1", "hair": "0.9997"}, "line 2, column 'hair': 0.9997 is none of 1, 0; cut probabilities"),
        ({"NV": "1", "ink": ""}, "line 2, column 'ink': blank is none of 1, 0"),
        ({"NV": "1", "ink": "-1"}, "line 2, column 'ink': -1 is none of 1, 0"),
    ],
)
def test_bad_isic_rows_are_named(isic, cells, message):
    with pytest.raises(ValueError, match=message):
        read_isic(isic(lesion(**cells)))


def test_missing_and_doubled_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="lacks columns No Finding, Support Devices; it has Path"):
        read_chexpert(write(tmp_path / "a.csv", ("Path", *CHEXPERT_LABELS[1:-1]), []))
    with pytest.raises(ValueError, match="lacks column Frontal/Lateral"):
        read_chexpert(write(tmp_path / "b.csv", ("Path", *CHEXPERT_LABELS), []), frontal_only=True)
    with pytest.raises(ValueError, match="column 'gel bubble' stands twice"):
        read_isic(write(tmp_path / "c.csv", (*ISIC_HEAD, "gel bubble"), []))
    with pytest.raises(ValueError, match="absent.csv: cannot be read"):
        read_isic(tmp_path / "absent.csv")
    (tmp_path / "d.csv").write_bytes(b"image,\xff\n")
    with pytest.raises(ValueError, match="d.csv: is no UTF-8 CSV"):
        read_isic(tmp_path / "d.csv")
    with pytest.raises(ValueError, match="diagnosis: 'BCC' "):
        isic_caption("BCC", ())
    with pytest.raises(ValueError, match="artefact: 'glare' is unknown"):
        isic_caption("NV", ["glare"])


def test_images_are_found_where_the_releases_put_them(tmp_path):
    inside = tmp_path / FILM.format(1)
    inside.parent.mkdir(parents=True)
    inside.touch()
    (tmp_path / "ISIC_0000002_downsampled.jpg").touch()
    assert (
        image_file(tmp_path, FILM.format(1))
        == image_file(tmp_path / "CheXpert-v1.0", FILM.format(1))
        == inside
    )
    assert image_file(tmp_path, "ISIC_0000002.jpg").name == "ISIC_0000002_downsampled.jpg"
    with pytest.raises(ValueError, match="'ISIC_0000003.jpg' is not there; put it at one of"):
        image_file(tmp_path, "ISIC_0000003.jpg")


@pytest.mark.parametrize("blank", ["NaN", "nan", "NA", "N/A", "<NA>", "None", "null", " "])
def test_blanks_as_programs_write_them(chexpert, blank):
    assert read_chexpert(chexpert(film(Edema=blank, Pneumonia="1.0")))[0].caption.endswith(
        "showing Pneumonia"
    )


def test_truth_as_a_threshold_writes_it(isic, chexpert):
    row = lesion(MEL="True", NV="False", hair="TRUE", ruler="false")
    assert read_isic(isic(row))[0].caption == "a dermoscopic image with melanoma (MEL) showing hair"
    assert read_chexpert(chexpert(film(Edema="True", Pneumonia="False")))[0].caption.endswith("showing Edema")


def test_headers_in_small_letters(tmp_path):
    header = [name.lower() for name in HEAD + FOURTEEN]
    table = write(tmp_path / "train.csv", header, [film(1, Edema="1.0"), film(2, "Lateral")])
    assert read_chexpert(table, frontal_only=True) == [(FILM.format(1), "Chest X-ray showing Edema")]


def test_case_decides_where_both_columns_are_there(tmp_path):
    table = write(tmp_path / "isic.csv", [*ISIC_HEAD, "HAIR"], [[*lesion(MEL="1"), "1"]])
    assert read_isic(table)[0].caption.endswith("with no visible artifacts")
    header = [name if name != "hair" else "Hair" for name in ISIC_HEAD]
    table = write(tmp_path / "isic.csv", [*header, "HAIR"], [[*lesion(MEL="1"), "1"]])
    with pytest.raises(ValueError, match="column 'hair' stands twice"):
        read_isic(table)
