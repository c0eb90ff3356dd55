"""How sure a study of n patients will be: the width of Wilson's interval to expect."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..proportion import wilson


def expected_width(patients: int, share: float) -> float:
    """Expected width of the 95 % Wilson interval of a share.

    The mean of the width over the binomial distribution of successes; above 10,000 patients the width at the
    expected number of them, from which the mean then differs by less than a ten thousandth.

    Parameters
    ----------
    patients : int
        1 or more.
    share : float
        The true one, in 0..1.

    Returns
    -------
    float
        In 0..1.

    Raises
    ------
    ValueError
        No patient, or no share.
    """
    if patients < 1 or not 0 <= share <= 1:
        raise ValueError(
            f"power: {patients} patients and a share of {share:g} say nothing; give 1 patient or more and a "
            "share in 0..1."
        )
    if patients > 10_000 or share in (0, 1):
        low, high = wilson(round(share * patients), patients)
        return high - low
    counts = np.arange(patients + 1)
    # log of the binomial coefficients by a running sum, which neither overflows nor needs scipy
    logs = np.concatenate([[0.0], np.cumsum(np.log((patients - counts[:-1]) / (counts[:-1] + 1)))])
    weights = np.exp(logs + counts * np.log(share) + (patients - counts) * np.log1p(-share))
    ends = np.array([wilson(int(count), patients) for count in counts])
    return float(weights @ (ends[:, 1] - ends[:, 0]) / weights.sum())


def power_text(
    patients: int, published: Mapping[str, float] | None = None, widths: Sequence[float] = ()
) -> str:
    """Say in a line or a few how sure a study will be, before it runs.

    Parameters
    ----------
    patients : int
    published : mapping of attribute to float, optional
        The paper's CFRT, to expect the same.
    widths : sequence of float
        Wanted widths, for each of which the number of patients is said that half and half would need.
    """
    worst = f"{patients} patients: the 95 % interval will be {expected_width(patients, 0.5):.3f} wide at most"
    known = "; ".join(
        f"{expected_width(patients, share):.3f} for {name}, if its CFRT is the paper's {share:.3f}"
        for name, share in (published or {}).items()
    )
    lines = [f"{worst}{f' ({known})' if known else ''}."]
    for width in widths:
        lines.append(f"A width of {width:g} takes at most {patients_for(width)} patients.")
    return "\n".join(lines)


def patients_for(width: float) -> int:
    """Return the least number of patients with which an interval is no wider, whatever the share.

    Raises ValueError for a width that is none.
    """
    if not 0 < width < 1:
        raise ValueError(f"interval_width: it is {width:g}; give one between 0 and 1, such as 0.05.")
    low, high = 1, 2
    while _widest(high) > width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _widest(middle) > width else (low, middle)
    return high


def _widest(patients: int) -> float:
    low, high = wilson(patients // 2, patients)
    return high - low
