"""Doubts about a classifier, from what it says of the first images.

The commonest trouble with somebody's classifier is no error but a wrong input range or size: every image is
then classified alike, or a normal film is always positive. CFRT does not show it, so it is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from .judge import Judge, Library

# Below this spread over images that differ, an output does not look at them.
LEAST_SPREAD = 1e-4
# Below this, and as near to 1, a classifier is certain.
CERTAIN = 0.01
# A finding in more than this share of neutral images is not what a neutral prompt draws.
MOST_NEUTRALS = 0.5
# An image is blurred beyond use when it is enlarged by more than this.
MOST_ENLARGED = 2.0
# No usual normalisation makes white and black lie nearer than this, or leads further from 0 than that.
LEAST_RANGE, MOST_RANGE = 0.1, 20.0
# Images whose channels differ by more than this, on average, have colour.
GREY = 0.02


def check_input(judge: Judge, name: str) -> list[str]:
    """Check what a classifier's own preprocessing makes of black and of white.

    Parameters
    ----------
    judge : Judge
    name : str
        Of its file, for messages.

    Returns
    -------
    list of str
        One sentence a doubt: the range of the input is none that networks are trained with.

    Raises
    ------
    ValueError
        The preprocessing gives another number of channels than the network takes.
    """
    height, width = judge.input_size
    black_and_white = torch.stack([torch.zeros(height, width, 3), torch.ones(height, width, 3)])
    inputs = judge.prepare(black_and_white)
    channels = channels_of(judge)
    if inputs.ndim == 4 and channels not in (None, inputs.shape[1]):
        raise ValueError(
            f"classifier: {name} takes {channels} channels and its preprocessing gives {inputs.shape[1]}; "
            "copy the preprocessing of the model that it was trained from."
        )
    low, high = inputs.min().item(), inputs.max().item()
    if not isinstance(judge.preprocess, Library):
        return []  # the paper's, or what the user wrote
    if high - low < LEAST_RANGE:
        fault = f"black and white differ by {high - low:.2g} only, as if the images were rescaled twice"
    elif max(-low, high) > MOST_RANGE:
        fault = f"its input reaches from {low:.4g} to {high:.4g}, as if the images were not rescaled"
    else:
        return []
    return [
        f"classifier: {name}: by its own preprocessing {fault}; check do_rescale, rescale_factor and "
        "do_normalize, or mean and std, in its files."
    ]


def channels_of(judge: Judge) -> int | None:
    """Return how many channels a classifier's network takes; None where its first layer does not show it."""
    first = next((module for module in judge.network.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def has_colour(images: torch.Tensor) -> bool:
    """Whether images [N, H, W, 3] are more than shades of grey."""
    return bool((images.amax(-1) - images.amin(-1)).mean() > GREY)


def classifier_doubts(
    labels: Sequence[str],
    probabilities: np.ndarray,
    neutral: np.ndarray,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    threshold: float = 0.5,
    loses_colour: bool = False,
) -> list[str]:
    """Say what is suspicious in a classifier's verdicts.

    Parameters
    ----------
    labels : sequence of str
    probabilities : ndarray [images, labels]
        In 0..1, of images that are not all alike.
    neutral : ndarray of bool [images]
        Which images were drawn under the neutral prompt alone.
    image_size, input_size : tuple of int
        Height and width of the images, and of what the network sees.
    threshold : float
        A label counts as found above it.
    loses_colour : bool
        Whether the images have colour and the network takes one channel.

    Returns
    -------
    list of str
        One sentence a doubt; empty where there is none.
    """
    doubts = []
    probabilities = np.asarray(probabilities, dtype=np.float64)
    neutral = np.asarray(neutral, dtype=bool)
    if len(probabilities) > 1:
        constant = [label for label, column in zip(labels, probabilities.T) if np.ptp(column) < LEAST_SPREAD]
        # A label that is nowhere, or everywhere, may be so; all labels at once are not.
        undecided = [
            label
            for label, column in zip(labels, probabilities.T)
            if label in constant and CERTAIN < column.mean() < 1 - CERTAIN
        ]
        constant = constant if len(constant) == len(labels) else undecided
        if constant:
            doubts.append(
                f"classifier: it says the same of every image for {', '.join(constant)}; check its input "
                "range and normalisation, and that its head was trained."
            )
    # Labels that exclude each other have one for what is normal, which neutral images should have.
    exclusive = len(labels) > 1 and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    if neutral.any() and not exclusive:
        shares = (probabilities[neutral] > threshold).mean(axis=0)
        many = [f"{label} in {share:.0%}" for label, share in zip(labels, shares) if share > MOST_NEUTRALS]
        if many:
            doubts.append(
                f"classifier: it finds {', '.join(many)} of the neutral images; check its input size and "
                "normalisation, its labels' order, and the neutral prompt."
            )
    if loses_colour:
        doubts.append(
            "classifier: it takes one channel and the images have colour, of which it sees the mean; use a "
            "classifier of colour images for what colour tells."
        )
    if min(input_size) > MOST_ENLARGED * min(image_size):
        doubts.append(
            f"classifier: it takes {input_size[1]} × {input_size[0]} pixels and the images have "
            f"{image_size[1]} × {image_size[0]}; fine findings cannot be there. Use larger images or a "
            "classifier of that size."
        )
    return doubts
