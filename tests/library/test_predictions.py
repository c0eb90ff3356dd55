import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.__main__ import main
from medtraverse.notice import NOTICE
from medtraverse.predictions import Predictions, far_points, published_far_points, read_table

ISIC = ("hairs", "gel_bubbles", "ruler", "ink")
STEPS = tuple(range(5, 50, 5))


def write(path, heads, attributes=ISIC, patients=6, by_attribute=False, extra="path"):
    """A table as the reference implementation lays it out, with an extra text column."""
    rng = np.random.default_rng(0)
    names = [f"{head}_{name}" for head in heads for name in attributes]
    if by_attribute:
        names = [f"{head}_{name}" for name in attributes for head in heads]
    cells = {name: rng.random(patients).round(7).tolist() for name in names}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", extra, *names])
        for i in range(patients):
            writer.writerow(
                [4000 + i, f"seed{i}/lambda_t_star5/style.png", *(cells[name][i] for name in names)]
            )
    return path, cells


@pytest.mark.parametrize("by_attribute", [False, True])
@pytest.mark.parametrize(
    ("heads", "kind", "far"),
    [
        (("neutral", *STEPS), "swap", [5, 10, 15]),
        (tuple(range(50)), "curve", list(range(30, 50))),
        (("0", 5, 10, 15), "curve", [5, 10, 15]),
        (("neutral", *range(1, 50)), "swap", [5, 10, 15]),
    ],
)
def test_the_reference_layout(tmp_path, heads, kind, far, by_attribute):
    path, cells = write(tmp_path / "t.csv", heads, by_attribute=by_attribute)
    table = read_table(path)
    assert table.kind == kind and table.attributes == ISIC and table.seeds == tuple(range(4000, 4006))
    assert published_far_points(table.points, table.kind) == far
    for i, name in enumerate(ISIC):
        assert table.neutral[:, i].tolist() == cells[f"{heads[0]}_{name}"]
        for j, point in enumerate(table.points):
            assert table.probabilities[:, j, i].tolist() == cells[f"{point}_{name}"]
    assert table.at([15])[:, 0].tolist() == table.probabilities[:, table.points.index(15)].tolist()


names = st.text(st.characters(categories=["L", "N"], include_characters=' _,"-'), min_size=1).filter(
    lambda name: name.strip() == name
)


@given(
    st.lists(names, min_size=1, max_size=4, unique=True),
    st.sampled_from(["swap", "curve"]),
    st.integers(0, 2**32),
)
def test_round_trip(tmp_path_factory, attributes, kind, seed):
    rng = np.random.default_rng(seed)
    points = (5, 10, 15, 45)
    table = Predictions(
        kind,
        ("a b", 7, 1500),
        tuple(attributes),
        points,
        rng.random((3, len(attributes))),
        rng.random((3, 4, len(attributes))),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    path.write_text(table.to_csv(), encoding="utf-8")
    back = read_table(path)
    assert (back.kind, back.seeds, back.attributes, back.points) == (
        kind,
        table.seeds,
        table.attributes,
        points,
    )
    assert np.array_equal(back.neutral, table.neutral) and np.array_equal(
        back.probabilities, table.probabilities
    )
    assert NOTICE in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "available", "expected"),
    [
        ("5,10,15", ("neutral", "45", "15", "10", "5"), ["5", "10", "15"]),
        ("30-49", range(50), list(range(30, 50))),
        (" 5 , 30 - 32 ", range(50), [5, 30, 31, 32]),
        ("5-15", STEPS, [5, 10, 15]),
        ("7", [7], [7]),
    ],
)
def test_far_points(text, available, expected):
    assert far_points(text, available) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (",", "empty"),
        ("5;10", "'5;10' is no point or range"),
        ("-5", "'-5' is no point"),
        ("5,x", "'x' is no point"),
        ("30-49", "there is no point 49; choose from 5, 10"),
        ("4", "no point 4"),
        ("15-5", "runs backwards; write 5-15"),
        ("5,10,5", "point 5 is given twice"),
        ("10,5-15", "point 10 is given twice"),
    ],
)
def test_far_points_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        far_points(text, STEPS)


def test_the_published_far_part_of_fewer_steps_has_the_same_shares():
    assert published_far_points(["18", "6", "5", "4", "2"], "swap", 20) == ["2", "4", "6"]
    assert published_far_points(["15", "10", "5", "3"], "swap", 20) == ["5", "10", "15"]
    assert published_far_points(["20", "15", "10", "5"], "swap", 50) == ["5", "10", "15"]


def test_no_published_far_part():
    with pytest.raises(ValueError, match="name some of 5, 10"):
        published_far_points((5, 10), "swap")
    # frames 5, 10 and 15 of a short curve lie near the neutral
    with pytest.raises(ValueError, match="name some of"):
        published_far_points([str(frame) for frame in range(1, 25)], "curve")


def test_attribute_names_are_found_however_they_are_spelt(tmp_path):
    table = read_table(write(tmp_path / "t.csv", ("neutral", 5), ("Support Devices", "ink", "Ink"))[0])
    assert table.attribute("support_devices") == 0
    assert table.attribute("ink") == 1 and table.attribute("Ink") == 2
    for name in ("INK", "devices"):
        with pytest.raises(ValueError, match="choose one of Support Devices, ink, Ink"):
            table.attribute(name)


HEAD = "seed,neutral_a,neutral_b,5_a,5_b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEAD, "no patients"),
        ("neutral_a,5_a\n.1,.2\n", "no column 'seed'"),
        ("seed;neutral_a;5_a\n1;.1;.2\n", "separated by commas"),
        ("seed,5_a\n1,.2\n", "no neutral columns"),
        ("seed,neutral_a\n1,.2\n", "no columns <point>_<attribute>"),
        ("seed,neutral_a,neutral_b,5_a\n1,.1,.2,.3\n", "lacks column '5_b'"),
        ("seed,neutral_a,5_a,5_b\n1,.1,.2,.3\n", "'5_b' has no neutral"),
        ("seed,neutral_a,5_a,5_a\n1,.1,.2,.3\n", "'5_a' stands twice"),
        (HEAD + "1,.1,.2,.3,.4\n1,.1,.2,.3,.4\n", "line 3: seed 1 is already on line 2"),
        (HEAD + "1,.1,.2,.3,.4\n,.1,.2,.3,.4\n", "line 3, column 'seed'"),
        (HEAD + "1,.1,.2,.3\n", "line 2: 4 cells, but the header has 5"),
        (
            HEAD + "1,.1,.2,.3,.4\n2,.1,x,.3,.4\n",
            r"line 3 \(seed 2\), column 'neutral_b': 'x' is not a number",
        ),
        (HEAD + "1,.1,.2,,.4\n", "column '5_a': is empty"),
        (HEAD + "1,.1,.2,.3,1.001\n", "column '5_b': 1.001 is no probability"),
        (HEAD + "1,.1,.2,.3,-0.1\n", "column '5_b': -0.1 is no probability"),
        (HEAD + "1,.1,.2,nan,.1\n", "column '5_a': nan is no probability"),
        (HEAD + "1,.1,.2,inf,.1\n", "column '5_a': inf is no probability"),
        (HEAD + '1,.1,.2,".3"x,.1\n', "no UTF-8 CSV"),
        ("patient,neutral_a,5_a\n1,.1,.2\n", "it has patient, neutral_a, 5_a"),
        ("Seed,SEED,neutral_a,5_a\n1,1,.1,.2\n", "has the columns 'Seed' and 'SEED'"),
        (HEAD + "1,.1,.2,.3,.4\nmean,.1,.2,.3,.4\n", "line 3.*'mean' is a summary"),
        (HEAD + "1,.1,.2,.3,.4\nMean (n = 1),.1,.2,.3,.4\n", "line 3.*is a summary and no patient; leave"),
        (HEAD + "1,.1,.2,.3,.4\n25%,.1,.2,.3,.4\n", "line 3.*'25%' is a summary"),
        ("seed,neutral_a,5_a,05_a\n1,.1,.2,.3\n", "column '05_a': point 5 is also written '5'"),
        ("seed,0_a,00_a,1_a\n1,.1,.2,.3\n", "column '00_a': point 0 is also written '0'"),
        ("seed,neutral_a,5_a,5_A\n1,.1,.2,.3\n", "'5_A' has no neutral"),
        ("seed,neutral_a,Neutral_a,5_a\n1,.1,.2,.3\n", "'neutral_a' stands twice"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path)
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    for path, message in (
        (tmp_path / "image.png", "no UTF-8"),
        (tmp_path / "no.csv", "No such file"),
        (tmp_path, "read"),
    ):
        with pytest.raises(ValueError, match=message):
            read_table(path)


def test_byte_order_mark_and_blank_lines_are_read_over(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "1,.1,.2,.3,.4\n\n,,,,\n").replace("\n", "\r\n").encode())
    assert read_table(path).seeds == (1,)


@pytest.mark.parametrize(
    "row",
    [
        "count,2.0,2.0",
        "mean,0.15000000000000002,0.35",
        "std,0.07071067811865477,0.07071067811865477",
        "min,0.1,0.3",
        "50%,0.15000000000000002,0.35",
        "max,0.2,0.4",
    ],
)
def test_a_row_of_pandas_describe_is_no_patient(tmp_path, row):
    path = tmp_path / "table.csv"
    path.write_text(f"seed,neutral_a,5_a\n1,0.1,0.3\n2,0.2,0.4\n{row}\n")
    with pytest.raises(ValueError, match=f"line 4, column 'seed': '{row.split(',')[0]}' is a summary"):
        read_table(path)


def test_heads_are_read_in_any_case(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("Seed , Neutral_Ink,NEUTRAL_hair,5_Ink,5_hair\nmeander,.1,.2,.3,.4\n")
    table = read_table(path)
    assert table.seeds == ("meander",) and table.attributes == ("Ink", "hair")
    assert table.probabilities.tolist() == [[[0.3, 0.4]]]
    assert table.attribute(" INK ") == 0


KNOWN = (
    "seed,path,neutral_a b,neutral_c,5_a b,5_c,10_a b,10_c,15_a b,15_c\n"
    "1,x,.1,.1,.9,.2,.8,.2,.7,.2\n"
    "2,x,.1,.1,.2,.9,.2,.9,.2,.9\n"
)


def test_command_line(tmp_path, capsys):
    path = tmp_path / "known.csv"
    path.write_text(KNOWN)
    assert main(["cfrt", str(path), "--target", "A_B", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["cfrt"], report["successes"], report["patients"]) == (0.5, 1, 2)
    assert report["interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert report["points"] == [5, 10, 15] and report["target"] == "a b" and report["notice"] == NOTICE
    assert report["failures"] == [{"seed": 2, "leaked": "c"}]
    assert report["mean_deltas"]["a b"] == pytest.approx(0.4)

    assert main(["cfrt", str(path), "--target", "c", "--points", "5-10"]) == 0
    text = capsys.readouterr().out
    assert "0.500" in text and "1/2" in text and "5, 10" in text and NOTICE in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["no.csv", "--target", "a"],
        ["known.csv", "--target", "x"],
        ["known.csv", "--target", "c", "--points", "7"],
        ["known.csv"],
        [],
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "known.csv").write_text(KNOWN)
    try:
        code = main(["cfrt", *arguments])
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2 and output.out == "" and output.err.count("\n") == 1


def test_the_command_starts_without_torch(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(KNOWN)
    script = (
        "import sys; from medtraverse.__main__ import main; "
        "code = main(['cfrt', sys.argv[1], '--target', 'c']); assert 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True).returncode == 0
