"""Reliability diagram of a classifier: what it says against how often it is so (Guo et al. 2017, fig. 1)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .sheet import DASHES, FOOTER, HEADER, INK, LABEL, MUTED, axes_in, clear_frame, legend_beside, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0066CC", "#00AA44", "#CC00CC", "#E07B00", "#00A0A0", "#C22020", "#7A5AC8", "#8A6A3B")


def reliability_figure(
    curves: Mapping[str, np.ndarray],
    errors: Mapping[str, float],
    title: str = "Calibration, held-out patients",
) -> "Figure":
    """Share of positives against mean probability, a line a label and a dot a bin, its area by its images.

    Parameters
    ----------
    curves : mapping of str to ndarray [bins, 3]
        Of each label: mean probability, share of positives, images.
    errors : mapping of str to float
        Expected calibration error of each label.
    title : str

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        There is no label.
    """
    if not curves:
        raise ValueError("reliability: there is no label to draw; give at least one.")
    width, legend = 9.4, 2.8
    height = max(6.6, HEADER + FOOTER + 0.6 * len(curves) + 1)
    most = max(int(rows[:, 2].sum()) for rows in curves.values())
    figure = sheet(width, height, title, f"up to {most} images a label")
    side = height - FOOTER - HEADER - 0.85
    axes = axes_in(figure, 0.95, FOOTER + 0.75, min(side, width - legend - 1.2), side)
    clear_frame(axes)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHES)
    for index, (label, rows) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(
            rows[:, 0], rows[:, 1], color=colour, linewidth=2, label=f"{label} (error {errors[label]:.3f})"
        )
        axes.scatter(
            rows[:, 0], rows[:, 1], s=12 + 200 * rows[:, 2] / rows[:, 2].sum(), color=colour, alpha=0.5
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("mean probability", fontsize=LABEL, color=INK)
    axes.set_ylabel("share of positives", fontsize=LABEL, color=INK)
    legend_beside(axes)
    return figure
