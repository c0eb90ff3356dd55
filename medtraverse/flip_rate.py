"""Flip rate: in how many patients the target's probability passes a threshold, and where first.

It is the plain companion of CFRT. CFRT compares the target with the other attributes and knows no threshold;
the flip rate looks at the target alone, as the classifier would be read in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .proportion import checked_probabilities, wilson
from .table import aligned

THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class FlipRate:
    """Flip rate of one target attribute.

    A patient *passes* at a point where the target's probability is greater than the threshold. A patient
    whose neutral image passes already cannot flip: it is counted in `already` and left out of the rate. Of
    the others, those who pass at one point of the trajectory or more have *flipped*, whether or not the
    probability falls back later.

    Attributes
    ----------
    rate : float
        flipped / able, in 0..1; NaN where no patient could flip.
    interval : (float, float)
        95 % Wilson score interval of `rate`; NaN likewise.
    flipped, able, already, patients : int
        Patients who flipped; who could, their neutral image not passing; whose neutral image passes; able +
        already.
    threshold : float
    points : tuple
        The trajectory's points from the neutral outwards, without the neutral: swap steps falling, or frames
        rising.
    first : ndarray [patients], int
        Index into `points` of the first point that passes; -1 for patients who never pass or passed already.
    could : ndarray [patients], bool
        Which patients could flip.
    median : object
        The first of `points` by which at least half of the flipped patients have flipped; None where nobody
        flipped.
    """

    rate: float
    interval: tuple[float, float]
    flipped: int
    able: int
    already: int
    patients: int
    threshold: float
    points: tuple[Any, ...]
    first: np.ndarray
    could: np.ndarray
    median: Any

    def report(self) -> dict[str, Any]:
        """Return everything as a JSON-serialisable dict; null where there is no rate."""
        return {
            "rate": self.rate if self.able else None,
            "interval": list(self.interval) if self.able else None,
            "flipped": self.flipped,
            "could_flip": self.able,
            "already_above": self.already,
            "patients": self.patients,
            "threshold": self.threshold,
            "median_first_point": self.median,
            "patients_by_first_point": {
                str(point): int((self.first == number).sum()) for number, point in enumerate(self.points)
            },
        }

    def columns(self) -> dict[str, Any]:
        """Return the columns of a CSV table by name; empty cells where there is no number."""
        low, high = self.interval if self.able else ("", "")
        return {
            "flip_rate": self.rate if self.able else "",
            "flip_low": low,
            "flip_high": high,
            "flipped": self.flipped,
            "could_flip": self.able,
            "already_above": self.already,
            "flip_threshold": self.threshold,
            "median_first_flip": "" if self.median is None else self.median,
        }

    def patient_columns(self) -> list[dict[str, Any]]:
        """Return of each patient `flipped` (1, 0 or "already above") and `first_flip` (point or empty)."""
        return [
            {
                "flipped": int(number >= 0) if could else "already above",
                "first_flip": self.points[number] if number >= 0 else "",
            }
            for number, could in zip(self.first, self.could)
        ]


def flip_rate(
    probabilities: Any, neutral: Any, target: int, points: Sequence[Any], threshold: float = THRESHOLD
) -> FlipRate:
    """Flip rate of one attribute from the classifier's probabilities.

    Parameters
    ----------
    probabilities : array or tensor [patients, points, attributes]
        Of the whole trajectory without its neutral, from the neutral outwards (see `outwards`), in 0..1.
    neutral : array or tensor [patients, attributes]
        Of each patient's own neutral image.
    target : int
        Index of the attribute that the trajectory was meant to change.
    points : sequence
        Name of each point, in the order of `probabilities`.
    threshold : float
        Between 0 and 1, both excluded.

    Raises
    ------
    ValueError
        Shapes that do not fit, no patient or point, NaN, values outside 0..1, or a threshold outside 0..1.
    """
    path, start = checked_probabilities(probabilities, neutral, target)
    if len(points) != path.shape[1]:
        raise ValueError(
            f"points: {len(points)} names stand for {path.shape[1]} points; give one name for each point."
        )
    check_threshold(threshold)
    could = start[:, target] <= threshold
    passes = (path[:, :, target] > threshold) & could[:, None]
    flips = passes.any(axis=1)
    first = np.where(flips, passes.argmax(axis=1), -1)
    able, flipped = int(could.sum()), int(flips.sum())
    by_point = np.bincount(first[flips], minlength=len(points)).cumsum()
    return FlipRate(
        rate=flipped / able if able else float("nan"),
        interval=wilson(flipped, able) if able else (float("nan"), float("nan")),
        flipped=flipped,
        able=able,
        already=len(could) - able,
        patients=len(could),
        threshold=float(threshold),
        points=tuple(points),
        first=first,
        could=could,
        median=points[int((2 * by_point >= flipped).argmax())] if flipped else None,
    )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that no probability passes, or every one.

    Parameters
    ----------
    threshold : float
        Between 0 and 1, both excluded.

    Raises
    ------
    ValueError
        It lies elsewhere.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: it is {threshold:g}; give a probability between 0 and 1, such as 0.5.")


def outwards(points: Sequence[Any], kind: str) -> list[Any]:
    """Return points from the neutral outwards: swap steps falling, frames rising; no "neutral" among them.

    Parameters
    ----------
    points : sequence of int or str
        Swap steps or frame numbers, in any order.
    kind : "swap" or "curve"

    Raises
    ------
    ValueError
        Another kind.
    """
    if kind not in ("swap", "curve"):
        raise ValueError(f"kind: it is {kind!r}; give 'swap' or 'curve'.")
    return sorted(points, key=lambda point: int(point), reverse=kind == "swap")


def flip_table(results: Mapping[str, FlipRate], kind: str = "swap") -> str:
    """Return one line per result as text: flip rate, interval, counts, median first point."""
    mark = "λ" if kind == "swap" else "frame"
    head = ["", "flip rate", "95 % interval", "flipped", "already above", f"median first {mark}"]
    lines = [
        [
            name,
            f"{result.rate:.3f}" if result.able else "–",
            "{:.3f}–{:.3f}".format(*result.interval) if result.able else "–",
            f"{result.flipped}/{result.able}",
            str(result.already),
            "–" if result.median is None else str(result.median),
        ]
        for name, result in results.items()
    ]
    thresholds = ", ".join(sorted({f"{result.threshold:g}" for result in results.values()}))
    return aligned([head, *lines]) + (
        f"Flip rate: share of patients whose target passes {thresholds}, "
        "of those whose neutral image does not.\n"
    )
