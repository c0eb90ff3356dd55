"""Read-outs of a phantom dermoscopic image by geometry and matched filters; nothing here is trained.

Synthetic images. Not for clinical use.

Everything is measured on a 128 x 128 grid; lengths are fractions of the side, as in the phantoms' factors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from demo.judging.oracle_chest import line_response

SIZE = 128
# Raw statistic at which the score is 0.5, and the width of the logistic around it. Set on phantoms 4,000,000
# and up, drawn plainly, and blurred by 1 pixel with noise of 0.02.
THRESHOLDS = {
    "hair": (90.0, 20.0),  # pixels on a dark line, away from the border
    "gel_bubble": (280.0, 60.0),  # pixels on a white rim
    "ruler": (0.128, 0.008),  # grey amplitude of the best comb of ticks
    "ink": (120.0, 30.0),  # blue or violet pixels
    "dark_corner": (0.75, 0.06),  # darkness of the corners
    "melanoma": (0.068, 0.004),  # spread of the lesion's chromaticity
}
# What tells patients apart whatever the artefact. `lesion_elongation` and `lesion_irregularity` are read too,
# but bubbles disturb them.
ANATOMY = (
    "skin_tone",
    "skin_cast",
    "light_x",
    "light_y",
    "lesion_x",
    "lesion_y",
    "lesion_radius",
    "lesion_axis_x",
    "lesion_axis_y",
    "lesion_grey",
    "lesion_colours",
)
READOUTS = (*ANATOMY, "lesion_elongation", "lesion_irregularity", "lesion_area", "lesion_asymmetry")
EDGES = ("top", "bottom", "left", "right")
_PALE, _BLUE, _BROWN = (
    np.array([0.93, 0.77, 0.72]),
    np.array([0.78, 0.84, 0.93]),
    np.array([0.78, 0.58, 0.46]),
)
_ANGLES = np.linspace(-np.pi, np.pi, 96, endpoint=False)


def read_dermoscopy(image: np.ndarray) -> dict[str, float]:
    """Read one image.

    Parameters
    ----------
    image : ndarray [128, 128, 3]
        In 0..1.

    Returns
    -------
    dict of float
        Scores in 0..1 (0.5 at the threshold) named in `THRESHOLDS`, the raw statistic of each as
        `<name>_raw`, and `READOUTS`: lengths as shares of the side, `lesion_area` of the image,
        `lesion_asymmetry` of the lesion (what its mirror images miss); NaN without a lesion.
    """
    smooth = ndimage.gaussian_filter(image, (0.6, 0.6, 0))
    out, cover = _artefacts(smooth)
    out |= _lesion(smooth, cover)
    for name, (threshold, width) in THRESHOLDS.items():
        out[name] = float(1 / (1 + np.exp(-np.clip((out[f"{name}_raw"] - threshold) / width, -30, 30))))
    return out


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, ...]:
    axis = (np.arange(SIZE) + 0.5) / SIZE
    return np.meshgrid(axis, axis)


def _artefacts(image: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Statistics of the artefacts, and the mask of what they cover."""
    x, y = _grid()
    radius = np.hypot(x - 0.5, y - 0.5)
    red, green, blue = np.moveaxis(image, -1, 0)
    brightest, faintest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)

    # Hairs and ticks are dark in every channel; ink is not, nor is the blue-grey of a melanoma.
    dark = ndimage.black_tophat(brightest, size=(7, 7))
    strokes = line_response(dark, 15, 12)
    central = (x > 0.19) & (x < 0.81) & (y > 0.19) & (y < 0.81) & (radius < 0.46)
    hair = strokes > 0.28

    ticks = {edge: _comb(dark, edge) for edge in EDGES}
    ruler = max(ticks, key=lambda edge: ticks[edge])

    bright = ndimage.white_tophat(faintest, size=(7, 7))
    ground = float(np.median(faintest[(radius > 0.33) & (radius < 0.47)]))
    gap = 0.96 - min(ground, 0.85)  # from skin to a rim's white
    rims = (bright > 0.25 * gap) & (faintest > ground + 0.45 * gap)
    hair &= ~ndimage.binary_dilation(rims, iterations=3)

    inked = (blue - green > 0.15) & (blue - red > 0.04)
    corners = radius > 0.64
    out = {
        "hair_raw": float((hair & central).sum()),
        "ruler_raw": ticks[ruler],
        "gel_bubble_raw": float(rims.sum()),
        "ink_raw": float(inked.sum()),
        "dark_corner_raw": float(1 - brightest[corners].mean()),
    }
    cover = (
        ndimage.binary_dilation(dark > 0.12)
        | ndimage.binary_dilation((bright > 0.08) | inked, iterations=2)
        | (radius > 0.47)
    )
    return out, cover


def _comb(dark: np.ndarray, edge: str) -> float:
    """Amplitude, in grey, of the best comb of ticks along an edge, at a ruler's pitches and phase."""
    strip = {"top": dark, "bottom": dark[::-1], "left": dark.T, "right": dark.T[::-1]}[edge][5:10]
    profile = np.minimum(strip, 0.5).mean(0)
    position = (np.arange(SIZE) + 0.5) / SIZE
    profile = profile - profile.mean()
    spectrum = np.abs(
        np.exp(2j * np.pi * position / np.linspace(0.070, 0.100, 31)[:, None]) @ (profile * np.hanning(SIZE))
    )
    return float(spectrum.max() / (0.25 * SIZE))


def _lesion(image: np.ndarray, cover: np.ndarray) -> dict[str, float]:
    x, y = _grid()
    radius = np.hypot(x - 0.5, y - 0.5)
    skin_ring = ~cover & (radius > 0.38) & (radius < 0.47)
    if skin_ring.sum() < 60:
        skin_ring = ~cover & (radius > 0.34)
    if skin_ring.sum() < 30:
        skin_ring = radius < 2
    skin = np.median(image[skin_ring], axis=0)
    out = _skin(skin)
    grey = image.mean(-1)
    plane = np.stack([np.ones(skin_ring.sum()), x[skin_ring] - 0.5, y[skin_ring] - 0.5], 1)
    ring = grey[skin_ring]
    keep = np.abs(ring - np.median(ring)) < 0.15
    slope = (
        np.linalg.lstsq(plane[keep], ring[keep], rcond=None)[0]
        if keep.sum() > 30
        else [np.median(ring), 0, 0]
    )
    out |= {"light_x": float(slope[1] / max(slope[0], 0.1)), "light_y": float(slope[2] / max(slope[0], 0.1))}

    # Fill what artefacts cover from around it, so that hairs do not cut the outline.
    shaded = grey - slope[1] * (x - 0.5) - slope[2] * (y - 0.5)
    weight = ndimage.gaussian_filter((~cover).astype(float), 2.0)
    filled = np.where(
        cover & (radius < 0.47),
        ndimage.gaussian_filter(np.where(cover, 0, shaded), 2.0) / np.maximum(weight, 1e-3),
        shaded,
    )
    filled = np.where(weight > 0.02, filled, slope[0])
    inner = filled[(radius < 0.12) & ~cover]
    depth = slope[0] - (np.median(inner) if inner.size > 20 else filled[radius < 0.1].min())
    inside = (filled < slope[0] - 0.5 * max(depth, 0.05)) & (radius < 0.46)
    inside = ndimage.binary_opening(inside, iterations=1)
    parts, count = ndimage.label(inside)
    if not count:
        names = [name for name in (*READOUTS, "melanoma_raw") if name not in out]
        return out | dict.fromkeys(names, np.nan)
    weights = ndimage.sum(np.exp(-((radius / 0.2) ** 2)), parts, np.arange(1, count + 1))
    inside = ndimage.binary_fill_holes(parts == 1 + np.argmax(weights))
    area = inside.mean()
    cx, cy = x[inside].mean(), y[inside].mean()
    dx, dy = x[inside] - cx, y[inside] - cy
    xx, yy, xy = (dx * dx).mean(), (dy * dy).mean(), (dx * dy).mean()
    spread = np.hypot(xx - yy, 2 * xy)
    ratio = np.sqrt((xx + yy + spread) / max(xx + yy - spread, 1e-6))
    clear = inside & ~cover
    colours = image[clear] if clear.sum() > 50 else image[inside]
    chroma = colours / colours.sum(-1, keepdims=True)
    out |= {
        "lesion_area": float(area),
        "lesion_radius": float(np.sqrt(area / np.pi)),
        "lesion_x": float(cx),
        "lesion_y": float(cy),
        "lesion_elongation": float(ratio),
        "lesion_axis_x": float((xx - yy) / (xx + yy)),
        "lesion_axis_y": float(2 * xy / (xx + yy)),
        "lesion_grey": float(np.median(colours.mean(-1)) / max(slope[0], 0.1)),
        "lesion_colours": float(chroma.std(0).sum()),
        "lesion_irregularity": _irregularity(inside, cx, cy),
        "lesion_asymmetry": _asymmetry(inside, cx, cy, 0.5 * np.arctan2(2 * xy, xx - yy)),
    }
    return out | {"melanoma_raw": out["lesion_colours"]}


def _irregularity(inside: np.ndarray, cx: float, cy: float) -> float:
    """Root mean square of the outline's relative radius beyond an ellipse's: harmonics 3 and up."""
    reach = np.arange(1, 64)[:, None] / SIZE
    at = [
        np.clip((c + reach * f(_ANGLES)) * SIZE - 0.5, 0, SIZE - 1) for c, f in ((cy, np.sin), (cx, np.cos))
    ]
    profile = ndimage.map_coordinates(inside.astype(np.float32), at, order=1).sum(0)
    harmonics = np.fft.rfft(profile / max(profile.mean(), 1e-3)) / _ANGLES.size
    return float(np.sqrt(2 * (np.abs(harmonics[3:13]) ** 2).sum()))


def _asymmetry(inside: np.ndarray, cx: float, cy: float, angle: float) -> float:
    """Mean share of the lesion that its reflections in the two principal axes leave uncovered."""
    rows, columns = np.nonzero(inside)
    dx, dy = (columns + 0.5) / SIZE - cx, (rows + 0.5) / SIZE - cy
    missed = []
    for turn in (angle, angle + np.pi / 2):
        c, s = np.cos(2 * turn), np.sin(2 * turn)
        px, py = cx + c * dx + s * dy, cy + s * dx - c * dy
        index = [np.clip((p * SIZE).astype(int), 0, SIZE - 1) for p in (py, px)]
        missed.append(1 - inside[tuple(index)].mean())
    return float(np.mean(missed))


def _skin(colour: np.ndarray) -> dict[str, float]:
    """Tone and cast whose colour has this chromaticity: brightness is left to the light."""
    tone, cast = np.meshgrid(np.linspace(-0.1, 1.1, 49), np.linspace(-0.1, 1.1, 49))
    pale = _PALE * (1 - cast[..., None]) + _BLUE * cast[..., None]
    model = pale * (1 - 0.8 * tone[..., None]) + _BROWN * 0.8 * tone[..., None]
    away = np.abs(model - colour).sum(-1)
    best = np.unravel_index(away.argmin(), away.shape)
    return {"skin_tone": float(tone[best]), "skin_cast": float(cast[best])}
