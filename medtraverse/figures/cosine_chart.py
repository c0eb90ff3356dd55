"""Direction cosine against the swap step (Fig. 5; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sheet import DASHES, FROM_THE_PAPER, INK, LABEL, MUTED, check_colours, legend_beside, line_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cosine_figure(
    cosines: Any,
    swap_steps: Sequence[int],
    attributes: Sequence[str],
    colours: Sequence[str],
    published: Mapping[str, Mapping[int, float]] | None = None,
    title: str = "Direction cosine",
) -> "Figure":
    """Mean over patients per attribute, with a band of one standard deviation.

    Parameters
    ----------
    cosines : array or tensor [A, P, L]
        `medtraverse.direction.direction_cosines` of each attribute. NaN (a swap that did not move, or a
        patient that this attribute lacks) is left out.
    swap_steps : sequence of int, L
        In trajectory order: 45, 40, ..., 5.
    attributes, colours : sequences, A
    published : mapping of attribute to {swap step: mean}, optional
        `medtraverse.published.published_curve("direction cosine", ...)`, drawn dashed in the attribute's
        colour. Attributes that are not in the figure are left out.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Names, colours or swap steps that are not as many as the cosines have.
    """
    cosines = np.asarray(cosines, dtype=np.float64)
    if cosines.ndim != 3 or cosines.shape[::2] != (len(attributes), len(swap_steps)) or not cosines.size:
        raise ValueError(
            f"cosines: they have shape {list(cosines.shape)}; give [attributes, patients, swap steps] with "
            f"{len(attributes)} attributes and {len(swap_steps)} swap steps."
        )
    colours = check_colours(colours, attributes)
    steps = np.asarray(swap_steps, dtype=float)
    with warnings.catch_warnings():
        # a column without any direction has no mean: its NaN leaves a gap in the line
        warnings.simplefilter("ignore", RuntimeWarning)
        means, spreads = np.nanmean(cosines, axis=1), np.nanstd(cosines, axis=1)

    counts = sorted({int(count) for count in np.isfinite(cosines).any(axis=2).sum(axis=1)})
    patients = counts[-1]
    note = (
        f"mean over {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} patients, band ± 1 SD"
        if patients > 1
        else "1 patient"
    )
    figure: Figure
    figure, axes = line_sheet(title, note, attributes)
    if cosines[np.isfinite(cosines)].size and np.nanmin(means - spreads) < 0:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for name, colour, mean, spread in zip(attributes, colours, means, spreads, strict=True):
        if patients > 1:
            axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=2.6, marker="o", markersize=6, label=name)
        known = (published or {}).get(name)
        if known:
            axes.plot(
                *zip(*known.items()),
                color=colour,
                linewidth=1.8,
                linestyle=DASHES,
                label=f"{name}{FROM_THE_PAPER}",
            )
    axes.set_xlim(steps.max() + 1, steps.min() - 1)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.set_ylim(min(0.0, np.nanmin([0.0, *(means - spreads).ravel()]) - 0.03), 1.03)
    axes.set_xlabel("swap step λ", fontsize=LABEL, color=INK)
    axes.set_ylabel(f"cos(z(λ) − z(neutral), z({steps[0]:g}) − z(neutral))", fontsize=LABEL, color=INK)
    legend_beside(axes)
    return figure
