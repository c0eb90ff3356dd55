"""What CFRT and the flip rate share: a classifier's probabilities, checked, and the interval of a share."""

import math
from typing import Any

import numpy as np

from .pixels import to_numpy


def checked_probabilities(probabilities: Any, neutral: Any, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Check a classifier's probabilities and the index of the target.

    Parameters
    ----------
    probabilities : array or tensor [patients, points, attributes]
        In 0..1.
    neutral : array or tensor [patients, attributes]
        In 0..1.
    target : int
        Index of an attribute, from 0.

    Returns
    -------
    tuple of ndarray
        Both as float64, in the shapes given.

    Raises
    ------
    ValueError
        Shapes that do not fit, no patient or point, NaN, values outside 0..1, or no such attribute.
    """
    far, start = (to_numpy(values, np.float64).astype(np.float64) for values in (probabilities, neutral))
    if far.ndim != 3 or start.shape != (far.shape[0], far.shape[2]):
        raise ValueError(
            f"probabilities: {list(far.shape)} and neutral {list(start.shape)} do not fit; "
            "give [patients, points, attributes] and [patients, attributes]."
        )
    patients, points, attributes = far.shape
    if patients < 1 or points < 1:
        raise ValueError(
            f"probabilities: there are {patients} patients and {points} points; give at least one of each."
        )
    if not 0 <= target < attributes:
        raise ValueError(f"target: it is {target}; give an attribute's index, 0 to {attributes - 1}.")
    for name, values in (("probabilities", far), ("neutral", start)):
        if np.isnan(values).any():
            patient = int(np.argwhere(np.isnan(values))[0][0])
            raise ValueError(f"{name}: holds NaN for patient {patient}; give sigmoid outputs in 0..1.")
        if values.min() < 0 or values.max() > 1:
            raise ValueError(f"{name}: has values outside 0..1; give sigmoid outputs, not logits.")
    return far, start


def wilson(successes: int, patients: int) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval of a proportion.

    Parameters
    ----------
    successes, patients : int
        0 <= successes <= patients, one patient or more.

    Returns
    -------
    tuple of float
        Lower and upper end, in 0..1.

    References
    ----------
    E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    z = 1.959963984540054
    share, weight = successes / patients, z * z / patients
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    # the ends are exactly 0 and 1 there, which rounding misses
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == patients else centre + half
    return low, high
