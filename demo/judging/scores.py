"""The figures of `demo.judging.evaluate`, computed from arrays of measurements.

Nothing here samples, loads or draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medtraverse.cfrt import cfrt, wilson

# A repeated computation differs in the last digits; below this, a change of probability is no change.
RESOLUTION = 4


@dataclass(frozen=True)
class Figure:
    """One line of the table: a value, how many it rests on, and its goal as a closed range.

    Without one, `met` is None.
    """

    group: str
    name: str
    value: float | None
    n: int
    low: float = -math.inf
    high: float = math.inf
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def goal(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        if self.low == self.high:
            return f"{self.low:g}"
        if math.isinf(self.high):
            return f"≥ {self.low:g}"
        return f"≤ {self.high:g}" if math.isinf(self.low) else f"{self.low:g} … {self.high:g}"

    @property
    def met(self) -> bool | None:
        """Whether the value itself lies in the goal; a figure that could not be taken has not met it."""
        if not self.goal:
            return None
        return self.value is not None and self.low <= self.value <= self.high

    def record(self) -> dict[str, Any]:
        """Return the figure as JSON has it; NaN becomes None."""
        value = None if self.value is None or math.isnan(self.value) else self.value
        parts = {
            "group": self.group,
            "name": self.name,
            "value": value,
            "interval": self.interval and list(self.interval),
            "n": self.n,
        }
        return parts | {"goal": self.goal, "met": self.met, "note": self.note}


def to_text(figures: Iterable[Figure]) -> str:
    """The table, aligned, one block a group."""
    words = {True: "met", False: "MISSED", None: ""}
    figures = list(figures)
    lines: list[str] = []
    group = None
    for figure in figures:
        if figure.group != group:
            group = figure.group
            lines += ["", group]
        value = "–" if figure.value is None else f"{figure.value:.3f}"
        interval = f"{figure.interval[0]:.3f}–{figure.interval[1]:.3f}" if figure.interval else ""
        line = f"  {figure.name:58} {value:>7} {interval:>13} {figure.n:6}  "
        line += f"{figure.goal:10} {words[figure.met]:6} {figure.note}"
        lines.append(line.rstrip())
    judged = [figure.met for figure in figures if figure.met is not None]
    return "\n".join(
        [
            f"  {'':58} {'value':>7} {'95 %':>13} {'n':>6}  goal",
            *lines,
            "",
            f"{sum(judged)} of {len(judged)} goals met",
        ]
    )


def share(flags: ArrayLike) -> tuple[float | None, tuple[float, float] | None, int]:
    """Share of true flags, its Wilson interval, and their number; None of nothing."""
    flags = np.asarray(flags, bool)
    if not flags.size:
        return None, None, 0
    return float(flags.mean()), wilson(int(flags.sum()), flags.size), flags.size


def share_figure(group: str, name: str, flags: ArrayLike, **more: Any) -> Figure:
    """The share of true flags with its interval as a line of the table; `more` are fields of `Figure`."""
    value, interval, n = share(flags)
    return Figure(group, name, value, n, interval=interval, **more)


class Verdicts(NamedTuple):
    """CFRT's verdict on each patient.

    `won`, bool [P]; `leaked`, the index of what leaked, int [P], -1 for successes and for the unread; `lead`,
    how much more the target rose, on average, than whatever else rose most, float [P] in -2..2, NaN for the
    unread. CFRT asks for its sign alone.
    """

    won: np.ndarray
    leaked: np.ndarray
    lead: np.ndarray


def successes(far: ArrayLike, neutral: ArrayLike, target: int) -> Verdicts:
    """Verdicts on `far` [P, points, L] and `neutral` [P, L], as for `medtraverse.cfrt.cfrt`.

    A patient with an image that could not be read (NaN) fails.
    """
    far, neutral = np.asarray(far, float), np.asarray(neutral, float)
    read = np.isfinite(far).all((1, 2)) & np.isfinite(neutral).all(1)
    verdicts = Verdicts(np.zeros(len(far), bool), np.full(len(far), -1), np.full(len(far), np.nan))
    if read.any():
        result = cfrt(far[read], neutral[read], target)
        verdicts.won[read], verdicts.leaked[read] = result.success, result.leaked
        verdicts.lead[read] = result.deltas[:, target] - np.delete(result.deltas, target, axis=1).max(1)
    return verdicts


def agreement(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Of the patients that fail by the first judge, whether they fail by the second: bool [failures]."""
    failures: np.ndarray = ~np.asarray(second, bool)[~np.asarray(first, bool)]
    return failures


def difference(first: ArrayLike, second: ArrayLike) -> tuple[float, tuple[float, float]]:
    """How far the share of true flags falls from the first to the second, with its interval.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.

    Raises
    ------
    ValueError
        One of the two has no flags.
    """
    (p, p_interval, _), (q, q_interval, _) = share(first), share(second)
    if p is None or q is None or p_interval is None or q_interval is None:
        raise ValueError("flags: a share of none has no difference; give one flag or more of each.")
    (p_low, p_high), (q_low, q_high) = p_interval, q_interval
    drop = p - q
    return drop, (drop - math.hypot(p - p_low, q_high - q), drop + math.hypot(p_high - p, q - q_low))


def wins(after: ArrayLike, before: ArrayLike) -> np.ndarray:
    """Whether any attribute wins in a swap that changes nothing: bool [P].

    Of probabilities [P, L] after and before.

    A win is CFRT's: one attribute's rise above all others', here of probabilities to `RESOLUTION` decimals.
    """
    rounded, start = (np.asarray(part, float).round(RESOLUTION) for part in (after, before))
    won = [successes(rounded[:, None], start, target).won for target in range(rounded.shape[1])]
    return np.asarray(np.any(won, axis=0))


def falls(values: ArrayLike) -> int:
    """How many steps along `values` go down: 0 when they never fall."""
    return int((np.diff(np.asarray(values, float)) < 0).sum())


def spread_ratios(generated: np.ndarray, phantoms: np.ndarray) -> np.ndarray:
    """Spread of each anatomy entry, generated [N, A] over phantoms [M, A]: [A].

    A spread is half the range from the 16th to the 84th percentile.
    """
    (low, high), (phantom_low, phantom_high) = (
        np.nanpercentile(part, (16, 84), axis=0) for part in (generated, phantoms)
    )
    ratios: np.ndarray = (high - low) / (phantom_high - phantom_low)
    return ratios


def nearest(images: np.ndarray, training: np.ndarray, block: int = 256) -> np.ndarray:
    """Root mean square distance of each image [N, D] to the nearest of `training` [M, D]: float [N]."""
    import torch

    points, others = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (images, training))
    closest = torch.cat([torch.cdist(piece, others).min(1).values for piece in points.split(block)])
    distances: np.ndarray = closest.numpy() / math.sqrt(points.shape[1])
    return distances


def repeat_distance(first: ArrayLike, second: ArrayLike) -> float:
    """95th percentile of the root mean square distances of paired renderings [N, D] of the same patients."""
    difference_ = np.asarray(first, float) - np.asarray(second, float)
    return float(np.percentile(np.sqrt((difference_**2).mean(1)), 95))


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Box averages at 32 x 32 of images [N, H, W, 3], H and W multiples of 32, as float32 [N, 3072] in 0..1.

    At that size the grain of a rendering and the VAE's blur of it are gone, and what is left is the patient.
    """
    images = np.asarray(images)
    scale = 255 if images.dtype == np.uint8 else 1
    count, height, width, _ = images.shape
    boxes = images.reshape(count, 32, height // 32, 32, width // 32, 3).mean((2, 4), dtype=np.float32)
    thumbs: np.ndarray = (boxes / scale).reshape(count, -1)
    return thumbs
