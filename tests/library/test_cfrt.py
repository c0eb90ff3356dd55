import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medtraverse.cfrt import cfrt, patients_to_csv, to_csv, to_text, wilson
from medtraverse.notice import NOTICE

ATTRIBUTES = ("hairs", "gel_bubbles", "ruler", "ink")


@st.composite
def predictions(draw, attributes=None):
    patients, points = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    attributes = attributes or draw(st.integers(2, 5))
    # few distinct values, so that ties are common
    values = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0])
    far = draw(arrays(np.float64, (patients, points, attributes), elements=values))
    neutral = draw(arrays(np.float64, (patients, attributes), elements=values))
    return far, neutral, draw(st.integers(0, attributes - 1))


def in_tenths(far, neutral, target):
    """The definition in whole numbers, one patient after the other."""
    far, neutral = np.rint(far * 10).astype(int), np.rint(neutral * 10).astype(int)
    rises = (far - neutral[:, None]).sum(axis=1)
    return [all(row[target] > rise for b, rise in enumerate(row) if b != target) for row in rises]


@given(predictions())
def test_definition(case):
    result = cfrt(*case)
    far, neutral, _target = case
    assert result.success.tolist() == in_tenths(*case)
    assert result.successes == sum(in_tenths(*case)) and result.patients == len(far)
    assert result.cfrt == result.successes / result.patients
    assert result.deltas.dtype == np.float64
    assert np.allclose(result.deltas, far.mean(axis=1) - neutral)
    low, high = result.interval
    assert 0 <= low <= result.cfrt <= high <= 1


@given(predictions(), st.randoms())
def test_order_of_patients_and_points_does_not_matter(case, random):
    far, neutral, target = case
    order, points = list(range(len(far))), list(range(far.shape[1]))
    random.shuffle(order), random.shuffle(points)
    here, there = cfrt(far, neutral, target), cfrt(far[order][:, points], neutral[order], target)
    assert there.success.tolist() == here.success[order].tolist()
    assert there.leaked.tolist() == here.leaked[order].tolist()
    assert there.interval == here.interval


@given(predictions(), st.integers(0, 4))
def test_a_tie_is_a_failure(case, other):
    far, neutral, target = case
    other = other % far.shape[2]
    if other == target:
        other = (target + 1) % far.shape[2]
    far[..., other], neutral[:, other] = far[..., target], neutral[:, target]
    result = cfrt(far, neutral, target)
    assert result.successes == 0 and result.cfrt == 0 and result.interval[0] == 0


def test_a_tie_that_rounding_would_break_is_a_failure():
    far, neutral = np.array([[[0.6, 0.7]]]), np.array([[0.1, 0.2]])
    assert 0.6 - 0.1 > 0.7 - 0.2
    assert cfrt(far, neutral, 0).successes == 0
    assert cfrt(far, neutral, 1).successes == 0


def test_the_smallest_lead_is_a_success():
    far, neutral = np.array([[[math.ulp(0.5) + 0.5, 0.5]]]), np.array([[0.25, 0.25]])
    assert cfrt(far, neutral, 0).successes == 1
    assert cfrt(np.array([[[1e-300, 0.0]]]), np.zeros((1, 2)), 0).successes == 1


@given(predictions())
def test_raising_the_target_never_loses_a_patient(case):
    far, neutral, target = case
    more = far.copy()
    more[..., target] = np.minimum(1, more[..., target] + 0.1)
    assert (cfrt(more, neutral, target).success >= cfrt(far, neutral, target).success).all()


@given(predictions())
def test_the_leak_is_the_other_attribute_that_rose_most(case):
    _far, _neutral, target = case
    result = cfrt(*case)
    for won, leak, deltas in zip(result.success, result.leaked, result.deltas):
        if won:
            assert leak == -1
        else:
            assert leak != target
            assert deltas[leak] >= np.delete(deltas, target).max() - 1e-12
            assert deltas[leak] >= deltas[target] - 1e-12


def test_at_most_one_attribute_wins():
    rng = np.random.default_rng(0)
    far, neutral = rng.random((200, 3, 4)), rng.random((200, 4))
    wins = np.stack([cfrt(far, neutral, target).success for target in range(4)])
    assert (wins.sum(axis=0) == 1).all()


def test_a_known_case_and_its_interval():
    far = np.full((10, 3, 2), 0.2)
    far[:8, :, 0] = 0.9
    far[8:, :, 1] = 0.4
    result = cfrt(torch.tensor(far, dtype=torch.bfloat16), torch.full((10, 2), 0.1), 0)
    assert (result.cfrt, result.successes, result.patients) == (0.8, 8, 10)
    assert result.leaked.tolist() == [-1] * 8 + [1, 1]
    # Wilson 1927 for 8 of 10
    assert result.interval == pytest.approx((0.4901624715, 0.9433178485), abs=1e-9)


@given(st.integers(1, 3000), st.data())
def test_wilson_solves_its_equation(patients, data):
    successes = data.draw(st.integers(0, patients))
    for bound in wilson(successes, patients):
        if 0 < bound < 1:
            z = (successes / patients - bound) / math.sqrt(bound * (1 - bound) / patients)
            assert abs(z) == pytest.approx(1.959964, rel=1e-5)
        else:
            assert bound == successes / patients


GOOD = {"probabilities": np.full((2, 3, 2), 0.5), "neutral": np.full((2, 2), 0.1), "target": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"probabilities": np.full((2, 3, 1), 0.5), "neutral": np.full((2, 1), 0.1)},
            "at least 2 attributes",
        ),
        ({"probabilities": np.zeros((0, 3, 2)), "neutral": np.zeros((0, 2))}, "0 patients"),
        ({"probabilities": np.zeros((2, 0, 2))}, "0 points"),
        ({"neutral": np.full((3, 2), 0.1)}, r"neutral \[3, 2\] do not fit"),
        ({"probabilities": np.full((2, 2), 0.5)}, "do not fit"),
        ({"target": 2}, "0 to 1"),
        ({"target": -1}, "0 to 1"),
        ({"neutral": np.array([[0.1, 0.1], [0.1, np.nan]])}, "neutral: holds NaN for patient 1"),
        ({"probabilities": np.full((2, 3, 2), np.nan)}, "probabilities: holds NaN"),
        ({"probabilities": np.full((2, 3, 2), 3.2)}, "not logits"),
        ({"neutral": np.full((2, 2), -0.1)}, "neutral: has values outside"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        cfrt(**{**GOOD, **change})


def test_results_as_text_and_csv():
    rng = np.random.default_rng(1)
    far, neutral = rng.random((5, 3, 4)), rng.random((5, 4))
    results = {name: cfrt(far, neutral, i) for i, name in enumerate(ATTRIBUTES)}
    text = to_text(results, ATTRIBUTES).splitlines()
    assert len(text) == 6 and text[-1] == NOTICE
    assert all(line.startswith(name) for line, name in zip(text[1:], ATTRIBUTES))
    assert len({len(line) for line in text[:-1]}) == 1

    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(to_csv(results, ATTRIBUTES))))
    for row, (name, result) in zip(rows, results.items(), strict=True):
        assert row["name"] == row["target"] == name and row["notice"] == NOTICE
        assert float(row["cfrt"]) == result.cfrt and float(row["high"]) == result.interval[1]
        assert [float(row[f"delta_{b}"]) for b in ATTRIBUTES] == result.deltas.mean(axis=0).tolist()

    rows = list(csv.DictReader(io.StringIO(patients_to_csv(results, ATTRIBUTES, range(40, 45)))))
    assert [row["seed"] for row in rows] == ["40", "41", "42", "43", "44"] * 4
    assert sum(int(row["success"]) for row in rows) == sum(result.successes for result in results.values())
    assert all((row["leaked"] == "") == (row["success"] == "1") for row in rows)
