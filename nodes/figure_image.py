"""From a matplotlib figure to ComfyUI's IMAGE."""

import torch

from ..medtraverse.figures.render import to_image


def figure_image(figure, dpi=100):
    """Return the figure as IMAGE [1, H, W, 3]."""
    return torch.from_numpy(to_image(figure, dpi))[None]
