"""Doubts about a classifier, from what it says of the first images.

The commonest trouble with somebody's classifier is no error but a wrong input range or size: every image is
then classified alike, or a normal film is always positive. CFRT does not show it, so it is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Below this spread over images that differ, an output does not look at them.
LEAST_SPREAD = 1e-4
# Below this, and as near to 1, a classifier is certain.
CERTAIN = 0.01
# A finding in more than this share of neutral images is not what a neutral prompt draws.
MOST_NEUTRALS = 0.5
# An image is blurred beyond use when it is enlarged by more than this.
MOST_ENLARGED = 2.0


def classifier_doubts(
    labels: Sequence[str],
    probabilities: np.ndarray,
    neutral: np.ndarray,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    threshold: float = 0.5,
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
    if min(input_size) > MOST_ENLARGED * min(image_size):
        doubts.append(
            f"classifier: it takes {input_size[1]} × {input_size[0]} pixels and the images have "
            f"{image_size[1]} × {image_size[0]}; fine findings cannot be there. Use larger images or a "
            "classifier of that size."
        )
    return doubts
