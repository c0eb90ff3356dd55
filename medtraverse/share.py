"""Swap steps as shares of the denoising steps, which keep their meaning when the steps change."""

from decimal import ROUND_HALF_UP, Decimal


def share_of(percent: str | int, steps: int) -> int:
    """Return the step that a share of the steps, in percent, stands for: the nearest, a half rounded up."""
    return int((Decimal(percent) * steps / 100).to_integral_value(ROUND_HALF_UP))
