"""Phantom frontal chest radiographs, drawn from an explicit factor record.

Every anatomical quantity, every attribute flag and every attribute extent is a field of
:class:`ChestFactors`, so the same patient can be drawn with and without a finding. Coordinates run over
-1..1, x to the viewer's right (the patient's left), y downwards.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from demo.phantoms.chest_devices import clavicles, devices, ellipse, step

ATTRIBUTES = ("pleural_effusion", "support_devices", "cardiomegaly")


@dataclass(frozen=True)
class ChestFactors:
    """One phantom patient. Lengths are in half-image units, grey values in 0..1."""

    seed: int
    # Anatomy
    body_width: float
    shoulder: float
    neck: float
    lung_width: float
    lung_top: float
    lung_bottom: float
    lung_asymmetry: float
    dome: float
    dome_difference: float
    mediastinum: float
    heart_ratio: float
    heart_height: float
    heart_tilt: float
    knob: float
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    rib_contrast: float
    clavicle_height: float
    clavicle_tilt: float
    vessels: float
    gastric_bubble: float
    shift: float
    rotation: float
    # Exposure
    tissue: float
    air: float
    gamma: float
    noise: float
    # Findings: flags
    pleural_effusion: bool
    support_devices: bool
    cardiomegaly: bool
    # Findings: extents, drawn whether or not the flag is set
    effusion_left: float
    effusion_right: float
    enlargement: float
    pacemaker: bool
    central_line: bool
    endotracheal_tube: bool
    nasogastric_tube: bool
    electrodes: bool
    device_side: int
    device_offset: float
    device_bend: float


class Rendered(NamedTuple):
    """``image`` float32 [H, W, 3] in 0..1; ``thin`` float32 [H, W] in 0..1, where thin structures lie."""

    image: np.ndarray
    thin: np.ndarray


def sample_factors(seed: int, **overrides: Any) -> ChestFactors:
    """Draw one patient; attributes are independent of each other and of the anatomy.

    Parameters
    ----------
    seed : int
        Patient seed, 0 or above.
    **overrides
        Factors to fix by name. All others keep the value they have without the override.

    Raises
    ------
    ValueError
        If an override names no factor, or the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: {seed} is below 0; give 0 or above.")
    rng = np.random.default_rng([seed, 0xC8E57])
    u = rng.uniform
    anatomy: dict[str, Any] = {
        "body_width": u(0.84, 1.02),
        "shoulder": u(-0.80, -0.62),
        "neck": u(0.17, 0.26),
        "lung_width": u(0.62, 0.77),
        "lung_top": u(-0.84, -0.70),
        "lung_bottom": u(0.44, 0.66),
        "lung_asymmetry": u(-0.04, 0.04),
        "dome": u(0.10, 0.24),
        "dome_difference": u(0.02, 0.12),
        "mediastinum": u(0.12, 0.18),
        "heart_ratio": u(0.40, 0.48),
        "heart_height": u(0.30, 0.40),
        "heart_tilt": u(0.25, 0.75),
        "knob": u(0.02, 0.09),
        "rib_spacing": u(0.155, 0.205),
        "rib_phase": u(0, 1),
        "rib_slope": u(0.20, 0.55),
        "rib_contrast": u(0.07, 0.14),
        "clavicle_height": u(-0.70, -0.58),
        "clavicle_tilt": u(-0.02, 0.14),
        "vessels": u(0.10, 0.24),
        "gastric_bubble": u(0.0, 1.0),
        "shift": u(-0.06, 0.06),
        "rotation": u(-0.07, 0.07),
        "tissue": u(0.44, 0.62),
        "air": u(0.10, 0.22),
        "gamma": u(0.85, 1.2),
        "noise": u(0.004, 0.014),
    }
    findings = {
        "pleural_effusion": bool(u() < 0.45),
        "support_devices": bool(u() < 0.45),
        "cardiomegaly": bool(u() < 0.30),
    }
    side, extents = rng.integers(3), u(0.38, 0.80, size=2)
    kinds = u(size=5) < (0.55, 0.55, 0.35, 0.35, 0.40)
    if not kinds[:2].any():
        kinds[rng.integers(2)] = True
    extent: dict[str, Any] = {
        "effusion_left": float(extents[0]) * (side != 1),
        "effusion_right": float(extents[1]) * (side != 0),
        "enlargement": u(0.15, 0.22),
        "pacemaker": bool(kinds[0]),
        "central_line": bool(kinds[1]),
        "endotracheal_tube": bool(kinds[2]),
        "nasogastric_tube": bool(kinds[3]),
        "electrodes": bool(kinds[4]),
        "device_side": int(rng.choice((-1, 1))),
        "device_offset": u(-1, 1),
        "device_bend": u(-1, 1),
    }
    factors = ChestFactors(seed=seed, **anatomy, **findings, **extent)
    unknown = sorted(set(overrides) - set(factors.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"overrides: {', '.join(unknown)} is no factor; "
            f"choose from {', '.join(factors.__dataclass_fields__)}."
        )
    return dataclasses.replace(factors, **overrides)


def render(factors: ChestFactors, size: int = 128) -> Rendered:
    """Draw the patient as a ``size`` x ``size`` picture, the same for the same factors every time.

    Raises
    ------
    ValueError
        If ``size`` is under 64, where wires would be thinner than a pixel.
    """
    if size < 64:
        raise ValueError(f"size: {size} is too small; give 64 pixels or more.")
    f, (x0, y0), px = factors, _grid(size), 2.0 / size
    c, s = np.cos(f.rotation), np.sin(f.rotation)
    x, y = (x0 - f.shift) * c + y0 * s, y0 * c - (x0 - f.shift) * s
    soft = 1.6 * px

    body, lungs, cage, depth = _torso(f, x, y, soft)
    heart, mediastinum = _heart(f, x, y, soft)
    ribs, rib_edges = _ribs(f, x, y, cage)

    grey = np.full_like(x, 0.02)
    grey = _over(grey, f.tissue * (0.86 + 0.10 * y), body)
    grey = _over(grey, f.air + 0.10 * np.clip(y, -1, 0.5), lungs * body)
    abdomen = np.maximum(cage * step(depth / (2 * soft)), step((y - f.lung_bottom - 0.12) / 0.25))
    below = abdomen * body
    grey = _over(grey, f.tissue + 0.15, below)
    bubble = ellipse(x - 0.34, y - f.lung_bottom - 0.20, 0.15, 0.09, soft) * below * (f.gastric_bubble > 0.45)
    grey = _over(grey, f.tissue - 0.12, bubble)
    grey = grey + lungs * (1 - heart) * f.vessels * _vessels(f, x, y)
    if f.pleural_effusion:
        fluid = _effusion(f, x, y, soft) * cage * body
        grey = _over(grey, f.tissue + 0.17, fluid)
    grey = _over(grey, f.tissue + 0.05, mediastinum * body)
    grey = _over(grey, f.tissue + 0.14, heart * body)
    grey = grey + body * _spine(f, x, y)
    grey = grey + f.rib_contrast * ribs * body * (0.35 + 0.65 * lungs)

    thin = 0.3 * rib_edges * lungs * body
    for bone in clavicles(f, x, y, px):
        grey = grey + 0.17 * bone * body
        thin = np.maximum(thin, 0.3 * bone * body)
    grey = np.clip(grey, 0, 1) ** f.gamma
    if f.support_devices:
        for mask, value in devices(f, x, y, px):
            grey = _over(grey, value, mask)
            thin = np.maximum(thin, mask)
    grain = np.random.default_rng([f.seed, 0x9A1]).standard_normal((size, size), dtype=np.float32)
    grey = np.clip(grey + f.noise * grain, 0, 1).astype(np.float32)
    return Rendered(np.repeat(grey[:, :, None], 3, axis=2), np.clip(thin, 0, 1).astype(np.float32))


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    return axis[None, :].repeat(size, 0), axis[:, None].repeat(size, 1)


def _over(under: np.ndarray, value: np.ndarray | float, mask: np.ndarray) -> np.ndarray:
    blend: np.ndarray = under + (value - under) * mask
    return blend


def _diaphragm(f: ChestFactors, x: np.ndarray) -> np.ndarray:
    """Height of the diaphragm at x: two domes, falling into the costophrenic angles.

    The patient's right one (viewer's left) is the higher.
    """
    right = x < 0
    top = f.lung_bottom - f.dome_difference * right
    t = (np.abs(x) - 0.45 * f.lung_width) / (0.62 * f.lung_width)
    height: np.ndarray = top - f.dome + 1.25 * f.dome * t * t
    return height


def _lung_outer(f: ChestFactors, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    centre, half = 0.30, 1.02 - (f.lung_top + 0.8) * 0.9
    t = np.clip((y - centre) / half, -1, 1)
    width = f.lung_width + f.lung_asymmetry * np.sign(x)
    outer: np.ndarray = width * np.sqrt(np.clip(1 - np.abs(t) ** 2.6, 0, 1))
    return outer


def _torso(
    f: ChestFactors, x: np.ndarray, y: np.ndarray, soft: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Masks of body, lungs and rib cage, and depth below the diaphragm."""
    ax = np.abs(x)
    rise = np.clip((ax - f.neck) / 0.75, 0, 1)
    shoulder = f.shoulder - 0.12 + 0.34 * rise**1.6
    trunk = step((y - shoulder) / (2 * soft)) * step((f.body_width - 0.05 * (y - 0.2) ** 2 - ax) / (2 * soft))
    neck = step((f.neck - ax) / (2 * soft)) * (y < f.shoulder + 0.1)
    body = np.maximum(trunk, neck)
    outer = _lung_outer(f, x, y)
    cage = step((outer - ax) / soft)
    inner = f.mediastinum * (0.75 + 0.25 * np.clip(y + 0.6, 0, 1))
    depth = y - _diaphragm(f, x)
    lungs = cage * step((ax - inner) / soft) * step(-depth / soft) * step((y - f.lung_top) / (2 * soft))
    return body, lungs, cage, depth


def _heart(f: ChestFactors, x: np.ndarray, y: np.ndarray, soft: float) -> tuple[np.ndarray, np.ndarray]:
    ratio = f.heart_ratio + f.enlargement * f.cardiomegaly
    half = ratio * f.lung_width
    height = f.heart_height + 0.45 * f.enlargement * f.cardiomegaly
    cx, cy = 0.30 * half, f.lung_bottom - 0.82 * height
    tilt = f.heart_tilt * 0.9
    dx, dy = x - cx, y - cy
    # The shadow leans: its apex lies low, on the patient's left.
    lean = dx - 0.35 * tilt * dy
    heart = ellipse(lean, dy - 0.18 * tilt * dx, half, height, soft)
    great = step((f.mediastinum * (0.85 + 0.3 * _bump(y + 0.25, 0.25)) - np.abs(x - 0.03)) / soft) * (
        y < cy + 0.2
    )
    great = great * (0.45 + 0.55 * step((y - f.lung_top - 0.15) / 0.2))
    knob = ellipse(x - f.mediastinum * 0.85, y + 0.34, 0.07 + f.knob, 0.09 + f.knob * 0.5, soft)
    return heart, np.clip(np.maximum(great, knob), 0, 1)


def _bump(value: np.ndarray, width: float) -> np.ndarray:
    bump: np.ndarray = np.exp(-((value / width) ** 2))
    return bump


def _ribs(f: ChestFactors, x: np.ndarray, y: np.ndarray, cage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior ribs, which fall laterally, and fainter anterior ones, which rise.

    Both are periodic functions of a bent height.
    """
    ax = np.abs(x)
    posterior = (y + 0.30 * ax - f.rib_slope * 1.5 * ax * ax) / f.rib_spacing + f.rib_phase
    anterior = (y - 0.75 * (0.72 - ax) + 0.2) / (f.rib_spacing * 1.08) + f.rib_phase + 0.4
    wave = np.cos(2 * np.pi * posterior)
    back = step((wave - 0.25) * 2.2) * (y > -0.85) * (y < 0.85)
    front = step((np.cos(2 * np.pi * anterior) - 0.45) * 2.2) * step((ax - 0.30) * 8) * (y > -0.45)
    edges = np.exp(-(((wave - 0.25) / 0.3) ** 2))
    return cage * (back + 0.35 * front), cage * edges


def _spine(f: ChestFactors, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    column = _bump(x, 0.105) * (0.055 + 0.05 * step((y + 0.6) / 0.3))
    discs = 1 + 0.5 * np.cos(2 * np.pi * (y / 0.135 + f.rib_phase))
    spine: np.ndarray = column * discs + 0.05 * _bump(x, 0.03)
    return spine


def _vessels(f: ChestFactors, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Branches that leave each hilum as bent rays of a polar fan, fading outwards."""
    rng = np.random.default_rng([f.seed, 0x7E55])
    total = np.zeros_like(x)
    half = x.shape[1] // 2
    for side, columns in ((-1, np.s_[:, : half + half // 8]), (1, np.s_[:, half - half // 8 :])):
        dx, dy = side * x[columns] - (f.mediastinum + 0.03), y[columns] + 0.08
        radius, angle = np.hypot(dx, dy) + 1e-3, np.arctan2(dy, dx)
        angles = np.linspace(-1.1, 1.3, 5) + rng.uniform(-0.25, 0.25, 5)
        bends = rng.uniform(-0.8, 0.8, 5)
        fan = np.zeros_like(dx)
        for a, b in zip(angles, bends):
            fan += np.exp(
                -(((angle - a - b * radius) * radius / (0.035 - 0.03 * np.minimum(radius, 0.6))) ** 2)
            )
        total[columns] += np.clip(fan, 0, 1) * np.exp(-((radius / 0.42) ** 2)) + 0.6 * np.exp(
            -((radius / 0.10) ** 2)
        )
    return total


def _effusion(f: ChestFactors, x: np.ndarray, y: np.ndarray, soft: float) -> np.ndarray:
    """Fluid with a meniscus: a level that climbs the lateral wall.

    Its extent is the share of lung height it hides.
    """
    fluid = np.zeros_like(x)
    for side, extent in ((1, f.effusion_left), (-1, f.effusion_right)):
        if extent <= 0:
            continue
        level = f.lung_bottom + 0.06 - extent * 0.72 * (f.lung_bottom - f.lung_top)
        lateral = np.clip(side * x / f.lung_width, 0, 1)
        surface = level + 0.10 - 0.34 * lateral**3
        fluid = np.maximum(fluid, step((y - surface) / (1.5 * soft)) * (side * x > 0.02))
    return fluid
