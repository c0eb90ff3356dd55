"""From a matplotlib figure to ComfyUI's IMAGE, and the output that can be saved."""

import torch

from ..medtraverse.figures.drawing import Drawing
from ..medtraverse.figures.render import to_image

DRAWING = "The figure with its numbers and settings, for Save Figure."


def drawing(figure, table, *trajectories, **settings):
    """Return the Drawing of a figure made from trajectories, one's settings plain, several's as a list."""
    made = [trajectory.settings for trajectory in trajectories]
    return Drawing(figure, table, {**(made[0] if len(made) == 1 else {"trajectories": made}), **settings})


def figure_image(figure, dpi=100):
    """Return the figure as IMAGE [1, H, W, 3]."""
    return torch.from_numpy(to_image(figure, dpi))[None]
