"""ISIC 2019: ground truth joined with artefacts' probabilities and metadata."""

import importlib.util
from pathlib import Path

import pytest

from medtraverse.data_sets import read

_spec = importlib.util.spec_from_file_location("data_set_trees", Path(__file__).with_name("trees.py"))
trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trees)
picture, table = trees.picture, trees.table

TRUTH = ("image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
ARTEFACTS = (
    "", "image", "dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches", "vasc",
    "label", "label_string",
)  # fmt: skip
METADATA = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")


def truth(image, diagnosis):
    return [image, *(f"{float(name == diagnosis)}" for name in TRUTH[1:])]


@pytest.fixture
def folder(tmp_path):
    lesions = {
        "ISIC_0000000": "NV",
        "ISIC_0000002_downsampled": "MEL",
        "ISIC_0000003": "BCC",
        "ISIC_0000004": "MEL",
        "ISIC_0000006": "NV",
    }
    table(tmp_path / "ISIC_2019_Training_GroundTruth.csv", TRUTH, [truth(*item) for item in lesions.items()])
    rows = [
        [name, "55.0", "", "MSK4_0011169" if number in (0, 3) else "NaN", "female"]
        for number, name in enumerate(lesions)
    ]
    table(tmp_path / "ISIC_2019_Training_Metadata.csv", METADATA, rows)
    for number, name in enumerate(lesions):
        picture(
            tmp_path / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input" / f"{name}.jpg",
            number,
            mode="RGB",
        )
    return tmp_path


@pytest.fixture
def probabilities(folder):
    rows = [
        # as the authors' table: without some images, one under its plain name
        [0, "ISIC_0000000", 0.95, 0.9, 0.1, 0.05, 0.899, 2.1e-9, 0.7, 0.2, 0, "benign"],
        [1, "ISIC_0000002", 0.1, 0.1, 0.1, 0.2, 0.1, 0.8, 0.7, 0.2, 1, "malignant"],
        [2, "ISIC_0000004", 0.1, 0.65, 0.1, 0.99, 0.1, 0.9, 0.7, 0.2, 1, "malignant"],
    ]
    return table(folder / "isic_inferred_wocarcinoma.csv", ARTEFACTS, rows)


def test_artefacts_are_joined_and_cut_at_the_papers_threshold(folder, probabilities):
    data = read(folder)
    assert (data.layout, data.domain) == ("isic2019", "ISIC") and "0.9 or more" in data.rule
    assert list(data.frame.caption) == [
        "a dermoscopic image with melanocytic nevus (NV) showing dark corner, hair",
        "a dermoscopic image with melanoma (MEL) with no visible artifacts",
        "a dermoscopic image with melanoma (MEL) showing gel bubble, ink",
    ]
    assert data.left_out == {"neither MEL nor NV": 1, "no artefact probabilities": 1}
    assert list(data.labels["MEL"]) == [0, 1, 1] and list(data.labels["dark corner"]) == [1, 0, 0]
    assert all((data.root / file).is_file() for file in data.frame.file)
    # one lesion, two images
    assert list(data.frame.patient) == ["MSK4_0011169", "", "MSK4_0011169"]
    assert data.frame.split[0] == data.frame.split[2] and set(data.frame.age) == {55.0}
    lower = read(folder, threshold=0.6).frame.caption
    assert lower[2] == "a dermoscopic image with melanoma (MEL) showing hair, gel bubble, ink, patches"


def test_the_table_of_artefacts_may_lie_elsewhere_and_must_be_somewhere(
    folder, probabilities, tmp_path_factory
):
    elsewhere = probabilities.rename(tmp_path_factory.mktemp("elsewhere") / "artefacts.csv")
    with pytest.raises(
        ValueError, match=r"^artefacts: .* has no artefact columns, .*; download isic_inferred"
    ):
        read(folder)
    assert len(read(folder, artefacts=elsewhere).frame) == 3
    with pytest.raises(ValueError, match=r"^threshold: 1\.5 is out of range; "):
        read(folder, artefacts=elsewhere, threshold=1.5)
    elsewhere.write_text(elsewhere.read_text().replace("0.95", "95"))
    with pytest.raises(ValueError, match=r"line 2, column 'dark corner': 95 is no probability; write 0 to 1"):
        read(folder, artefacts=elsewhere)


def test_a_ground_truth_may_have_its_own_artefact_columns(tmp_path):
    """As the demo's phantoms have it."""
    header = [*TRUTH, "dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches"]
    rows = [[*truth("ISIC_0000001", "MEL"), *"0100000"], [*truth("ISIC_0000002", "NV"), *"0000000"]]
    table(tmp_path / "ISIC_2019_Training_GroundTruth.csv", header, rows)
    for name in ("ISIC_0000001", "ISIC_0000002"):
        picture(tmp_path / "ISIC_2019_Training_Input" / f"{name}.jpg")
    assert list(read(tmp_path).frame.caption) == [
        "a dermoscopic image with melanoma (MEL) showing hair",
        "a dermoscopic image with melanocytic nevus (NV) with no visible artifacts",
    ]
