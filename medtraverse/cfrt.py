"""CFRT, Classifier Flip Rate along a Trajectory: the paper's measure of disentanglement (section 3).

TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623. For one target attribute a and one patient, delta_b is the
mean over the trajectory's far part of (classifier probability of b - that of the patient's neutral image).
The patient counts as a success when delta_a > delta_b, strictly, for every other attribute b. CFRT(a) =
successes / patients.

So the reference implementation computes it. No probability is held against a threshold, and no class has to
flip: that is what `medtraverse.flip_rate` counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .notice import NOTICE
from .predictions import Predictions, far_points, published_far_points, read_table
from .proportion import checked_probabilities, wilson
from .table import aligned, csv_text

if TYPE_CHECKING:
    from .flip_rate import FlipRate

__all__ = [
    "CFRT",
    "Predictions",
    "cfrt",
    "checked_probabilities",
    "far_points",
    "patients_to_csv",
    "published_far_points",
    "read_table",
    "to_csv",
    "to_text",
    "wilson",
]

_NEAR = 1e-12


@dataclass(frozen=True, eq=False)
class CFRT:
    """CFRT of one target attribute.

    Attributes
    ----------
    cfrt : float
        successes / patients.
    successes, patients : int
    interval : (float, float)
        95 % Wilson score interval of `cfrt`.
    target : int
        Index of the target attribute.
    deltas : ndarray [patients, attributes], float64
        Mean change of each attribute's probability over the far part, in -1..1.
    success : ndarray [patients], bool
    leaked : ndarray [patients], int
        For each failing patient the other attribute that rose most (the first of equals); -1 for successes.
    """

    cfrt: float
    successes: int
    patients: int
    interval: tuple[float, float]
    target: int
    deltas: np.ndarray
    success: np.ndarray
    leaked: np.ndarray


def cfrt(probabilities: Any, neutral: Any, target: int) -> CFRT:
    """CFRT of one attribute from the classifier's probabilities.

    Parameters
    ----------
    probabilities : array or tensor [patients, points, attributes]
        Of the far part only (lambda 5, 10, 15, or frames 30 ... 49), in 0..1.
    neutral : array or tensor [patients, attributes]
        Of each patient's own neutral image.
    target : int
        Index of the attribute that the trajectory was meant to change.

    Raises
    ------
    ValueError
        Shapes that do not fit, no patient or point, fewer than two attributes, NaN, values outside 0..1.
    """
    far, start = checked_probabilities(probabilities, neutral, target)
    patients, _, attributes = far.shape
    if attributes < 2:
        raise ValueError(
            "classifier: CFRT needs at least 2 attributes, as with one no other can leak and every patient "
            "would succeed; score with a classifier of more."
        )
    deltas = (far - start[:, None]).mean(axis=1)
    others = np.delete(np.arange(attributes), target)
    margins = deltas[:, [target]] - deltas[:, others]
    wins = margins > 0
    # 0.6 - 0.1 and 0.7 - 0.2 tie, but not after rounding: close calls are settled in exact decimals
    for patient, column in np.argwhere(np.abs(margins) < _NEAR):
        wins[patient, column] = _rise(far, start, patient, target) > _rise(
            far, start, patient, others[column]
        )
    success = wins.all(axis=1)
    successes = int(success.sum())
    strongest = others[np.where(wins, -np.inf, deltas[:, others].round(12)).argmax(axis=1)]
    return CFRT(
        cfrt=successes / patients,
        successes=successes,
        patients=patients,
        interval=wilson(successes, patients),
        target=int(target),
        deltas=deltas,
        success=success,
        leaked=np.where(success, -1, strongest),
    )


def _rise(far: np.ndarray, start: np.ndarray, patient: int, attribute: int) -> Fraction:
    """The sum of the far part less the neutral's share, in exact decimal arithmetic."""
    total = sum(Fraction(repr(float(value))) for value in far[patient, :, attribute])
    points: int = far.shape[1]
    return total - points * Fraction(repr(float(start[patient, attribute])))


def to_text(results: Mapping[str, CFRT], attributes: Sequence[str], below: str = "") -> str:
    """Write results as text: name, CFRT, interval, counts, mean change of each attribute.

    Parameters
    ----------
    results : mapping of str to CFRT
        One line each.
    attributes : sequence of str
        Names, in the order of the probabilities.
    below : str
        Whole lines of text that stand between the table and the notice.

    Returns
    -------
    str
        Columns aligned, the notice last.
    """
    head = ["", "CFRT", "95 % interval", "patients", *(f"Δ {name}" for name in attributes)]
    lines = [
        [
            name,
            f"{result.cfrt:.3f}",
            f"{result.interval[0]:.3f}–{result.interval[1]:.3f}",
            f"{result.successes}/{result.patients}",
            *(f"{delta:+.3f}" for delta in result.deltas.mean(axis=0)),
        ]
        for name, result in results.items()
    ]
    return f"{aligned([head, *lines])}{below}{NOTICE}\n"


def to_csv(
    results: Mapping[str, CFRT],
    attributes: Sequence[str],
    published: Mapping[str, float] | None = None,
    flips: "Mapping[str, FlipRate] | None" = None,
) -> str:
    """Write results as CSV.

    The columns are name, target, cfrt, low, high, successes, patients, delta_<attribute> ..., notice.

    Parameters
    ----------
    results : mapping of str to CFRT
        One row each.
    attributes : sequence of str
        Names, in the order of the probabilities.
    published : mapping of str to float, optional
        The paper's CFRT by name, in 0..1: a column `cfrt_from_the_paper` before the notice.
    flips : mapping of str to FlipRate, optional
        Of every result: the columns of `FlipRate.columns`, after the paper's.

    Returns
    -------
    str
        Lines end by a line feed.
    """
    rows = [
        {
            "name": name,
            "target": attributes[result.target],
            "cfrt": result.cfrt,
            "low": result.interval[0],
            "high": result.interval[1],
            "successes": result.successes,
            "patients": result.patients,
            **_deltas(attributes, result.deltas.mean(axis=0)),
            **({} if published is None else {"cfrt_from_the_paper": published.get(name, "")}),
            **(flips[name].columns() if flips else {}),
        }
        for name, result in results.items()
    ]
    return _csv(rows)


def patients_to_csv(
    results: Mapping[str, CFRT],
    attributes: Sequence[str],
    seeds: Sequence[Any],
    flips: "Mapping[str, FlipRate] | None" = None,
) -> str:
    """Write every patient's verdict as CSV.

    The columns are name, target, seed, success (0 or 1), leaked attribute, delta_<attribute> ..., notice.

    Parameters
    ----------
    results : mapping of str to CFRT
        Each of the same patients.
    attributes : sequence of str
        Names, in the order of the probabilities.
    seeds : sequence
        Of the patients, in their order.
    flips : mapping of str to FlipRate, optional
        Of every result: the columns of `FlipRate.patient_columns` before the notice.

    Returns
    -------
    str
        One row per result and patient; lines end by a line feed.
    """
    rows = []
    for name, result in results.items():
        more: list[dict[str, Any]] = flips[name].patient_columns() if flips else [{}] * result.patients
        for seed, won, leak, deltas, flip in zip(
            seeds, result.success, result.leaked, result.deltas, more, strict=True
        ):
            rows.append(
                {
                    "name": name,
                    "target": attributes[result.target],
                    "seed": seed,
                    "success": int(won),
                    "leaked": "" if won else attributes[leak],
                    **_deltas(attributes, deltas),
                    **flip,
                }
            )
    return _csv(rows)


def _deltas(attributes: Sequence[str], deltas: np.ndarray) -> dict[str, float]:
    return {f"delta_{name}": delta for name, delta in zip(attributes, deltas.tolist(), strict=True)}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return csv_text(rows[0], (row.values() for row in rows))
