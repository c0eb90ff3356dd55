"""Read-outs of a phantom chest film by geometry and matched filters; nothing here is trained.

Synthetic images. Not for clinical use.

Everything is measured on a 128 x 128 grid in the phantoms' own coordinates: -1..1, x to the viewer's right, y
downwards. "Left" and "right" are the patient's, so the right lung is on the viewer's left.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

SIZE = 128
PX = 2.0 / SIZE
# Raw statistic at which the score is 0.5, and the width of the logistic around it. Set on phantoms 4,000,000
# and up, drawn plainly, blurred by 1 pixel with noise of 0.02, and decoded by the demo's VAE.
THRESHOLDS = {
    "support_devices": (70.0, 15.0),  # pixels on a bright line
    "pacemaker": (0.39, 0.03),  # grey of the best box above its surroundings
    "electrodes": (0.96, 0.02),  # grey of the faintest of three discs, with half its contrast
    "pleural_effusion": (
        -0.055,
        0.02,
    ),  # height at which the lateral lung ends, with half its rise over the medial lung
    "cardiomegaly": (0.51, 0.01),  # heart width / thorax width
}
# What tells patients apart whatever the finding. The others are read too, but devices and fluid disturb them
# where they are seen.
ANATOMY = (
    "midline",
    "thorax_width",
    "tissue",
    "air",
    "heart_width",
    "heart_left",
    "heart_right",
    "diaphragm_right",
)
READOUTS = (
    *ANATOMY,
    "lung_area_left",
    "lung_area_right",
    "diaphragm_left",
    "rotation",
    "rib_spacing",
    "mediastinum_width",
)


def read_chest(image: np.ndarray) -> dict[str, float]:
    """Read one film.

    Parameters
    ----------
    image : ndarray [H, W, 3] or [H, W]
        In 0..1, square.

    Returns
    -------
    dict of float
        Scores in 0..1 (0.5 at the threshold) named in `THRESHOLDS`, `wires` (share of the pixels on a bright
        line), the raw statistic of each score as `<name>_raw`, and `READOUTS`: lengths in half-image units
        (`heart_width` as a share of the thorax), areas as shares of the image, grey in 0..1. What fluid hides
        is NaN: diaphragm, lung and heart border on its side, and the heart's width.
    """
    grey = ndimage.gaussian_filter(image, 0.6)
    out = _devices(grey)
    out |= _geometry(grey)
    for name, (threshold, width) in THRESHOLDS.items():
        out[name] = float(1 / (1 + np.exp(-np.clip((out[f"{name}_raw"] - threshold) / width, -30, 30))))
    threshold, _ = THRESHOLDS["pleural_effusion"]
    for side in ("left", "right"):
        if not out[f"effusion_{side}"] < threshold:
            hidden = (
                f"diaphragm_{side}",
                f"lung_area_{side}",
                f"heart_{side}",
                "heart_width",
                "cardiomegaly_raw",
                "cardiomegaly",
            )
            # The right dome bounds the rows in which either border is looked for.
            out |= dict.fromkeys((*hidden, "heart_left") if side == "right" else hidden, np.nan)
    return out


def _index(position: np.ndarray | float) -> np.ndarray:
    index: np.ndarray = (np.asarray(position) + 1) / PX - 0.5
    return index


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, ...]:
    axis = (np.arange(SIZE) + 0.5) * PX - 1
    return np.meshgrid(axis, axis)


@lru_cache(maxsize=4)
def _lines(length: int, count: int) -> np.ndarray:
    """Unit-sum line kernels at `count` angles."""
    half = length // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    kernels = []
    for angle in np.arange(count) * np.pi / count:
        across, along = x * np.sin(angle) - y * np.cos(angle), x * np.cos(angle) + y * np.sin(angle)
        kernel = np.clip(1 - np.abs(across), 0, 1) * (np.abs(along) <= half + 0.5)
        kernels.append(kernel / kernel.sum())
    return np.stack(kernels)


@lru_cache(maxsize=8)
def _spectra(length: int, count: int) -> np.ndarray:
    return np.fft.rfft2(_lines(length, count), (SIZE, SIZE))


def line_response(ridges: np.ndarray, length: int = 13, count: int = 12) -> np.ndarray:
    """Largest mean of `ridges` [128, 128] along a straight line through each pixel.

    The line is `length` pixels long and turns through `count` angles.
    """
    summed = np.fft.irfft2(np.fft.rfft2(ridges)[None] * _spectra(length, count), (SIZE, SIZE))
    response: np.ndarray = np.roll(summed, (-(length // 2),) * 2, (1, 2)).max(0)
    return response


def _devices(grey: np.ndarray) -> dict[str, float]:
    x, y = _grid()
    ridges = ndimage.white_tophat(grey, size=(7, 7))
    lines = line_response(ridges)
    wires = lines > 0.25
    box = ndimage.uniform_filter(grey, (11, 13)) - 0.5 * (ndimage.uniform_filter(grey, (23, 27)) + 0.30)
    upper = (np.abs(x) > 0.30) & (np.abs(x) < 0.85) & (y > -0.70) & (y < -0.15)
    disc = 1.5 * ndimage.uniform_filter(grey, 5) - 0.5 * ndimage.uniform_filter(grey, 17)
    regions = [
        (x < -0.3) & (y < 0) & (y > -0.7),
        (x > 0.3) & (y < 0) & (y > -0.7),
        (x > 0.3) & (y > 0.1) & (y < 0.7),
    ]
    return {
        "wires": float(wires.mean()),
        "support_devices_raw": float(wires.sum()),
        "pacemaker_raw": float(box[upper].max()),
        "electrodes_raw": float(min(disc[region].max() for region in regions)),
    }


def _geometry(grey: np.ndarray) -> dict[str, float]:
    x, y = _grid()
    axis = x[0]
    # Without ribs, wires, clavicles. Lines, not squares: they leave oblique outlines as they are.
    soft = ndimage.grey_opening(grey, size=(11, 1))
    flat = np.minimum(soft, ndimage.grey_opening(grey, size=(1, 9)))
    wall = float(np.percentile(_flanks(soft), 40))
    upper = flat[(y > -0.45) & (y < -0.05) & (np.abs(x) > 0.25) & (np.abs(x) < 0.50)]
    air = float(np.percentile(upper, 20))
    cut = 0.5 * (wall + air)

    # Outer edge of the rib cage: coming from outside, the first change from the wall's grey, to lung, fluid
    # or abdomen alike.
    inside = np.flatnonzero((axis > -0.35) & (axis < 0.60))
    edges = {}
    for side in (-1, 1):
        columns = np.flatnonzero(side * axis > 0.35)
        columns = columns if side < 0 else columns[::-1]  # from outside inwards
        away = np.abs(soft[np.ix_(inside, columns)] - wall)
        on_wall = away < 0.06
        first = np.where(on_wall.any(1), on_wall.argmax(1), 0)
        left = (away > 0.10) & (np.arange(columns.size) > first[:, None])
        edges[side] = np.where(left.any(1), axis[columns[left.argmax(1)]], np.nan)
    middle, half = 0.5 * (edges[-1] + edges[1]), 0.5 * (edges[1] - edges[-1])
    good = np.isfinite(middle) & (np.abs(middle) < 0.2)
    out = {"tissue": wall, "air": air}
    if good.sum() < 12:
        unread = (*READOUTS, "effusion_left", "effusion_right", "pleural_effusion_raw", "cardiomegaly_raw")
        return dict.fromkeys(unread, np.nan) | out
    bow = (
        1 - np.abs((axis[inside] - 0.30) / 1.0) ** 2.6
    ) ** 0.5  # of a rib cage, widest below the heart's middle
    width = float(np.median((half / bow)[good]))
    for _ in range(3):
        slope, centre = _line(axis[inside][good], middle[good])
        good &= np.abs(middle - centre - slope * axis[inside]) < 0.03
        if good.sum() < 8:
            break
    out |= {"midline": centre, "rotation": -slope, "thorax_width": width}

    def leaning(*shares: float) -> tuple[np.ndarray, np.ndarray]:
        """Pixels at shares of the half width, in columns that lean with the patient."""
        places = np.round(_index(centre + slope * axis[:, None] + np.array(shares) * width)).astype(int)
        return np.arange(SIZE)[:, None], np.clip(places, 0, SIZE - 1)

    dark = flat < cut
    chest = (axis > -0.5) & (axis < 0.8)
    dome = _last(
        dark[leaning(-0.42, -0.50, -0.58)][chest], axis[chest]
    )  # the right one: no heart, no stomach before it
    for name, side in (("left", 1), ("right", -1)):
        lateral, medial = (
            _last(dark[leaning(*(side * np.array(offsets)))][chest], axis[chest])
            for offsets in ((0.82, 0.86, 0.90), (0.62, 0.68, 0.74))
        )
        # Fluid climbs the lateral wall: lung ends high there, and higher than nearer the midline.
        out[f"effusion_{name}"] = -lateral + 0.5 * float(np.clip(medial - lateral, -0.10, 0.15))
        out[f"diaphragm_{name}"] = lateral if side > 0 else dome
        away = np.arange(1, 60)
        lung = dark[leaning(*(side * away * PX / width))]
        border = np.where(lung.any(1), (lung.argmax(1) + 1) * PX, np.nan)  # the first lung in each row
        out[f"mediastinum_{name}"] = float(
            np.nanmedian(np.append(border[(axis > -0.55) & (axis < -0.20)], 2 * PX))
        )
        # Between the hilum, whose vessels blur the border, and the dome.
        rows = axis[(axis > min(0.03, dome - 0.10)) & (axis < dome - 0.02)]
        out[f"heart_{name}"] = _heart_border(flat, rows, side, centre, slope, width, air)
        relative = side * (x - centre - slope * y)
        out[f"lung_area_{name}"] = float(
            (dark & (relative > 0) & (relative < width) & (y > -0.9) & (y < 0.8)).mean()
        )
    out["mediastinum_width"] = out["mediastinum_left"] + out["mediastinum_right"]
    out["heart_width"] = (out["heart_left"] + out["heart_right"]) / (2 * width)
    out["rib_spacing"] = _rib_spacing(grey, centre, width)
    return out | {
        "pleural_effusion_raw": max(out["effusion_left"], out["effusion_right"]),
        "cardiomegaly_raw": out["heart_width"],
    }


def _heart_border(
    flat: np.ndarray,
    rows: np.ndarray,
    side: int,
    centre: float,
    slope: float,
    width: float,
    air: float,
) -> float:
    """Widest distance from the midline at which the heart's grey has fallen half way to the lung's.

    Read to a quarter of a pixel.
    """
    away = np.arange(0.06, 0.95 * width, PX / 4)
    across = centre + slope * rows[:, None] + side * away
    grey = ndimage.map_coordinates(
        flat, [_index(np.broadcast_to(rows[:, None], across.shape)), _index(across)], order=1, mode="nearest"
    )
    heart = np.median(grey[:, (away > 0.08) & (away < 0.13)])
    lung = grey < 0.5 * (heart + air)
    border = away[lung.argmax(1)][lung.any(1)]
    # Not the very widest row: a vessel may lie there.
    return float(np.quantile(ndimage.median_filter(border, 5), 0.9)) if border.size > 3 else np.nan


def _flanks(soft: np.ndarray) -> np.ndarray:
    """Brightest grey of each flank in each row between shoulder and armpit.

    That is the chest wall, or a generator that lies there.
    """
    axis = _grid()[0][0]
    rows = soft[(axis > -0.52) & (axis < -0.25)]
    return np.concatenate([rows[:, (side * axis > 0.60) & (side * axis < 0.96)].max(1) for side in (-1, 1)])


def _rib_spacing(grey: np.ndarray, centre: float, width: float) -> float:
    axis = _grid()[1][:, 0]
    rows = (axis > -0.65) & (axis < 0.25)
    power = 0
    frequency = np.linspace(1 / 0.23, 1 / 0.14, 60)
    wave = np.exp(2j * np.pi * frequency[:, None] * axis[rows])
    window = np.hanning(rows.sum() + 2)[1:-1]
    for side in (-1, 1):
        for offset in (0.30, 0.36, 0.44, 0.50):
            place = round(float(_index(centre + side * offset)))
            column = grey[rows][:, int(np.clip(place, 0, SIZE - 1))]
            column = np.clip(column - ndimage.uniform_filter1d(column, 19), -0.12, 0.12)
            power = power + np.abs(wave @ (column * window)) ** 2
    return float(1 / frequency[np.argmax(power)])


def _line(t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    slope, offset = np.polyfit(t, values, 1)
    return float(slope), float(offset)


def _last(marked: np.ndarray, heights: np.ndarray) -> float:
    """Height of the last marked row of each column [rows, columns], as a mean.

    The first height where a column has none.
    """
    return float(
        np.mean(np.where(marked.any(0), heights[len(heights) - 1 - marked[::-1].argmax(0)], heights[0]))
    )
