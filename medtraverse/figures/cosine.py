"""Direction cosine against the swap step (Fig. 5; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

import warnings
from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np

from .sheet import FOOTER, HEADER, HAIRLINE, INK, LABEL, MUTED, axes_in, check_colours, clear_frame, sheet

# inches; LINE is one line of the legend
WIDTH, HEIGHT, LEGEND, LINE = 11.6, 6.0, 2.6, 0.27


def cosine_figure(cosines, swap_steps: Sequence[int], attributes: Sequence[str], colours: Sequence[str],
                  published: Mapping[str, Mapping[int, float]] | None = None, title: str = "Direction cosine"):  # fmt: skip
    """Mean over patients per attribute, with a band of one standard deviation.

    Parameters
    ----------
    cosines : array or tensor [A, P, L]
        `medtraverse.direction.direction_cosines` of each attribute. NaN (a swap that did not move) is left out.
    swap_steps : sequence of int, L
        In trajectory order: 45, 40, ..., 5.
    attributes, colours : sequences, A
    published : mapping of attribute to {swap step: mean}, optional
        `medtraverse.published.published_curve("direction cosine", ...)`, drawn dashed in the attribute's colour and
        named as from the paper. Attributes that are not in the figure are left out.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Names, colours or swap steps that are not as many as the cosines have.
    """
    from matplotlib.lines import Line2D

    cosines = np.asarray(cosines, dtype=np.float64)
    if cosines.ndim != 3 or cosines.shape[::2] != (len(attributes), len(swap_steps)) or not cosines.size:
        raise ValueError(
            f"cosines has shape {list(cosines.shape)}; expected [attributes, patients, swap steps] with "
            f"{len(attributes)} attributes and {len(swap_steps)} swap steps"
        )
    colours = check_colours(colours, attributes)
    steps = np.asarray(swap_steps, dtype=float)
    with warnings.catch_warnings():
        # a column without any direction has no mean: its NaN leaves a gap in the line
        warnings.simplefilter("ignore", RuntimeWarning)
        means, spreads = np.nanmean(cosines, axis=1), np.nanstd(cosines, axis=1)

    patients = cosines.shape[1]
    note = f"mean over {patients} patients, band ± 1 SD" if patients > 1 else "1 patient"
    named = ["\n".join(wrap(name, 18)) for name in attributes]
    drawn = [name for name in attributes if (published or {}).get(name)]
    lines = sum(1 + name.count("\n") for name in named) + 2 * bool(drawn)
    height = max(HEIGHT, FOOTER + HEADER + 0.85 + LINE * lines)
    figure = sheet(WIDTH, height, title, note)
    axes = axes_in(figure, 0.95, FOOTER + 0.75, WIDTH - 1.2 - LEGEND, height - FOOTER - HEADER - 0.85)
    clear_frame(axes)
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    if cosines[np.isfinite(cosines)].size and np.nanmin(means - spreads) < 0:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for name, colour, mean, spread in zip(attributes, colours, means, spreads, strict=True):
        if patients > 1:
            axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=2.6, marker="o", markersize=6, label=name)
        if name in drawn:
            axes.plot(*zip(*published[name].items()), color=colour, linewidth=1.8, linestyle=(0, (4, 2.5)), label=f"{name}, from the paper")
    axes.set_xlim(steps.max() + 1, steps.min() - 1)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.set_ylim(min(0.0, np.nanmin([0.0, *(means - spreads).ravel()]) - 0.03), 1.03)
    axes.set_xlabel("swap step λ", fontsize=LABEL, color=INK)
    axes.set_ylabel("cos(z(λ) − z(neutral), z(%g) − z(neutral))" % steps[0], fontsize=LABEL, color=INK)
    handles = [Line2D([], [], color=colour, linewidth=2.6, marker="o", markersize=6) for colour in colours]
    if drawn:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.8, linestyle=(0, (4, 2.5))))
        named.append("from the paper\n(real data)")
    # beside the lines, which may go anywhere
    axes.legend(handles, named, fontsize=LABEL - 1, frameon=False, loc="upper left",
                bbox_to_anchor=(1.01, 1.02), borderaxespad=0, handlelength=2.4, labelspacing=0.35, labelcolor=INK)  # fmt: skip
    return figure
