"""Tables over a study: the library's own results, its subgroups, and how sure they are."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from medtraverse.__main__ import main
from medtraverse.proportion import wilson
from medtraverse.study import read
from medtraverse.study.pooled import patients_until
from medtraverse.study.power import expected_width, patients_for
from medtraverse.study.subgroups import SeedsTable, subgroups
from medtraverse.study.tables import Choices, study_text

FROZEN = Path(__file__).with_name("frozen")


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_pool_writes_the_tables_that_cfrt_reads(made, tmp_path, capsys):
    folders = [str(made(name, seeds)) for name, seeds in (("a", range(12)), ("b", range(10, 25)))]
    table = tmp_path / "seeds.csv"
    table.write_text("seed,sex\n" + "".join(f"{seed},{'fm'[seed % 2]}\n" for seed in range(20)))
    out = tmp_path / "out"
    command = ["pool", *folders, "--out", str(out), "--vector", "none"]
    assert main([*command, "--seeds-table", str(table), "--by", "sex"]) == 0
    said = capsys.readouterr().out
    assert "25 patients, seeds 0-24." in said and "0.800" in said and "0.609–0.911" in said
    for kind in ("swaps", "curve"):
        assert [(row["cfrt"], row["patients"]) for row in rows(out / f"cfrt-{kind}.csv")] == [
            ("0.8", "25")
        ] * 2
        assert (out / f"cfrt-{kind}.png").stat().st_size > 10_000
    failing = {row["seed"] for row in rows(out / "failing-seeds.csv")}
    assert failing == {"0", "5", "10", "15", "20"}
    sexes = {row["name"]: (row["successes"], row["patients"]) for row in rows(out / "subgroups-sex.csv")}
    assert sexes["pleural effusion, sex f"] == sexes["pleural effusion, sex m"] == ("8", "10")

    # the reference implementation's layout, whole and in two parts
    predictions = out / "predictions-swaps-pleural-effusion.csv"
    assert main(["cfrt", str(predictions), "--target", "Pleural Effusion"]) == 0
    whole = capsys.readouterr().out
    header, *lines = predictions.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("first.csv", lines[:15]), ("second.csv", lines[12:])):
        (tmp_path / name).write_text(header + "".join(part), encoding="utf-8")
    parts = [str(tmp_path / name) for name in ("first.csv", "second.csv")]
    assert main(["pool", *parts, "--target", "Pleural Effusion"]) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == whole.splitlines()[1:4]


def test_studies_that_differ_are_not_pooled(made, tmp_path, capsys):
    one, other = made("one", range(3)), made("other", range(3, 6))
    record = (other / "study.json").read_text(encoding="utf-8")
    (other / "study.json").write_text(record.replace('"steps": 50', '"steps": 49'), encoding="utf-8")
    assert main(["pool", str(one), str(other)]) == 2
    assert "steps: 50 here, 49 there" in capsys.readouterr().err
    for folder, neutral in ((one, "MEL"), (other, "NV")):
        record = (folder / "study.json").read_text(encoding="utf-8").replace('"normal"', f'"{neutral}"')
        (folder / "study.json").write_text(record, encoding="utf-8")
    command = ["pool", str(one), str(other), "--by", "neutral", "--out", str(tmp_path / "out")]
    assert main([*command, "--vector", "none"]) == 0
    rows_of = {row["name"]: row["successes"] for row in rows(tmp_path / "out" / "subgroups-neutral.csv")}
    assert rows_of["support devices, neutral MEL"] == rows_of["support devices, neutral NV"] == "2"
    assert (tmp_path / "out" / "nv" / "cfrt-swaps.csv").is_file()
    capsys.readouterr()
    assert main(["pool", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_a_value_without_patients_is_left_out_and_a_strange_column_named(made):
    study = read(made("one", range(6)))
    table = SeedsTable(("age",), {0: ("old",), 3: ("old",), 4: ("",), 77: ("young",)})
    assert {value: part.seeds for value, part in subgroups(study, table, "Age").items()} == {"old": (0, 3)}
    with pytest.raises(ValueError, match="no column 'sex'; choose one of age"):
        subgroups(study, table, "sex")


def test_the_interval_to_expect_is_the_mean_over_the_binomial():
    draws = np.random.default_rng(0).binomial(40, 0.8, 20_000)
    widths = [high - low for low, high in (wilson(int(draw), 40) for draw in draws)]
    assert expected_width(40, 0.8) == pytest.approx(np.mean(widths), abs=1e-3)
    assert expected_width(10_000, 0.5) == pytest.approx(expected_width(10_001, 0.5), abs=1e-4)
    enough = patients_for(0.05)
    low, high = wilson(enough // 2, enough)
    assert high - low <= 0.05 and 1500 < enough < 1560


def test_a_stop_rule_looks_at_seeds_in_their_order(made):
    study = read(made("one", range(100, 160)))
    enough = patients_until(study, 0.3)
    for patients, fits in ((enough, True), (enough - 1, False)):
        low, high = study.take(study.seeds[:patients]).intervals()["support devices"]
        assert (high - low <= 0.3) is fits
    assert patients_until(study, 0.01) is None


@pytest.mark.parametrize(
    "folder",
    [path for path in sorted(FROZEN.glob("form-*")) if path.is_dir()],
    ids=lambda folder: folder.name,
)
def test_a_study_of_an_earlier_version_gives_the_table_that_it_gave_then(folder):
    study = read(folder)
    assert study_text(study, Choices()) == folder.with_suffix(".txt").read_text(encoding="utf-8")
    frame = study.frame()
    assert len(frame) == 6 * 2 * (4 + 5) and frame["own_ssim"].notna().sum() == 6 * 2 * 4
