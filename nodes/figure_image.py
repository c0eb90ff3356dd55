"""From a matplotlib figure to ComfyUI's IMAGE, and to the drawing that Save Figure takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..medtraverse.digest import versions
from ..medtraverse.figures.drawing import Drawing
from ..medtraverse.figures.render import to_image
from ..medtraverse.trajectory import Trajectory
from .managed import cancellable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_image(figure: "Figure", dpi: float = 100) -> torch.Tensor:
    """Return the figure as IMAGE [1, H, W, 3]; drawing it can be cancelled."""
    return torch.from_numpy(cancellable(lambda _: to_image(figure, dpi)))[None]


def drawing(
    node: str, figure: "Figure", table: str, trajectories: Sequence[Trajectory], **settings: Any
) -> Drawing:
    """Return a node's Drawing: matplotlib figure, CSV, and as settings the node's id and own ones,
    versions and the trajectories.

    A file of weights that the node used goes into ``settings`` as ``{"name": …, "sha256": …}``.
    """
    return Drawing(
        figure,
        table,
        {
            "node": node,
            **settings,
            "versions": versions(),
            "trajectories": [item.describe() for item in trajectories],
        },
    )
