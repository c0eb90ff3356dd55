"""Masks of the linear structures of a phantom chest: clavicles, wires, tubes, and devices on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from demo.phantoms.chest import ChestFactors


def step(value: np.ndarray) -> np.ndarray:
    """Linear step from 0 to 1 as value runs over -1..1."""
    return np.asarray(np.clip(value * 0.5 + 0.5, 0, 1))


def ellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float, soft: float) -> np.ndarray:
    """Mask of a centred ellipse whose edge is about `soft` wide."""
    radius = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    return step((1 - radius) * min(rx, ry) / soft)


def _stroke(
    x: np.ndarray,
    y: np.ndarray,
    points: Sequence[tuple[float, float]],
    half_width: float,
    px: float,
    samples: int = 14,
) -> np.ndarray:
    """Antialiased curve through a Bezier polygon, computed in its bounding box only."""
    polygon = np.asarray(points, dtype=np.float32)
    t = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
    curve = polygon[None].repeat(samples, 0)
    while curve.shape[1] > 1:
        curve = curve[:, :-1] * (1 - t[:, :, None]) + curve[:, 1:] * t[:, :, None]
    return _polyline(x, y, curve[:, 0], half_width, px)


def _polyline(x: np.ndarray, y: np.ndarray, curve: np.ndarray, half_width: float, px: float) -> np.ndarray:
    mask = np.zeros_like(x)
    low, high = curve.min(0) - half_width - 4 * px, curve.max(0) + half_width + 4 * px
    inside = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
    p = np.stack([x[inside], y[inside]])
    best = np.full(p.shape[1], 9.0, dtype=np.float32)
    for a, b in itertools.pairwise(curve):
        d = b - a
        t = np.clip(((p[0] - a[0]) * d[0] + (p[1] - a[1]) * d[1]) / (d @ d + 1e-9), 0, 1)
        best = np.minimum(best, (p[0] - a[0] - t * d[0]) ** 2 + (p[1] - a[1] - t * d[1]) ** 2)
    mask[inside] = step((half_width - np.sqrt(best)) * 2 / px)
    return mask


def clavicles(f: ChestFactors, x: np.ndarray, y: np.ndarray, px: float) -> Iterator[np.ndarray]:
    """Yield the mask of each clavicle."""
    h, tilt = f.clavicle_height, f.clavicle_tilt
    for side in (-1, 1):
        yield _stroke(
            x,
            y,
            [
                (side * 0.12, h + 0.12),
                (side * 0.35, h + 0.10),
                (side * 0.5, h - tilt - 0.06),
                (side * 0.80, h - tilt),
            ],
            0.032,
            px,
            8,
        )


def devices(f: ChestFactors, x: np.ndarray, y: np.ndarray, px: float) -> Iterator[tuple[np.ndarray, float]]:
    """Yield (mask, grey value) of each device, tubes before the brighter wires that cross them.

    Wires are 3 pixels wide at 128.
    """
    wire, side, shift, bend = 0.0245, f.device_side, 0.05 * f.device_offset, 0.06 * f.device_bend
    if f.endotracheal_tube:
        yield (
            _stroke(x, y, [(0.01 + shift * 0.4, -1.05), (0.0, -0.6), (0.02, -0.28 + shift)], 0.030, px, 4),
            0.90,
        )
    if f.nasogastric_tube:
        yield (
            _stroke(
                x,
                y,
                [(-0.05, -1.05), (-0.06, -0.4), (-0.03 + bend, 0.2), (0.06, 0.55), (0.32, 0.70 + shift)],
                wire,
                px,
            ),
            0.92,
        )
    if f.electrodes:
        for ex, ey in ((-0.52, -0.42 + shift), (0.55, -0.36 - shift), (0.50, 0.40 + shift)):
            yield ellipse(x - ex, y - ey, 0.062, 0.062, px), 0.97
            yield (
                _stroke(
                    x,
                    y,
                    [(ex, ey), (ex * 1.25 + bend, ey + 0.12), (np.sign(ex) * 0.98, ey + 0.20 + bend)],
                    wire,
                    px,
                    8,
                ),
                0.93,
            )
    if f.central_line:
        s = -side
        yield (
            _stroke(
                x,
                y,
                [
                    (s * 0.42, -1.02),
                    (s * (0.30 + bend), -0.75),
                    (s * 0.12, -0.62),
                    (-0.12, -0.40),
                    (-0.15, 0.02 + shift),
                ],
                wire,
                px,
            ),
            0.97,
        )
    if f.pacemaker:
        cx, cy = side * (0.56 + shift), -0.42 + shift
        lead = [
            (cx, cy - 0.1),
            (side * 0.40, -0.86),
            (side * 0.05, -0.55 + bend),
            (-0.20, -0.1),
            (-0.12, 0.42),
            (0.30, 0.30 + bend),
        ]
        yield _stroke(x, y, lead, wire, px, 18), 0.96
        box = np.maximum(np.abs(x - cx) / 0.145, np.abs(y - cy) / 0.115)
        corner = np.sqrt((np.abs(x - cx) / 0.155) ** 4 + (np.abs(y - cy) / 0.125) ** 4)
        yield step((1 - np.maximum(box, corner)) * 0.12 / px), 0.99
