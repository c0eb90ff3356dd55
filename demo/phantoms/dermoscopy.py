"""Procedural dermoscopy phantoms with known factors. Synthetic images. Not for clinical use.

Lengths are fractions of the image side, so that a record renders alike at any size. Every structure draws
from a random stream of its own, seeded by the record: switching one attribute on leaves the rest of the image
as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

DIAGNOSES = ("MEL", "NV")
ARTEFACTS = ("hair", "gel_bubble", "ruler", "ink", "dark_corner")
EDGES = ("top", "bottom", "left", "right")
PREVALENCE = {"hair": 0.35, "gel_bubble": 0.35, "ruler": 0.35, "ink": 0.35, "dark_corner": 0.25}
_SAMPLER, _SKIN, _LESION, _HAIR, _BUBBLE, _INK = range(6)


@dataclass(frozen=True)
class DermoscopyFactors:
    """All that `render` needs: the diagnosis, five artefacts and their extents."""

    seed: int
    diagnosis: str
    hair: bool
    gel_bubble: bool
    ruler: bool
    ink: bool
    dark_corner: bool
    skin_tone: float  # 0 pale … 1 brown
    skin_cast: float  # 0 pink light … 1 blue light
    light_angle: float  # radians
    light_strength: float
    lesion_x: float
    lesion_y: float
    lesion_radius: float
    lesion_elongation: float
    lesion_angle: float  # radians
    lesion_pigment: float  # 0 light … 1 dark
    hair_count: int
    hair_width: float
    hair_angle: float  # radians
    bubble_clusters: int
    bubble_radius: float
    ruler_edge: str
    ruler_pitch: float
    ink_strokes: bool  # strokes, else dots
    ink_hue: float  # 0 blue … 1 violet
    ink_angle: float  # radians, seen from the lesion
    corner_radius: float

    def __post_init__(self) -> None:
        if self.diagnosis not in DIAGNOSES:
            raise ValueError(
                f"diagnosis: {self.diagnosis!r} is unknown; choose one of {', '.join(DIAGNOSES)}."
            )
        if self.ruler_edge not in EDGES:
            raise ValueError(f"ruler_edge: {self.ruler_edge!r} is unknown; choose one of {', '.join(EDGES)}.")


class Rendered(NamedTuple):
    """image: float32 [H, W, 3] in 0..1; thin: float32 [H, W] in 0..1, coverage by thin structures."""

    image: np.ndarray
    thin: np.ndarray


def sample_factors(seed: int, **overrides: Any) -> DermoscopyFactors:
    """Draw a record from `seed`, every factor independent of the others; `overrides` fix any of them.

    All factors are drawn whatever is overridden, so the same seed with another flag is the same patient.
    """
    names = [field.name for field in fields(DermoscopyFactors)]
    unknown = set(overrides) - set(names)
    if unknown:
        raise ValueError(
            f"overrides: {', '.join(sorted(unknown))} is no factor; choose from {', '.join(names)}."
        )
    rng = np.random.default_rng((seed, _SAMPLER))
    melanoma = bool(rng.random() < 0.5)
    drawn: dict[str, Any] = {"seed": seed, "diagnosis": "MEL" if melanoma else "NV"}
    drawn |= {name: bool(rng.random() < p) for name, p in PREVALENCE.items()}
    uniform = {
        "skin_tone": (0.0, 1.0),
        "skin_cast": (0.0, 1.0),
        "light_angle": (0, 2 * np.pi),
        "light_strength": (0.0, 0.12),
        "lesion_x": (0.44, 0.56),
        "lesion_y": (0.44, 0.56),
        "lesion_radius": (0.19, 0.28),
        "lesion_elongation": (1.0, 1.35),
        "lesion_angle": (0, np.pi),
        "lesion_pigment": (0.0, 1.0),
        "hair_width": (0.021, 0.029),
        "hair_angle": (0, np.pi),
        "bubble_radius": (0.05, 0.075),
        "ruler_pitch": (0.075, 0.095),
        "ink_hue": (0.0, 1.0),
        "ink_angle": (0, 2 * np.pi),
        "corner_radius": (0.50, 0.57),
    }
    drawn |= {name: float(rng.uniform(*limits)) for name, limits in uniform.items()}
    drawn["hair_count"] = int(rng.integers(4, 8))
    drawn["bubble_clusters"] = int(rng.integers(2, 4))
    drawn["ruler_edge"] = EDGES[rng.integers(4)]
    drawn["ink_strokes"] = bool(rng.random() < 0.5)
    return DermoscopyFactors(**(drawn | overrides))


@lru_cache(maxsize=32)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[:, None], (size, size))


@lru_cache(maxsize=64)
def _upsampler(size: int, cells: int) -> np.ndarray:
    position = (np.arange(size) + 0.5) / size * (cells - 1)
    low = np.minimum(position.astype(int), cells - 2)
    weight = position - low
    weight = weight * weight * (3 - 2 * weight)
    matrix = np.zeros((size, cells), np.float32)
    matrix[np.arange(size), low] = 1 - weight
    matrix[np.arange(size), low + 1] = weight
    return matrix


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    matrix = _upsampler(size, cells)
    noise: np.ndarray = matrix @ rng.standard_normal((cells, cells), dtype=np.float32) @ matrix.T
    return noise


def _smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0, 1)
    step: np.ndarray = t * t * (3 - 2 * t)
    return step


def _coverage(distance: np.ndarray, half_width: float, size: int) -> np.ndarray:
    """Anti-aliased coverage of a band of `half_width` about distance 0, in fractions of the side."""
    share: np.ndarray = np.clip((half_width - np.abs(distance)) * size + 0.5, 0, 1)
    return share


def _paint(image: np.ndarray, colour: ArrayLike, alpha: np.ndarray) -> None:
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _skin(factors: DermoscopyFactors, size: int) -> np.ndarray:
    rng = np.random.default_rng((factors.seed, _SKIN))
    x, y = _grid(size)
    pale = (
        np.array([0.93, 0.77, 0.72]) * (1 - factors.skin_cast)
        + np.array([0.78, 0.84, 0.93]) * factors.skin_cast
    )
    colour = pale * (1 - 0.8 * factors.skin_tone) + np.array([0.78, 0.58, 0.46]) * 0.8 * factors.skin_tone
    slope = (x - 0.5) * np.cos(factors.light_angle) + (y - 0.5) * np.sin(factors.light_angle)
    shade = (
        1
        + 2 * factors.light_strength * slope
        + 0.02 * _smooth_noise(rng, size, 6)
        + 0.015 * _smooth_noise(rng, size, 24)
    )
    image: np.ndarray = shade[..., None] * colour.astype(np.float32)
    flush = np.clip(_smooth_noise(rng, size, 8), 0, 2) * 0.035
    image *= 1 - flush[..., None] * np.array([0.2, 1.0, 0.8], np.float32)
    return image.astype(np.float32)


def _lesion(image: np.ndarray, factors: DermoscopyFactors, size: int) -> None:
    rng = np.random.default_rng((factors.seed, _LESION))
    x, y = _grid(size)
    cos, sin, dx, dy = (
        np.cos(factors.lesion_angle),
        np.sin(factors.lesion_angle),
        x - factors.lesion_x,
        y - factors.lesion_y,
    )
    stretch = np.sqrt(factors.lesion_elongation)
    u = ((cos * dx + sin * dy) / stretch / factors.lesion_radius).astype(np.float32)
    v = ((cos * dy - sin * dx) * stretch / factors.lesion_radius).astype(np.float32)
    order = np.arange(2, 9)
    phase = rng.uniform(0, 2 * np.pi, order.size)
    wave = rng.uniform(0.5, 1, order.size) / order**0.8
    bend, rough = _smooth_noise(rng, size, 12), _smooth_noise(rng, size, 32)
    tone, patch = _smooth_noise(rng, size, 10), _smooth_noise(rng, size, 26)
    strength = rng.uniform(0.45, 1, 3)
    places = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2]) + rng.uniform(-0.4, 0.4, 3)
    melanoma = factors.diagnosis == "MEL"
    angles = np.linspace(-np.pi, np.pi, 257)
    profile = 1 + (0.22 if melanoma else 0.025) * (
        wave[:, None] * np.cos(order[:, None] * angles + phase[:, None])
    ).sum(0)
    radius = np.hypot(u, v) / np.interp(np.arctan2(v, u), angles, profile).astype(np.float32)
    level = radius + (0.07 * bend + 0.05 * rough if melanoma else 0.012 * rough)
    pigment = factors.lesion_pigment
    inside = 1 - (_smoothstep(level, 0.93, 1.05) if melanoma else _smoothstep(level, 0.82, 1.08))
    light = np.array([0.62, 0.41, 0.27]) * (1 - pigment) + np.array([0.46, 0.28, 0.18]) * pigment
    _paint(image, light, inside * (0.9 + 0.05 * np.clip(patch, -1, 1)))
    if not melanoma:
        core = 1 - _smoothstep(radius + 0.08 * tone, 0.2, 0.8)
        _paint(image, light * 0.62, core * inside * (0.25 + 0.6 * pigment))
        _paint(image, light * 0.7, inside * np.clip(0.25 * patch + 0.1, 0, 0.6))
        return

    def zone(index: int, reach: float, spread: float) -> np.ndarray:
        distance = np.hypot(u - reach * np.cos(places[index]), v - reach * np.sin(places[index]))
        soft = 1 - _smoothstep(distance + 0.22 * tone + 0.12 * patch, spread - 0.4, spread + 0.35)
        coverage: np.ndarray = inside * strength[index] * soft
        return coverage

    _paint(image, [0.27, 0.15, 0.11], inside * _smoothstep(tone + 0.6 * patch, -0.3, 1.0) * 0.75)
    _paint(image, [0.74, 0.38, 0.36], zone(0, 0.60, 0.52) * 0.85)
    _paint(image, [0.42, 0.48, 0.57], zone(1, 0.50, 0.50) * 0.95)
    _paint(image, [0.08, 0.06, 0.07], zone(2, 0.40, 0.62) * 0.95)


def _hairs(factors: DermoscopyFactors, size: int) -> np.ndarray:
    """Coverage of dark hairs that cross the whole image, each a parabola in a frame of its own."""
    rng = np.random.default_rng((factors.seed, _HAIR))
    count = factors.hair_count
    x, y = _grid(size)
    angle = factors.hair_angle + rng.normal(0, 0.45, count)
    offset = (np.arange(count) + 0.5 + rng.uniform(-0.35, 0.35, count)) / count * 0.9 - 0.45
    bow = rng.uniform(0.25, 0.75, count) * rng.choice([-1, 1], count)
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    bend, start = (a.astype(np.float32)[:, None, None] for a in (bow, offset))
    along = cos * (x - 0.5) + sin * (y - 0.5)
    across = cos * (y - 0.5) - sin * (x - 0.5) - start + bend * (along * along - 0.08)
    distance = np.abs(across) / np.sqrt(1 + (2 * bend * along) ** 2)
    return _coverage(distance.min(0), factors.hair_width / 2, size)


def _bubbles(factors: DermoscopyFactors, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage of the bubbles' bright rims, dark seams and interiors."""
    rng = np.random.default_rng((factors.seed, _BUBBLE))
    x, y = _grid(size)
    turn = rng.uniform(0, 2 * np.pi)
    rim, seam, inner = (np.zeros((size, size), np.float32) for _ in range(3))
    for cluster in range(factors.bubble_clusters):
        way = turn + 2 * np.pi * (cluster + rng.uniform(-0.2, 0.2)) / factors.bubble_clusters
        middle = 0.5 + rng.uniform(0.22, 0.32) * np.array([np.cos(way), np.sin(way)])
        ring = rng.uniform(0, 2 * np.pi)
        petals = rng.integers(4, 7)
        core = factors.bubble_radius * rng.uniform(0.8, 1.2)
        for petal in range(petals):
            radius = factors.bubble_radius * rng.uniform(0.65, 1.15) if petal else core
            away = 1.02 * (radius + core) if petal else 0.0
            direction = ring + petal * 2 * np.pi / 6
            cx, cy = middle + away * np.array([np.cos(direction), np.sin(direction)])
            distance = np.hypot(x - np.float32(cx), y - np.float32(cy))
            rim = np.maximum(rim, _coverage(distance - radius, 0.0115, size))
            seam = np.maximum(seam, _coverage(distance - radius - 0.018, 0.010, size))
            inner = np.maximum(inner, _coverage(distance, radius, size))
    return rim, seam, inner


def _ruler(factors: DermoscopyFactors, size: int) -> np.ndarray:
    x, y = _grid(size)
    along, depth = (x, y) if factors.ruler_edge in ("top", "bottom") else (y, x)
    if factors.ruler_edge in ("bottom", "right"):
        depth = 1 - depth
    pitch = factors.ruler_pitch
    tick = np.round((along - 0.5) / pitch)
    length = np.where(tick % 4 == 0, 0.155, 0.085)
    ticks = _coverage(along - 0.5 - tick * pitch, 0.0112, size) * np.clip((length - depth) * size + 0.5, 0, 1)
    ruler: np.ndarray = np.maximum(ticks, _coverage(depth - 0.012, 0.012, size)).astype(np.float32)
    return ruler


def _ink(factors: DermoscopyFactors, size: int) -> np.ndarray:
    """Coverage of marker dots or strokes on the skin beside the lesion."""
    rng = np.random.default_rng((factors.seed, _INK))
    x, y = _grid(size)
    dx, dy = x - np.float32(factors.lesion_x), y - np.float32(factors.lesion_y)
    reach = min(factors.lesion_radius * 1.25 + 0.09 + rng.uniform(0, 0.03), 0.40)
    ragged = 0.006 * _smooth_noise(rng, size, 32)
    grain = 0.9 + 0.1 * np.clip(_smooth_noise(rng, size, 24), -1, 1)
    spots = factors.ink_angle + np.array([0, np.pi]) + rng.uniform(-0.4, 0.4, 2)
    sizes = rng.uniform(0.036, 0.052, 8)
    if factors.ink_strokes:
        angle = np.arctan2(dy, dx)
        band = np.full((size, size), 1.0, np.float32)
        for spot, width in zip(spots, sizes):
            off = np.abs(np.angle(np.exp(1j * (angle - spot)))) - 0.62
            band = np.minimum(
                band, np.hypot(np.hypot(dx, dy) - reach, np.maximum(off, 0) * reach) + 0.026 - 0.55 * width
            )
        strokes: np.ndarray = grain * _coverage(np.maximum(band + ragged, 0), 0.026, size)
        return strokes
    blot = np.full((size, size), 1.0, np.float32)
    for index, radius in enumerate(sizes):
        spot = spots[index // 4] + (index % 4 - 1.5) * 0.42
        px, py = reach * np.cos(spot), reach * np.sin(spot)
        blot = np.minimum(blot, np.hypot(dx - px, dy - py) - radius)
    dots: np.ndarray = grain * np.clip((-blot - ragged) * size + 0.5, 0, 1)
    return dots


def render(factors: DermoscopyFactors, size: int = 128) -> Rendered:
    """Draw a record at `size` × `size` pixels.

    Returns
    -------
    Rendered
        The image and the coverage of its thin structures (hairs, ruler ticks, bubble rims).
    """
    if size < 64:
        raise ValueError(f"size: {size} is too small for thin structures; give 64 pixels or more.")
    x, y = _grid(size)
    image = _skin(factors, size)
    thin = np.zeros((size, size), np.float32)
    _lesion(image, factors, size)
    if factors.ink:
        blue, violet = np.array([0.12, 0.22, 0.72]), np.array([0.42, 0.12, 0.66])
        _paint(image, blue * (1 - factors.ink_hue) + violet * factors.ink_hue, 0.9 * _ink(factors, size))
    if factors.ruler:
        ticks = _ruler(factors, size)
        _paint(image, [0.08, 0.08, 0.10], 0.92 * ticks)
        thin = np.maximum(thin, ticks)
    if factors.hair:
        hairs = _hairs(factors, size)
        _paint(image, [0.14, 0.09, 0.07], 0.92 * hairs)
        thin = np.maximum(thin, hairs)
    if factors.gel_bubble:
        rim, seam, inner = _bubbles(factors, size)
        _paint(image, [0.86, 0.90, 0.92], 0.18 * inner)
        _paint(image, [0.38, 0.34, 0.34], 0.45 * seam * (1 - rim))
        _paint(image, [0.97, 0.98, 1.0], 0.9 * rim)
        thin = np.maximum(thin, rim)
    if factors.dark_corner:
        open_field = 1 - _smoothstep(
            np.hypot(x - 0.5, y - 0.5), factors.corner_radius, factors.corner_radius + 0.07
        )
        image *= (0.04 + 0.96 * open_field)[..., None]
        thin = thin * open_field
    noise = np.random.default_rng((factors.seed, size)).standard_normal((size, size, 3), dtype=np.float32)
    return Rendered(np.clip(image + 0.012 * noise, 0, 1).astype(np.float32), thin.astype(np.float32))
