"""Domain files written by the command, from prompts and from tables, are read as domains."""

import json

import pytest

from medtraverse.__main__ import main
from medtraverse.domain import read_domain
from medtraverse.new_domain import new_domain

CHEXPERT = """Path,Sex,Age,No Finding,Pleural Effusion,Support_Devices,Edema,Fracture
p1.jpg,Male,61,1.0,,,0.0,
p2.jpg,Female,33,,1.0,-1.0,,
p3.jpg,Female,33,,1.0,1.0,,0.0
p4.jpg,Male,1,,,1.0,1.0,
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """``command(*arguments)`` runs ``domain`` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["domain", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_prompts_become_a_domain(command, tmp_path):
    code, out, _ = command(
        "Fundus, left eye", "--neutral", "a fundus photograph", "--neutral", "old = an old fundus photograph",
        "--attribute", "drusen = {neutral} with drusen", "--attribute", "laser scar #112233 = scars",
        "--size", "256", "--hint", "fundus", "--title", "Fundus photographs",
    )  # fmt: skip
    assert code == 0 and "fundus-left-eye.json: 2 attributes" in out
    domain = read_domain(tmp_path / "fundus-left-eye.json")
    assert (domain.name, domain.title, domain.size) == ("Fundus, left eye", "Fundus photographs", 256)
    assert domain.neutrals == {"normal": "a fundus photograph", "old": "an old fundus photograph"}
    drusen, scar = domain.attributes
    assert domain.prompt(drusen, "old") == "an old fundus photograph with drusen"
    assert (scar.name, scar.colour, scar.labels) == ("laser scar", "#112233", ("laser scar",))
    assert domain.hints == ("fundus",) and domain.select() == domain.attributes


def test_a_table_of_images_gives_its_labels_and_nothing_of_its_patients(command, tmp_path):
    (tmp_path / "train.csv").write_text(CHEXPERT)
    code, out, _ = command(
        "Mine", "--neutral", "Normal", "--table", "train.csv", "--template", "Chest X-ray showing {label}"
    )
    assert code == 0
    domain = read_domain(tmp_path / "mine.json")
    assert {item.name: item.prompt for item in domain.attributes} == {
        "pleural effusion": "Chest X-ray showing Pleural Effusion",
        "support devices": "Chest X-ray showing Support Devices",
        "edema": "Chest X-ray showing Edema",
    }
    assert len({item.colour for item in domain.attributes}) == 3
    text = (tmp_path / "mine.json").read_text() + out
    assert not any(word in text for word in ("p1", "Male", "61", "Sex"))
    code, _, _ = command(
        "Few",
        "--neutral",
        "Normal",
        "--table",
        "train.csv",
        "--template",
        "{label}",
        "--labels",
        "edema,FRACTURE",
    )
    assert [item.name for item in read_domain(tmp_path / "few.json").attributes] == ["edema", "fracture"]


def test_the_most_frequent_labels_of_many_are_traversed_by_default(command, tmp_path):
    names = [f"l{number}" for number in range(30)]
    rows = [",".join("1" if number < count else "" for number in range(30)) for count in range(1, 31)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    assert command("Many", "--neutral", "n", "--table", "t.csv", "--template", "{label}")[0] == 0
    domain = read_domain(tmp_path / "many.json")
    assert [item.name for item in domain.select()] == ["l0", "l1", "l2", "l3"]
    assert len({item.colour for item in domain.attributes}) == 30


def test_a_table_of_attributes_is_taken_row_by_row(command, tmp_path):
    (tmp_path / "own.csv").write_text(
        "Attribute,Prompt,labels,default,colour\n"
        "melanoma,a melanoma,mel;MEL,,#E00000\n"
        "nevus,a nevus,,false,\n"
    )
    assert command("Skin", "--neutral", "skin", "--table", "own.csv")[0] == 0
    first, second = read_domain(tmp_path / "skin.json").attributes
    assert (first.labels, first.colour, first.default) == (("mel", "MEL"), "#E00000", True)
    assert (second.labels, second.default) == (("nevus",), False)


NEUTRAL = ("--neutral", "Normal")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "neutral: none is given; write --neutral PROMPT."),
        (("x", *NEUTRAL), "attributes: is empty; give one or more."),
        (("auto", *NEUTRAL, "--attribute", "a = b"), "name: 'auto' is what stands for no choice"),
        (("x", "--neutral", "a = ", "--attribute", "a = b"), "neutral: 'a = ' has no prompt"),
        (("x", *NEUTRAL, "--attribute", "a ="), "'a =' has no prompt"),
        (("x", *NEUTRAL, "--attribute", "a = b", "--attribute", "A = c"), "attributes: 'a' is given twice"),
        (("x", *NEUTRAL, "--attribute", "a = b", "--size", "250"), "size: 250 is no image side"),
        (("x", *NEUTRAL, "--attribute", "a = b", "--out", "x.txt"), "out: x.txt does not end in .json"),
        (("x", *NEUTRAL, "--attribute", "a = b", "--out", "old.json"), "old.json is there already"),
        (("x", *NEUTRAL, "--table", "none.csv"), "none.csv: cannot be read"),
        (("x", *NEUTRAL, "--table", "t.csv"), "template: '' has no {label}"),
        (("x", *NEUTRAL, "--table", "bare.csv", "--template", "{label}"), "bare.csv: no column holds labels"),
        (
            ("x", *NEUTRAL, "--table", "t.csv", "--template", "{label}", "--labels", "Age"),
            "labels: more than 1, 0, -1 and blanks are in column 'Age'; t.csv has No Finding, Pleural",
        ),
        (
            ("x", *NEUTRAL, "--table", "t.csv", "--template", "{label}", "--labels", "Mass"),
            "labels: there is no column 'Mass'",
        ),
        (("x", *NEUTRAL, "--table", "head.csv", "--template", "{label}"), "head.csv: has no rows"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(command, tmp_path, arguments, message):
    (tmp_path / "t.csv").write_text(CHEXPERT)
    (tmp_path / "head.csv").write_text("Path,Edema\n")
    (tmp_path / "bare.csv").write_text("Path,Age\na,50\n")
    (tmp_path / "old.json").write_text("kept")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and message in err
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", "head.csv", "bare.csv", "old.json"}
    assert (tmp_path / "old.json").read_text() == "kept"


def test_a_record_is_what_a_file_holds(tmp_path):
    record = new_domain("x", {"normal": "n"}, [{"name": "a", "prompt": "b"}])
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert read_domain(tmp_path / "x.json").attributes[0].labels == ("a",)
