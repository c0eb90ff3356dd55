"""The search for the minimal counterfactual, what passes, and what is measured on a pair."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.counterfactual import (
    APPEARS,
    DISAPPEARS,
    Counterfactuals,
    Target,
    changed_pixels,
    minimal_swaps,
)
from medtraverse.identity import ssim, ssim_outside

GRID = tuple(range(45, 0, -5))


@given(st.lists(st.integers(-1, 48), min_size=1, max_size=6))
def test_the_search_finds_the_largest_swap_step_where_smaller_ones_pass_too(edges):
    """Of a pair whose λ = 0 … edge pass; -1: none does."""
    asked = []

    def passing(branches):
        asked.extend(branches)
        return [step <= edges[pair] for pair, step in branches]

    found = minimal_swaps(range(len(edges)), GRID, passing)
    for pair, edge in enumerate(edges):
        assert found[pair] == (None if edge < 5 else min(edge, 45))
    assert len(asked) == len(set(asked))


@given(st.sets(st.integers(1, 48)))
def test_what_is_found_passes_and_what_was_tried_above_does_not(good):
    tried = []

    def passing(branches):
        tried.extend(step for _, step in branches)
        return [step in good for _, step in branches]

    found = minimal_swaps(["one"], GRID, passing)["one"]
    if found is None:
        assert not good & set(GRID)
    else:
        assert found in good and not any(step in good for step in tried if step > found)


def test_rounds_hold_all_pairs_and_stop_when_all_have_passed():
    rounds = []

    def passing(branches):
        rounds.append(branches)
        return [True] * len(branches)

    assert minimal_swaps("ab", (10, 45, 30), passing) == {"a": 45, "b": 45}
    assert rounds == [[("a", 45), ("b", 45)]]


@pytest.mark.parametrize(
    ("goal", "original", "after", "passes"),
    [
        (APPEARS, [0.1, 0.1], [0.6, 0.1], True),
        (APPEARS, [0.1, 0.1], [0.5, 0.1], False),
        (APPEARS, [0.1, 0.1], [0.9, 0.6], False),
        (APPEARS, [0.1, 0.9], [0.9, 0.9], True),
        (DISAPPEARS, [0.9, 0.1], [0.4, 0.1], True),
        (DISAPPEARS, [0.9, 0.1], [0.4, 0.6], False),
        (DISAPPEARS, [0.9, 0.1], [0.5, 0.1], False),
    ],
)
def test_the_target_passes_and_no_other_label_newly_does(goal, original, after, passes):
    assert Target(0, goal).passes(np.array(after), np.array(original)) == passes


def test_already_there_is_said():
    target = Target(1)
    assert target.already(np.array([[0.1, 0.9], [0.1, 0.2]])).tolist() == [True, False]


def a_result(count=2):
    before = torch.rand(count, 32, 32, 3)
    after = before.clone()
    after[:, :8, :8] = 1 - after[:, :8, :8]
    return Counterfactuals(
        before,
        after,
        tuple(range(7, 7 + count)),
        ("effusion",) * count,
        (20, 5)[:count],
        (True, False)[:count],
        (Target(0),) * count,
        ("effusion", "devices"),
        np.array([[0.1, 0.2]] * count),
        np.array([[0.9, 0.3]] * count),
        np.array([1e-7, np.nan])[:count],
        {"steps": 50},
    )


def test_outside_the_change_nothing_has_moved():
    result = a_result()
    measures = result.measures()
    assert measures["SSIM outside"] == pytest.approx([1, 1], abs=0.05)
    assert (measures["SSIM"] < measures["SSIM outside"]).all()
    region = changed_pixels(result.before, result.after)
    assert region[:, 1:7, 1:7].all() and not region[:, 12:, 12:].any()
    nothing = torch.zeros_like(region)
    whole = ssim_outside(result.after, result.before, nothing)
    assert whole.tolist() == pytest.approx(ssim(result.after, result.before).tolist(), abs=1e-12)
    assert ssim_outside(result.after, result.before, ~nothing).isnan().all()


def test_table_figure_and_report_say_the_same():
    result = a_result()
    rows = list(csv.DictReader(io.StringIO(result.csv)))
    assert [row["lambda"] for row in rows] == ["20", "5"] and [row["found"] for row in rows] == ["1", "0"]
    assert rows[0]["effusion before"] == "0.1" and rows[0]["effusion after"] == "0.9"
    report = json.loads(json.dumps(result.report(), allow_nan=False))
    assert [pair["swap_step"] for pair in report["pairs"]] == [20, 5]
    assert report["pairs"][1]["null control"] is None
    assert result.names()[0] == "7 · effusion · λ = 20 · 0.10 → 0.90"
    assert result.facts()[1][0] == "nothing passes down to λ = 5"
    assert "null control: 1e-07" in result.facts()[0]
    result.original[1, 0] = 0.8
    assert "passes already" in result.names()[1] and result.report()["pairs"][1]["already"]
    texts = [text.get_text() for axes in result.figure().axes for text in axes.texts]
    assert result.names()[1] in texts
