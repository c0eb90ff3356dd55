"""Scores of classifiers: calibration, temperature, subgroups."""

import numpy as np
import pandas as pd
import pytest
import torch

from medtraverse.training.classifier_scores import (
    calibration_error,
    reliability,
    score_table,
    subgroups,
    temperature,
)
from medtraverse.training.classifier_weights import fold


def test_calibration_error_of_known_predictions():
    truth = np.array([1.0, 0, 0, 0] * 25)
    assert calibration_error(np.full(100, 0.25), truth) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.75), truth) == pytest.approx(0.5)
    assert calibration_error(truth, truth) == 0
    # Half the images at 0.9 and none positive there, half at 0.1 and half of those positive.
    halves = np.r_[np.zeros(50), np.tile([0, 1], 25)]
    assert calibration_error(np.repeat([0.9, 0.1], 50), halves) == pytest.approx(0.65)
    # Uncertain labels count nowhere.
    truth[:40] = np.nan
    assert [row[2] for row in reliability(np.full(100, 0.25), truth)] == [60]


def test_the_temperature_is_found_and_folded_exactly():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20000)
    truth = (rng.random(20000) < 1 / (1 + np.exp(-logits))).astype(float)
    truth[::7] = np.nan
    assert temperature(3 * logits, truth) == pytest.approx(3, rel=0.05)
    assert calibration_error(1 / (1 + np.exp(-logits)), truth) < 0.02
    # Told apart without a mistake, it stays finite, and more images make it surer.
    few, many = (temperature(np.repeat([-1.0, 1.0], n), np.repeat([0.0, 1.0], n)) for n in (5, 500))
    assert 0.05 < many < few < 1
    layer = torch.nn.Linear(8, 3)
    features, before = torch.randn(5, 8), [0.5, 2.0, 7.0]
    expected = (layer(features) - torch.tensor([0.0, 0.3, -1.0])) / torch.tensor(before)
    layer.load_state_dict(
        {
            key.removeprefix("head."): value
            for key, value in fold(
                {f"head.{key}": value for key, value in layer.state_dict().items()},
                "head",
                before,
                [0.0, 0.3, -1.0],
            ).items()
        }
    )
    torch.testing.assert_close(layer(features), expected, atol=1e-6, rtol=1e-5)


def test_subgroups_are_bands_values_and_what_is_not_known():
    columns = pd.DataFrame(
        {
            "sex": ["F", "M", "", "F"],
            "age": [19, 0, 95, 61],
            "view": ["frontal"] * 4,
            "dose": [1.0, 2, 3, np.nan],
        }
    )
    groups = subgroups(columns)
    assert list(groups) == ["sex", "age", "dose"]
    assert list(groups["sex"]) == ["F", "M", "not known", "F"]
    assert list(groups["age"]) == ["0–19", "not known", "80 and over", "60–79"]
    truth = np.array([[1.0], [0], [1], [np.nan]])
    table = score_table(
        np.array([[0.9], [0.2], [0.1], [0.9]]), truth, ["ink"], ["a", "b", "b", ""], groups[["sex"]]
    )
    assert list(table["value"]) == ["", "F", "M", "not known"]
    every = table.iloc[0]
    assert (every["images"], every["patients"], every["positives"]) == (3, 2, 2)
    assert (every["auc"], every["sensitivity"], every["specificity"]) == (0.5, 0.5, 1.0)
    assert np.isnan(table["auc"].iloc[1]) and table["images"].iloc[1] == 1
