"""The white sheet that all figures are drawn on: sizes of type, greys, and the footer that none may lack."""

from collections.abc import Iterable, Sized
from textwrap import wrap
from typing import TYPE_CHECKING

from ..notice import NOTICE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, LABEL, SMALL = 18, 14, 12
INK, MUTED, HAIRLINE = "#1A1A1A", "#666666", "#D9D9D9"
NEUTRAL = "#000000"
# how the paper's values are drawn, and the end of their label
DASHES, FROM_THE_PAPER = (0, (4, 2.5)), ", from the paper"

# inches kept free for the title and the footer
HEADER, FOOTER = 0.6, 0.42


def sheet(width: float, height: float, title: str = "", note: str = "") -> "Figure":
    """Return an empty figure with title, footer and an optional note right of the footer.

    Leave the top `HEADER` (if there is a title) and the bottom `FOOTER` inches free.

    Parameters
    ----------
    width, height : float
        Inches.
    title, note : str
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    edge = 0.18 / width
    if title:
        figure.text(edge, 1 - 0.16 / height, title, fontsize=TITLE, fontweight="bold", color=INK, va="top")
    figure.text(edge, 0.14 / height, NOTICE, fontsize=SMALL, color=MUTED, va="bottom")
    if note:
        figure.text(1 - edge, 0.14 / height, note, fontsize=SMALL, color=MUTED, va="bottom", ha="right")
    return figure


def axes_in(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Add axes to a figure.

    Parameters
    ----------
    figure : matplotlib Figure
    left, bottom, width, height : float
        Inches, from the lower left corner.
    """
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def clear_frame(axes: "Axes") -> None:
    """Leave only the left and lower spine, in grey, and quiet ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=LABEL - 2, color=MUTED, labelcolor=INK)


def line_sheet(title: str, note: str, names: Iterable[str]) -> "tuple[Figure, Axes]":
    """Return a figure and its axes for lines against the swap step.

    Parameters
    ----------
    title, note : str
        As of `sheet`.
    names : iterable of str
        Of the lines. The figure is as high as the legend that `legend_beside` puts on the right.
    """
    width, legend = 11.6, 2.6
    lines = sum(len(_wrapped(name)) for name in names) + 2
    height = max(6.0, FOOTER + HEADER + 0.85 + 0.27 * lines)
    figure = sheet(width, height, title, note)
    axes = axes_in(figure, 0.95, FOOTER + 0.75, width - legend - 1.2, height - FOOTER - HEADER - 0.85)
    clear_frame(axes)
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def legend_beside(axes: "Axes") -> None:
    """Put the legend right of the axes, where it covers no line.

    Lines labelled `FROM_THE_PAPER` share one entry.
    """
    from matplotlib.lines import Line2D

    entries = list(zip(*axes.get_legend_handles_labels()))
    shown = [(line, "\n".join(_wrapped(name))) for line, name in entries if not name.endswith(FROM_THE_PAPER)]
    if len(shown) < len(entries):
        shown.append(
            (Line2D([], [], color=MUTED, linewidth=1.8, linestyle=DASHES), "from the paper\n(real data)")
        )
    axes.legend(
        *zip(*shown),
        fontsize=LABEL - 1,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        borderaxespad=0,
        handlelength=2.4,
        labelspacing=0.35,
        labelcolor=INK,
    )


def _wrapped(name: str) -> list[str]:
    return wrap(name, 18) or [""]


def hyphenated(text: str, most: int) -> list[str]:
    """Return the words of a text; one of more than `most` letters in two halves, the first with a hyphen."""
    parts: list[str] = []
    for word in text.split():
        half = -(-len(word) // 2)
        parts += [word] if len(word) <= most else [f"{word[:half]}-", word[half:]]
    return parts


def check_colours(colours: Iterable[str], attributes: Sized) -> list[str]:
    """Return the colours as a list.

    Parameters
    ----------
    colours : iterable of str
        One per attribute, as matplotlib reads them.
    attributes : sized

    Raises
    ------
    ValueError
        They are too few or too many, or one is no colour.
    """
    from matplotlib.colors import is_color_like

    colours = list(colours)
    if len(colours) != len(attributes):
        raise ValueError(
            f"colours: {len(colours)} are given for {len(attributes)} attributes; give one per attribute."
        )
    wrong = [colour for colour in colours if not is_color_like(colour)]
    if wrong:
        raise ValueError(f"colours: {wrong[0]!r} is no colour; write #RRGGBB.")
    return colours
