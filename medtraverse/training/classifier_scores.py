"""How good a classifier is on images of patients that it was not trained on: AUC, calibration, subgroups.

Labels that nobody is sure of are NaN and count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BINS = 15
ALL, UNKNOWN, OTHER = "all", "not known", "other"
# A subgroup column with more values than this keeps its commonest, the rest are one group.
MOST_VALUES = 12
# The search for a temperature ends here; beyond, the held-out images are too few to tell.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
COLUMNS = (
    "group",
    "value",
    "label",
    "images",
    "patients",
    "positives",
    "auc",
    "ece",
    "mean_probability",
    "sensitivity",
    "specificity",
)


def auc(probability: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of one label; NaN where the truth has one class only.

    Parameters
    ----------
    probability, truth : ndarray [N]
        Rows whose truth is NaN are left out.
    """
    from sklearn.metrics import roc_auc_score

    certain = np.isfinite(truth)
    probability, truth = probability[certain], truth[certain]
    if len(np.unique(truth)) < 2:
        return float("nan")
    return float(roc_auc_score(truth, probability))


def calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of one label: mean \\|predicted − observed\\| over bins, by their share.

    Naeini, Cooper, Hauskrecht 2015, with bins of equal width.

    Parameters
    ----------
    probability, truth : ndarray [N]
        In 0..1. Rows whose truth is NaN are left out; NaN where none is left.
    bins : int
    """
    rows = reliability(probability, truth, bins)
    count = sum(images for _, _, images, _, _ in rows)
    if not count:
        return float("nan")
    return float(sum(images * abs(mean - share) for _, _, images, mean, share in rows) / count)


def reliability(
    probability: np.ndarray, truth: np.ndarray, bins: int = BINS
) -> list[tuple[float, float, int, float, float]]:
    """Return the reliability diagram of one label.

    Parameters
    ----------
    probability, truth : ndarray [N]
        In 0..1. Rows whose truth is NaN are left out.
    bins : int
        Of equal width.

    Returns
    -------
    list of tuple
        Of each bin that has images: its ends, images, mean probability, share of positives.
    """
    certain = np.isfinite(truth)
    probability, truth = np.asarray(probability, np.float64)[certain], truth[certain]
    index = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        (
            number / bins,
            (number + 1) / bins,
            int((index == number).sum()),
            float(probability[index == number].mean()),
            float(truth[index == number].mean()),
        )
        for number in range(bins)
        if (index == number).any()
    ]


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Fit the temperature by which a label's logits are divided (Guo et al. 2017, section 4.2).

    It is the most probable one where its logarithm has a standard normal prior: few images leave it near 1,
    and labels that are told apart without a mistake do not drive it to zero.

    Parameters
    ----------
    logits, truth : ndarray [N]
        Rows whose truth is NaN are left out.

    Returns
    -------
    float
        Above 0; 1 where the truth has one class only.
    """
    from scipy.optimize import minimize_scalar

    certain = np.isfinite(truth)
    logits, truth = np.asarray(logits, np.float64)[certain], truth[certain]
    if len(np.unique(truth)) < 2:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - truth * scaled).sum() + log_temperature**2 / 2)

    ends = (np.log(LEAST_TEMPERATURE), np.log(MOST_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded").x))


def subgroups(columns: pd.DataFrame) -> pd.DataFrame:
    """Turn the columns of a table into groups: ages into bands of 20 years, other numbers into quarters.

    Parameters
    ----------
    columns : DataFrame
        A column a property (sex, age, view …), of any type.

    Returns
    -------
    DataFrame of str
        The same index; columns in which all images are in one group are left out. Blanks are "not known";
        of many values the commonest keep their name, the others are "other".
    """
    import pandas as pd

    groups = {}
    for name in columns:
        values = columns[name]
        numbers = pd.to_numeric(values, errors="coerce")
        # 0 is how CheXpert writes an age that is not known
        if str(name).strip().casefold().startswith("age") and numbers.notna().any():
            texts = numbers.where(numbers > 0).map(_band, na_action="ignore")
        elif numbers.notna().all() and numbers.nunique() > MOST_VALUES:
            texts = pd.qcut(numbers, 4, duplicates="drop").astype(str)
        else:
            texts = values.astype("string").str.strip().replace("", pd.NA)
        texts = texts.astype("object").where(texts.notna(), UNKNOWN).astype(str)
        common = texts.value_counts().index[:MOST_VALUES]
        texts = texts.where(texts.isin(common), OTHER)
        if texts.nunique() > 1:
            groups[str(name)] = texts
    return pd.DataFrame(groups, index=columns.index)


def _band(age: float) -> str:
    low = min(int(age) // 20 * 20, 80)
    return "80 and over" if low == 80 else f"{low}–{low + 19}"


def score_table(
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    patients: Sequence[str],
    groups: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Score each label over all images, and within each subgroup.

    Parameters
    ----------
    probabilities, truth : ndarray [N, L]
        In 0..1; the truth is NaN where nobody is sure.
    labels : sequence of str, L
    patients : sequence of str, N
        "" where the table does not say; such an image counts as a patient.
    groups : DataFrame [N], optional
        By `subgroups`.

    Returns
    -------
    DataFrame
        With `COLUMNS`, "all" first. Sensitivity and specificity are at probability 0.5. A figure that a group
        cannot have, such as the AUC where it has one class, is NaN.
    """
    import pandas as pd

    names = np.array([patient or f"\0{row}" for row, patient in enumerate(patients)])
    rows = []
    members: list[tuple[str, str, np.ndarray]] = [(ALL, "", np.ones(len(truth), bool))]
    for column, values in () if groups is None else groups.items():
        for value in sorted(values.unique()):
            members.append((column, value, values.to_numpy() == value))
    for group, value, inside in members:
        for index, label in enumerate(labels):
            certain = inside & np.isfinite(truth[:, index])
            rows.append(
                (
                    group,
                    value,
                    label,
                    *_scores(probabilities[certain, index], truth[certain, index], names[certain]),
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _scores(probability: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> tuple[Any, ...]:
    positive, said = truth == 1, probability > 0.5
    return (
        len(truth),
        len(np.unique(patients)),
        int(positive.sum()),
        auc(probability, truth),
        calibration_error(probability, truth),
        _share(probability, np.ones(len(truth), bool)),
        _share(said, positive),
        _share(~said, ~positive),
    )


def _share(values: np.ndarray, among: np.ndarray) -> float:
    return float(values[among].mean()) if among.any() else float("nan")
