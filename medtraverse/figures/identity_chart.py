"""Distance to the own neutral along the trajectory, beside that to other patients (the paper:
LPIPS; arXiv 2503.23623).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sheet import DASHES, FROM_THE_PAPER, INK, LABEL, MUTED, check_colours, legend_beside, line_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def identity_figure(
    values: Any,
    others: Any,
    steps: Sequence[int],
    attributes: Sequence[str],
    colours: Sequence[str],
    measure: str,
    curve: bool = False,
    published: Mapping[str, Mapping[int, float]] | None = None,
    title: str = "Identity preservation",
) -> "Figure":
    """Mean over patients per attribute with a band of one standard deviation, and the
    level of other patients, dashed.

    Parameters
    ----------
    values, others : array or tensor [P, A, N]
        Distance of each patient's images to the own neutral, and to other patients' neutrals (NaN: there are
        none), of `medtraverse.identity.identity_table`.
    steps : sequence of int, N
        May be empty. Swap steps, drawn falling as in the paper; with `curve` frame numbers, drawn rising.
    attributes, colours : sequences, A
    measure : str
        Name of the distance, for the axis.
    curve : bool
        The points are frames of a curve.
    published : mapping of attribute to {swap step: mean}, optional
        `medtraverse.published.published_curve("lpips to neutral", ...)`, drawn dashed in the attribute's
        colour. Give it for LPIPS only. Attributes that are not in the figure are left out.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Names, colours or steps that are not as many as the values have.
    """
    values, others = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if values.ndim != 3 or values.shape[1:] != (len(attributes), len(steps)) or not values.shape[0]:
        raise ValueError(
            f"values: they have shape {list(values.shape)}; give [patients, attributes, points] with "
            f"{len(attributes)} attributes and {len(steps)} points."
        )
    if others.shape != values.shape:
        raise ValueError(
            f"others: they have shape {list(others.shape)}; give that of values, {list(values.shape)}."
        )
    colours = check_colours(colours, attributes)
    places = np.asarray(steps, dtype=float)
    patients = values.shape[0]
    note = f"mean over {patients} patients, bands ± 1 SD" if patients > 1 else "1 patient"
    figure: Figure
    figure, axes = line_sheet(title, note, ["other patients", *attributes])
    if others.size and np.isfinite(others).all():
        level, spread = others.mean(axis=(0, 1)), others.std(axis=(0, 1))
        axes.fill_between(places, level - spread, level + spread, color=MUTED, alpha=0.12, linewidth=0)
        for edge in (level - spread, level + spread):
            axes.plot(places, edge, color=MUTED, linewidth=0.9, linestyle=DASHES)
        axes.plot(places, level, color=MUTED, linewidth=1.8, linestyle=DASHES, label="other patients")
    for name, colour, mean, spread in zip(
        attributes, colours, values.mean(axis=0), values.std(axis=0), strict=True
    ):
        if patients > 1:
            axes.fill_between(places, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        marker: dict[str, Any] = {} if curve else {"marker": "o", "markersize": 6}
        axes.plot(places, mean, color=colour, linewidth=2.6, label=name, **marker)
        known = (published or {}).get(name)
        if known:
            axes.plot(
                *zip(*known.items()),
                color=colour,
                linewidth=1.8,
                linestyle=DASHES,
                label=f"{name}{FROM_THE_PAPER}",
            )
    if curve and len(places):
        axes.set_xlim(places.min() - 0.5, places.max() + 0.5)
    elif len(places):
        axes.set_xlim(places.max() + 1, places.min() - 1)
        axes.set_xticks(places, [f"{step:g}" for step in places])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frame" if curve else "swap step λ", fontsize=LABEL, color=INK)
    axes.set_ylabel(f"{measure} to neutral", fontsize=LABEL, color=INK)
    legend_beside(axes)
    return figure
