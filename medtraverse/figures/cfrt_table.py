"""CFRT as bars with intervals beside the published values, mean change of every attribute, flip rate.

The tables of TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623.
"""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from ..cfrt import CFRT
from ..flip_rate import FlipRate
from .sheet import (
    FOOTER,
    HAIRLINE,
    HEADER,
    INK,
    LABEL,
    MUTED,
    SMALL,
    axes_in,
    check_colours,
    clear_frame,
    hyphenated,
    sheet,
)

ROW, NAMES, BARS, COLUMN, HEADS = 0.62, 2.3, 4.6, 1.1, 0.75
# of a word at the head of a column: most letters, and inches a letter
LONGEST, LETTER = 13, 0.108
# from the bars to the table of changes; with the published values and without
WITH_PUBLISHED, OURS_ALONE = 2.5, 1.45
# columns of numbers right of the bars, in units of the bars' axis
OURS, PAPERS = 1.04, 1.27
# the flip rate right of the table of changes, in inches: gap before it, and its columns
FLIP_GAP, RATE, FIRST, ALREADY = 0.45, 2.5, 1.25, 1.0


def cfrt_figure(
    results: Mapping[str, CFRT],
    attributes: Sequence[str],
    colours: Sequence[str],
    published: Mapping[str, float] | None = None,
    title: str = "CFRT",
    note: str = "",
    flips: Mapping[str, FlipRate] | None = None,
    kind: str = "swap",
) -> Any:
    """One row per result: CFRT with its 95 % interval, mean change of each probability, flip rate.

    Parameters
    ----------
    results : mapping of row name to CFRT
        In the order of the rows.
    attributes : sequence of str
        Names of the classifier's attributes, in the order of the results' deltas.
    colours : sequence, one per result
    published : mapping of row name to float, optional
        The paper's values (`medtraverse.published.published_cfrt`), drawn as diamonds and written in a column
        of their own, which says that they are from the paper; names without a row are left out.
    flips : mapping of row name to FlipRate, optional
        Written right of the changes; one for every result.
    kind : "swap" or "curve"
        Whether the points of `flips` are swap steps or frames.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        No results, or names and colours that are not as many as the results have.
    """
    if not results:
        raise ValueError("results: there are none; give at least one CFRT.")
    for name, result in results.items():
        if result.deltas.shape[1] != len(attributes):
            raise ValueError(
                f"attributes: {len(attributes)} names are given, but {name!r} has {result.deltas.shape[1]}; "
                "give one name for each."
            )
    colours = check_colours(colours, list(results))
    published = {name: value for name, value in (published or {}).items() if name in results}

    below = 0.95 if published else 0.8
    inner = ROW * len(results)
    gap = WITH_PUBLISHED if published else OURS_ALONE
    changes = _column(attributes) * len(attributes)
    width = NAMES + BARS + gap + changes + 0.35
    if flips:
        width += FLIP_GAP + RATE + FIRST + ALREADY
    figure = sheet(width, HEADER + HEADS + inner + below + FOOTER, title, note)
    bars = axes_in(figure, NAMES, FOOTER + below, BARS, inner)
    _bars(bars, results, colours, published)
    table = axes_in(figure, NAMES + BARS + gap, FOOTER + below, changes, inner)
    _deltas(table, results, attributes)
    if flips:
        left = NAMES + BARS + gap + changes + FLIP_GAP
        beside = axes_in(figure, left, FOOTER + below, RATE + FIRST + ALREADY, inner)
        _flips(beside, [flips[name] for name in results], "λ" if kind == "swap" else "frame")
    return figure


def _bars(
    axes: Any, results: Mapping[str, CFRT], colours: Sequence[str], published: Mapping[str, float]
) -> None:
    clear_frame(axes)
    rows = np.arange(len(results))
    for row, (name, result) in enumerate(results.items()):
        low, high = result.interval
        axes.barh(row, result.cfrt, height=0.56, color=colours[row], alpha=0.85)
        axes.plot(
            [low, high],
            [row, row],
            color=INK,
            linewidth=2,
            solid_capstyle="butt",
            label="95 % interval" if not row else None,
        )
        axes.plot(
            [low, high], [row, row], color=INK, linestyle="none", marker="|", markersize=11, markeredgewidth=2
        )
        if name in published:
            axes.plot(
                published[name],
                row,
                marker="D",
                markersize=9,
                color="white",
                markeredgecolor=INK,
                markeredgewidth=1.8,
                linestyle="none",
                clip_on=False,
                zorder=4,
                label="from the paper (real data, other models)" if name == next(iter(published)) else None,
            )
        axes.text(OURS, row, f"{result.cfrt:.3f}", fontsize=LABEL, fontweight="bold", color=INK, va="bottom")
        axes.text(
            OURS,
            row + 0.06,
            f"{result.successes} of {result.patients}",
            fontsize=SMALL,
            color=MUTED,
            va="top",
        )
        if name in published:
            axes.text(PAPERS, row, f"{published[name]:.3f}", fontsize=LABEL, color=INK, va="center")
    if published:
        for place, head in ((OURS, "here"), (PAPERS, "from the\npaper")):
            axes.annotate(
                head,
                (place, -0.5),
                (0, 10),
                textcoords="offset points",
                fontsize=SMALL,
                color=MUTED,
                va="bottom",
                annotation_clip=False,
            )
    axes.set(xlim=(0, 1), ylim=(len(results) - 0.5, -0.5), xticks=np.linspace(0, 1, 6))
    axes.set_yticks(rows, ["\n".join(wrap(name, 20)) for name in results], fontsize=LABEL)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(
        "share of patients in whom the target rises most", fontsize=LABEL - 1, color=MUTED, loc="left", pad=10
    )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        ncols=2,
        fontsize=SMALL,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.36 / (ROW * len(results))),
        borderaxespad=0,
        labelcolor=INK,
    )


def _deltas(axes: Any, results: Mapping[str, CFRT], attributes: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    means = np.array([result.deltas.mean(axis=0) for result in results.values()])
    axes.imshow(means, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for row, result in enumerate(results.values()):
        for column, value in enumerate(means[row]):
            ink = "white" if abs(value) > 0.5 else INK
            weight = "bold" if column == result.target else "normal"
            axes.text(
                column,
                row,
                _signed(value),
                fontsize=LABEL,
                fontweight=weight,
                color=ink,
                ha="center",
                va="center",
            )
        axes.add_patch(
            Rectangle(
                (result.target - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2, clip_on=False
            )
        )
    heads = ["\n".join(_words(name)) for name in attributes]
    axes.set_xticks(range(len(heads)), heads, fontsize=LABEL - 1)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("mean Δ of probability", fontsize=LABEL - 2, color=MUTED, labelpad=8, loc="left")


def _flips(axes: Any, flips: Sequence[FlipRate], mark: str) -> None:
    """Flip rate with counts and interval, the median first point, and how many were above before."""
    columns = (0.0, RATE, RATE + FIRST)
    heads = ("flip rate", f"median\nfirst {mark}", "already\nabove")
    axes.set(xlim=(0, RATE + FIRST + ALREADY), ylim=(len(flips) - 0.5, -0.5))
    axes.axis("off")
    for place, head in zip(columns, heads):
        axes.annotate(
            head,
            (place, -0.5),
            (0, 10),
            textcoords="offset points",
            fontsize=LABEL - 1,
            color=INK,
            va="bottom",
            annotation_clip=False,
        )
    for row, flip in enumerate(flips):
        rate, counts = "–", "none could flip"
        if flip.able:
            rate = f"{flip.rate:.3f}"
            counts = f"{flip.flipped} of {flip.able}  ({flip.interval[0]:.2f}–{flip.interval[1]:.2f})"
        axes.text(columns[0], row, rate, fontsize=LABEL, fontweight="bold", color=INK, va="bottom")
        axes.text(columns[0], row + 0.06, counts, fontsize=SMALL, color=MUTED, va="top")
        first = "–" if flip.median is None else f"{mark} {flip.median}"
        for place, cell in ((columns[1], first), (columns[2], str(flip.already))):
            axes.text(place, row, cell, fontsize=LABEL, color=INK, va="center")
    thresholds = ", ".join(sorted({f"{flip.threshold:g}" for flip in flips}))
    axes.annotate(
        f"share of patients whose target passes {thresholds},\nof those whose neutral image does not",
        (0, len(flips) - 0.5),
        (0, -10),
        textcoords="offset points",
        fontsize=LABEL - 2,
        color=MUTED,
        va="top",
        annotation_clip=False,
    )


def _words(name: str) -> list[str]:
    return hyphenated(name.replace("_", " "), LONGEST)


def _column(attributes: Sequence[str]) -> float:
    """Width of a column, in inches, that its longest word needs."""
    longest = max((len(word) for name in attributes for word in _words(name)), default=0)
    return max(COLUMN, LETTER * longest)


def _signed(value: float) -> str:
    """Two decimals and the sign, a true minus; what rounds to nothing is +0.00."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")
