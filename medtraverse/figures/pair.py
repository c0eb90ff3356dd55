"""Images before and after, and where they differ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..pixels import to_numpy
from .sheet import FOOTER, INK, LABEL, MUTED, SMALL, axes_in, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

# inches
CELL, GAP, LEFT, HEAD, BAR = 2.2, 0.12, 0.18, 0.5, 0.9
# Differences beyond half of the range are rare; the rest keeps its colours apart. Purple and orange are told
# apart by the colour-blind.
MOST, COLOURS = 0.5, "PuOr"
PAIRS = 24


def difference_colours(before: "np.ndarray | Tensor", after: "np.ndarray | Tensor") -> np.ndarray:
    """Return the signed difference of brightness of image pairs, coloured, float32 [N, H, W, 3].

    Orange is darker, white the same, purple brighter; ±0.5 and beyond have the full colour.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    difference = (to_numpy(after) - to_numpy(before)).mean(axis=-1)
    coloured = colormaps[COLOURS](Normalize(-MOST, MOST)(difference))
    return np.asarray(coloured[..., :3], dtype=np.float32)


def pair_figure(
    before: "np.ndarray | Tensor",
    after: "np.ndarray | Tensor",
    names: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Draw each pair in a row: original, synthetic, and the signed difference of their brightness.

    Parameters
    ----------
    before, after : array or tensor [N, H, W, 3] or [N, H, W, 1]
        In 0..1. The first 24 are drawn.
    names : sequence of str
        Of the pairs; none, or one each.
    title : str

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Shapes that differ, or names that are not as many.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    before, after = to_numpy(before), to_numpy(after)
    if before.shape != after.shape or before.ndim != 4 or not len(before):
        raise ValueError(
            f"before has shape {list(before.shape)}, after {list(after.shape)}; expected twice [N, H, W, 3]"
        )
    if names and len(names) != len(before):
        raise ValueError(f"names has {len(names)} entries for {len(before)} pairs")
    before, after, names = before[:PAIRS], after[:PAIRS], names[:PAIRS]
    rows, (height, width) = len(before), before.shape[1:3]
    cell = CELL / max(height, width)
    across, down = width * cell, height * cell
    top = HEAD + (0.35 if title else 0)
    label = 0.28 if names else 0.0
    total = rows * (down + GAP + label)
    sheet_width = LEFT + 3 * (across + GAP) + BAR
    figure = sheet(max(sheet_width, 5.2), total + top + FOOTER, title)
    scale = Normalize(-MOST, MOST)
    for row in range(rows):
        bottom = FOOTER + total - (row + 1) * (down + GAP + label) + GAP
        difference = (after[row] - before[row]).mean(axis=-1)
        colours = [
            np.clip(np.broadcast_to(image[row], (height, width, 3)), 0, 1) for image in (before, after)
        ]
        for column, shown in enumerate((*colours, difference)):
            axes = axes_in(figure, LEFT + column * (across + GAP), bottom, across, down)
            # of images in colour, the map and its norm are ignored
            axes.imshow(shown, interpolation="nearest", cmap=COLOURS, norm=scale)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(MUTED)
            if row == 0:
                heading = ("original", "synthetic", "difference")[column]
                axes.set_title(heading, fontsize=LABEL, color=INK, pad=5 + 20 * bool(names))
            if names and column == 0:
                axes.text(
                    0, 1.02, names[row], fontsize=SMALL, color=INK, transform=axes.transAxes, va="bottom"
                )
    bar = axes_in(figure, LEFT + 3 * (across + GAP) + 0.02, FOOTER + total - down - label, 0.12, down)
    scale_bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=bar, ticks=[-MOST, 0, MOST])
    scale_bar.ax.set_yticklabels([f"−{MOST:g}", "0", f"+{MOST:g}"], fontsize=SMALL, color=INK)
    return figure
