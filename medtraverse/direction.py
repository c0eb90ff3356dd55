"""Direction cosines: how far a trajectory bends (Fig. 5; TehraniNasab, Kumar, Arbel
2025, arXiv 2503.23623).
"""

import torch
from torch import Tensor


def direction_cosines(neutral: Tensor, swaps: Tensor) -> Tensor:
    """Cosine between each direction z(lambda) - z(neutral) and the first one, z(45) - z(neutral).

    Differences and sums are float64: in half precision, as the reference takes them, cosines reach 1.001.

    Parameters
    ----------
    neutral : Tensor [P, ...]
        Final latents of the neutral images, one per patient.
    swaps : Tensor [P, L, ...]
        Final latents of the swaps in trajectory order (lambda = 45, 40, ..., 5).

    Returns
    -------
    Tensor [P, L], float64, on the CPU
        In -1..1, the first column exactly 1. NaN where a swap did not move at all, and in the whole row where
        the first one did not: a zero vector has no direction.

    Raises
    ------
    ValueError
        Shapes that do not fit, no swaps, or latents that are not finite.
    """
    if swaps.ndim < 2 or neutral.shape != swaps.shape[:1] + swaps.shape[2:] or swaps.shape[1] < 1:
        raise ValueError(
            f"neutral {list(neutral.shape)} and swaps {list(swaps.shape)} do not fit; expected [P, ...] and "
            "[P, L, ...]"
        )
    directions = (swaps.cpu().double() - neutral.cpu().double()[:, None]).flatten(2)
    if not bool(torch.isfinite(directions).all()):
        raise ValueError("neutral or swaps holds NaN or infinite values; check the latents of the trajectory")
    # by the largest entry first: squares of very short directions would underflow
    directions = directions / directions.abs().amax(dim=2, keepdim=True)
    directions = directions / directions.norm(dim=2, keepdim=True)
    cosines = (directions * directions[:, :1]).sum(dim=2).clamp(-1, 1)
    cosines[:, 0] = torch.where(cosines[:, 0].isnan(), torch.nan, 1.0)
    return cosines
