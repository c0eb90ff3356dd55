"""Grid of trajectories (Figs 1, 3 and 6; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from ..pixels import to_numpy
from ..table import csv_text
from .sheet import FOOTER, HEADER, INK, LABEL, MUTED, NEUTRAL, axes_in, check_colours, hyphenated, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# inches; at 100 dpi a cell shows a 128-pixel image pixel for pixel
CELL, BORDER, GAP, BETWEEN_PATIENTS, NAMES, COLUMN_HEAD = 1.28, 0.045, 0.04, 0.14, 1.62, 0.42


def trajectory_grid(
    images: "np.ndarray | Tensor",
    attributes: Sequence[str],
    colours: Sequence[str],
    points: Sequence[str],
    seeds: Sequence[int],
    title: str = "",
    note: str = "",
) -> "Figure":
    """Rows are patients and attributes, columns the points of the trajectory.

    Parameters
    ----------
    images : array or tensor [P, A, N, H, W, 3] or [..., 1]
        In 0..1. Point 0 is the neutral image, framed in black; the others are framed in their attribute's
        colour.
    attributes, colours : sequences, one per attribute
        Names and `#RRGGBB`.
    points : sequence of str, one per point
        Column headings: a bare number is a swap step and becomes "λ = 45"; other text stands as it is.
    seeds : sequence, one per patient
    title, note : str
        Above, and beside the footer.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Names, colours, points or seeds that are not as many as the images have, or images of another shape.
    """
    from matplotlib.patches import Rectangle

    images = to_numpy(images)
    if images.ndim != 6 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images: they have shape {list(images.shape)}; give [patients, attributes, points, H, W, 3]."
        )
    for axis, (name, labels) in enumerate((("seeds", seeds), ("attributes", attributes), ("points", points))):
        if len(labels) != images.shape[axis]:
            raise ValueError(
                f"{name}: {len(labels)} are given for images {list(images.shape)}; give {images.shape[axis]}."
            )
    colours = check_colours(colours, attributes)
    patients, rows, columns, height, width = images.shape[:5]
    images = np.clip(np.broadcast_to(images, (*images.shape[:5], 3)), 0, 1)

    cell = CELL / max(height, width)
    across, down = width * cell, height * cell
    step_x, step_y = across + 2 * BORDER + GAP, down + 2 * BORDER + GAP
    inner = patients * rows * step_y + (patients - 1) * BETWEEN_PATIENTS
    above = (HEADER if title else 0.1) + COLUMN_HEAD
    figure = sheet(NAMES + columns * step_x + 0.14, above + inner + FOOTER, title, note)
    axes = axes_in(figure, NAMES, FOOTER, columns * step_x, inner)
    axes.set(xlim=(0, columns * step_x), ylim=(inner, 0))
    axes.axis("off")

    for n, point in enumerate(points):
        heading = f"λ = {point}" if str(point).isdecimal() else str(point)
        axes.text(
            n * step_x + step_x / 2 - GAP / 2,
            -0.1,
            heading,
            fontsize=LABEL,
            color=INK,
            ha="center",
            va="bottom",
        )
    for p in range(patients):
        for a in range(rows):
            top = (p * rows + a) * step_y + p * BETWEEN_PATIENTS
            _name_row(axes, top + step_y / 2 - GAP / 2, attributes[a], colours[a], seeds[p])
            for n in range(columns):
                left, colour = n * step_x, colours[a] if n else NEUTRAL
                frame = (left, top), across + 2 * BORDER, down + 2 * BORDER
                axes.add_patch(Rectangle(*frame, facecolor=colour, edgecolor="none", clip_on=False))
                x, y = left + BORDER, top + BORDER
                axes.imshow(images[p, a, n], extent=(x, x + across, y + down, y), zorder=2, vmin=0, vmax=1)
    # every imshow narrows the view to its own image
    axes.set(xlim=(0, columns * step_x), ylim=(inner, 0), aspect="auto")
    return figure


def strip(
    frames: "np.ndarray | Tensor",
    attributes: Sequence[str],
    colours: Sequence[str],
    points: Sequence[str],
    seeds: Sequence[int],
    count: int = 10,
    title: str = "",
    note: str = "",
) -> "Figure":
    """Draw frames of a curve, chosen evenly, first and last included, as a `trajectory_grid` (Fig. 6).

    Parameters
    ----------
    frames : array or tensor [P, A, F, H, W, 3]
        In 0..1, the neutral image first.
    attributes, colours, seeds, title, note
        As of `trajectory_grid`.
    points : sequence of str
        The F frame numbers.
    count : int
        Columns, 2 to F.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        As `trajectory_grid`, and for a count out of range.
    """
    if len(frames.shape) != 6:
        return trajectory_grid(frames, attributes, colours, points, seeds, title, note)
    chosen = strip_frames(frames.shape[2], count)
    labels = ["neutral", *(f"frame {points[n]}" for n in chosen[1:])]
    return trajectory_grid(frames[:, :, chosen], attributes, colours, labels, seeds, title, note)


def strip_frames(total: int, count: int) -> list[int]:
    """Choose the frames that a `strip` shows.

    Parameters
    ----------
    total : int
        Frames that are there.
    count : int
        Columns, 2 to `total`.

    Returns
    -------
    list of int
        Rising, from 0 to `total` - 1.

    Raises
    ------
    ValueError
        `count` is out of range.
    """
    if not 2 <= count <= total:
        raise ValueError(f"count: {count} is out of range; choose 2 to {total} of the {total} frames.")
    return [int(frame) for frame in np.linspace(0, total - 1, count).round()]


def grid_table(attributes: Sequence[str], points: Sequence[str], seeds: Sequence[int]) -> str:
    """Write what each cell of a grid shows, as CSV.

    Parameters
    ----------
    attributes, points : sequence of str
    seeds : sequence of int

    Returns
    -------
    str
        Row and column, from 1 at the top left, seed, attribute, point, notice.
    """
    rows = [(seed, attribute) for seed in seeds for attribute in attributes]
    return csv_text(
        ["row", "column", "seed", "attribute", "point"],
        [
            [row, column, *named, point]
            for row, named in enumerate(rows, 1)
            for column, point in enumerate(points, 1)
        ],
    )


def _name_row(axes: "Axes", middle: float, attribute: str, colour: str, seed: int) -> None:
    lines = wrap(" ".join(hyphenated(attribute, 10)), 12, break_on_hyphens=False) or [""]
    spacing = 0.23
    top = middle - spacing * len(lines) / 2
    for i, line in enumerate(lines):
        axes.text(
            -NAMES + 0.32,
            top + i * spacing,
            line,
            fontsize=LABEL,
            fontweight="bold",
            color=INK,
            va="center",
        )
    axes.text(
        -NAMES + 0.32,
        top + len(lines) * spacing,
        f"seed {seed}",
        fontsize=LABEL - 2,
        color=MUTED,
        va="center",
    )
    axes.plot(
        [-NAMES + 0.2] * 2,
        [middle - 0.4, middle + 0.4],
        color=colour,
        linewidth=5,
        solid_capstyle="butt",
        clip_on=False,
    )
