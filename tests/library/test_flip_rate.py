import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medtraverse.__main__ import main
from medtraverse.cfrt import cfrt, patients_to_csv, to_csv, wilson
from medtraverse.evaluation import evaluate
from medtraverse.flip_rate import flip_rate, flip_table, outwards
from medtraverse.notice import NOTICE
from medtraverse.trajectory import Trajectory

STEPS = (45, 40, 35, 30, 25, 20, 15, 10, 5)


@st.composite
def cases(draw):
    patients, points, attributes = draw(st.integers(1, 8)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    # few distinct values, the thresholds among them
    values = st.sampled_from([0.0, 0.1, 0.3, 0.5, math.nextafter(0.5, 1), 0.7, 0.9, 1.0])
    path = draw(arrays(np.float64, (patients, points, attributes), elements=values))
    neutral = draw(arrays(np.float64, (patients, attributes), elements=values))
    target, threshold = draw(st.integers(0, attributes - 1)), draw(st.sampled_from([0.1, 0.5, 0.7]))
    return path, neutral, target, list(range(points)), threshold


def one_by_one(path, neutral, target, points, threshold):
    """The definition as a person would apply it, one patient and one point after the other."""
    firsts, already = [], 0
    for patient in range(len(path)):
        first = -1
        if neutral[patient][target] > threshold:
            already += 1
        else:
            for number in range(len(points)):
                if path[patient][number][target] > threshold:
                    first = number
                    break
        firsts.append(first)
    flipped = sorted(first for first in firsts if first >= 0)
    median = points[flipped[(len(flipped) - 1) // 2]] if flipped else None
    return firsts, already, median


@given(cases())
def test_definition(case):
    result = flip_rate(*case)
    firsts, already, median = one_by_one(*case)
    assert result.first.tolist() == firsts and result.already == already and result.median == median
    assert result.flipped == sum(first >= 0 for first in firsts)
    assert result.able + result.already == result.patients == len(case[0])
    if result.able:
        assert result.rate == result.flipped / result.able
        assert result.interval == wilson(result.flipped, result.able)
    else:
        assert math.isnan(result.rate) and result.flipped == 0
    assert sum(result.report()["patients_by_first_point"].values()) == result.flipped


@given(cases(), st.randoms())
def test_the_order_of_patients_does_not_matter(case, random):
    path, neutral, *rest = case
    order = list(range(len(path)))
    random.shuffle(order)
    here, there = flip_rate(*case), flip_rate(path[order], neutral[order], *rest)
    assert there.first.tolist() == here.first[order].tolist() and there.report() == here.report()


@given(cases())
def test_other_attributes_do_not_matter(case):
    path, neutral, target, points, threshold = case
    others = np.arange(path.shape[2]) != target
    changed, start = path.copy(), neutral.copy()
    changed[:, :, others], start[:, others] = 1 - changed[:, :, others], 1 - start[:, others]
    assert flip_rate(changed, start, target, points, threshold).report() == flip_rate(*case).report()


@given(cases())
def test_a_higher_probability_flips_no_patient_back_or_later(case):
    path, neutral, target, points, threshold = case
    more = path.copy()
    more[..., target] = np.minimum(1, more[..., target] + 0.2)
    before, after = flip_rate(*case), flip_rate(more, neutral, target, points, threshold)
    was = before.first >= 0
    assert (after.first[was] >= 0).all() and (after.first[was] <= before.first[was]).all()


@given(cases())
def test_a_longer_trajectory_keeps_every_flip_where_it_was(case):
    path, neutral, target, points, threshold = case
    longer = np.concatenate([path, path[:, :1]], axis=1)
    here, there = flip_rate(*case), flip_rate(longer, neutral, target, [*points, "more"], threshold)
    assert there.first.tolist() == here.first.tolist()


def test_the_threshold_itself_does_not_pass():
    path = np.array([[[0.5]], [[math.nextafter(0.5, 1)]]])
    result = flip_rate(torch.tensor(path), torch.tensor([[0.5], [0.5]]), 0, [5])
    assert (result.flipped, result.able, result.already) == (1, 2, 0) and result.first.tolist() == [-1, 0]


def test_a_probability_that_falls_back_has_flipped_all_the_same():
    result = flip_rate(np.array([[[0.2], [0.9], [0.1]]]), np.zeros((1, 1)), 0, [45, 25, 5])
    assert (result.rate, result.median) == (1, 25)


def test_nobody_who_could_flip_gives_no_rate():
    result = flip_rate(np.full((3, 2, 2), 0.9), np.full((3, 2), 0.8), 0, [10, 5])
    assert math.isnan(result.rate) and result.already == 3 and result.median is None
    report = json.loads(json.dumps(result.report(), allow_nan=False))
    assert report["rate"] is report["interval"] is None and report["already_above"] == 3
    assert result.columns()["flip_rate"] == "" and "nan" not in flip_table({"a": result})
    assert [row["flipped"] for row in result.patient_columns()] == ["already above"] * 3


@pytest.mark.parametrize(
    ("points", "kind", "order"),
    [
        (["5", "45", "25"], "swap", ["45", "25", "5"]),
        ((1, 2, 10), "curve", [1, 2, 10]),
        (["10", "9", "1"], "curve", ["1", "9", "10"]),
    ],
)
def test_outwards(points, kind, order):
    assert outwards(points, kind) == order
    with pytest.raises(ValueError, match="kind: it is 'spiral'; give"):
        outwards(points, "spiral")


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan")])
def test_bad_thresholds_are_named(threshold):
    with pytest.raises(ValueError, match="threshold: it is .*; give a probability between 0 and 1"):
        flip_rate(np.zeros((1, 1, 1)), np.zeros((1, 1)), 0, [5], threshold)


def test_points_must_be_named_each():
    with pytest.raises(ValueError, match="points: 2 names stand for 1 points; give"):
        flip_rate(np.zeros((1, 1, 1)), np.zeros((1, 1)), 0, [10, 5])


def drawn_trajectory(order=STEPS):
    """Three patients whose images are single grey values, which the classifier below reads."""
    patients, points = 3, 1 + len(order)
    index = torch.arange(patients * 2 * points).reshape(patients, 2, points)
    return Trajectory(
        torch.zeros(index.numel(), 4, 2, 2),
        index,
        (7, 8, 9),
        ("a", "b"),
        ("#00CC00", "#CC00CC"),
        (("a",), ("b",)),
        ("neutral", *map(str, order)),
    )


def rising(order):
    """The first patient passes 0.5 at λ = 25, the second starts above it, the third never passes."""
    by_step = {45: 0.1, 40: 0.2, 35: 0.3, 30: 0.5, 25: 0.6, 20: 0.4, 15: 0.7, 10: 0.8, 5: 0.9}
    first = [0.1, *(by_step[step] for step in order)]
    rows = torch.tensor([first, [0.7] * len(first), [0.2] * len(first)])
    return rows[:, None].expand(-1, 2, -1).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 3)


@pytest.mark.parametrize("order", [STEPS, STEPS[::-1], (25, 5, 10, 15, 45, 40, 20, 30, 35)])
def test_evaluation_reads_the_trajectory_outwards_whatever_its_order(order):
    def judge(images):
        return torch.stack([images[:, 0, 0, 0], images[:, 0, 0, 0] / 2], dim=1)

    result = evaluate(drawn_trajectory(order), rising(order), judge, ("a", "b"))
    flips = result.flips["a"]
    assert (flips.flipped, flips.able, flips.already, flips.median) == (1, 2, 1, "25")
    assert flips.points == tuple(map(str, STEPS))
    report = json.loads(json.dumps(result.report(), allow_nan=False))["attributes"]["a"]["flip_rate"]
    assert report["rate"] == 0.5 and report["patients_by_first_point"]["25"] == 1
    assert report["interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert (
        "0.500" in result.table and "median first λ" in result.table and result.table.endswith(NOTICE + "\n")
    )
    stricter = evaluate(drawn_trajectory(order), rising(order), judge, ("a", "b"), threshold=0.75)
    assert (stricter.flips["a"].median, stricter.flips["a"].already) == ("10", 0)
    with pytest.raises(ValueError, match="threshold: it is 2; give"):
        evaluate(drawn_trajectory(order), rising(order), None, ("a", "b"), threshold=2)


def test_the_tables_have_it_in_columns_of_their_own():
    rng = np.random.default_rng(4)
    path, neutral = rng.random((6, 9, 2)), rng.random((6, 2)) * 0.7
    results = {name: cfrt(path[:, 6:], neutral, number) for number, name in enumerate("ab")}
    flips = {name: flip_rate(path, neutral, number, STEPS) for number, name in enumerate("ab")}
    rows = list(csv.DictReader(io.StringIO(to_csv(results, "ab", {"a": 0.888}, flips))))
    for row, flip in zip(rows, flips.values(), strict=True):
        assert float(row["flip_rate"]) == flip.rate and int(row["already_above"]) == flip.already
        assert (float(row["flip_low"]), float(row["flip_high"])) == flip.interval
        assert int(row["median_first_flip"]) == flip.median and row["notice"] == NOTICE
    patients = list(csv.DictReader(io.StringIO(patients_to_csv(results, "ab", range(6), flips))))
    for number, row in enumerate(patients):
        flip, patient = flips[row["name"]], number % 6
        first = flip.first[patient]
        assert row["first_flip"] == (str(STEPS[first]) if first >= 0 else "")
        assert row["flipped"] == (str(int(first >= 0)) if flip.could[patient] else "already above")


@pytest.mark.parametrize(
    ("neutral", "points", "median"),
    [("neutral", (5, 10, 15), 15), ("0", (5, 10, 15), 15), ("0", range(1, 50), 1)],
)
def test_the_command_line_says_it_too(tmp_path, capsys, neutral, points, median):
    """Every point passes, so the first one is the nearest to the neutral: λ = 15, or frame 1."""
    path = tmp_path / "known.csv"
    heads = [f"{head}_{name}" for head in (neutral, *points) for name in "ac"]
    path.write_text(
        ",".join(["seed", *heads])
        + "\n"
        + ",".join(["1", "0.1", "0.1", *(["0.9", "0.2"] * len(points))])
        + "\n"
    )
    assert main(["cfrt", str(path), "--target", "a", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["flip_rate"]
    assert report["rate"] == 1 and report["median_first_point"] == median and report["could_flip"] == 1
    assert main(["cfrt", str(path), "--target", "a", "--threshold", "0.95"]) == 0
    text = capsys.readouterr().out
    assert "passes 0.95" in text and "0/1" in text and "Classifier Flip Rate along a Trajectory" in text
    assert main(["cfrt", str(path), "--target", "a", "--threshold", "3"]) == 2
    assert "threshold: it is 3; give" in capsys.readouterr().err
