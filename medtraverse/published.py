"""The paper's own numbers, shown beside new ones (TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def published() -> dict[str, Any]:
    """Everything in `published.json`: CFRT, direction cosines, LPIPS, and what they were measured on.

    It is one object for all: do not change it.
    """
    record: dict[str, Any] = json.loads(
        Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    )
    return record


def published_cfrt(kind: str, domain: str, neutral: str) -> dict[str, float]:
    """Return the paper's CFRT per attribute.

    Parameters
    ----------
    kind : {"swap", "curve"}
    domain, neutral : str
        Names of a domain and of its neutral prompt.

    Returns
    -------
    dict of str to float
        In 0..1; empty where the paper has none.
    """
    values: dict[str, float] = published()["cfrt"].get(kind, {}).get(domain, {}).get(neutral, {})
    return values


def published_curve(measure: str, domain: str, neutral: str) -> dict[str, dict[int, float]]:
    """Return the paper's means per attribute and swap step.

    Parameters
    ----------
    measure : {"direction cosine", "lpips to neutral"}
        Of Fig. 5, or of the distance to the neutral image.
    domain, neutral : str
        Names of a domain and of its neutral prompt.

    Returns
    -------
    dict of str to dict of int to float
        Empty where the paper has none.

    Raises
    ------
    ValueError
        Another measure.
    """
    if measure not in ("direction cosine", "lpips to neutral"):
        raise ValueError(f"measure: {measure!r} is unknown; choose direction cosine or lpips to neutral.")
    steps = published()["swap steps"]
    values = published()[measure].get(domain, {}).get(neutral, {})
    return {attribute: dict(zip(steps, row, strict=True)) for attribute, row in values.items()}
