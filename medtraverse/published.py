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
    """Published CFRT per attribute for "swap" or "curve"; empty where the paper has none."""
    values: dict[str, float] = published()["cfrt"].get(kind, {}).get(domain, {}).get(neutral, {})
    return values


def published_curve(measure: str, domain: str, neutral: str) -> dict[str, dict[int, float]]:
    """Published means per attribute as {attribute: {swap step: value}}; empty where the paper has none.

    `measure` is "direction cosine" (Fig. 5) or "lpips to neutral"; anything else raises ValueError.
    """
    if measure not in ("direction cosine", "lpips to neutral"):
        raise ValueError(f"measure is {measure!r}; choose direction cosine or lpips to neutral.")
    steps = published()["swap steps"]
    values = published()[measure].get(domain, {}).get(neutral, {})
    return {attribute: dict(zip(steps, row, strict=True)) for attribute, row in values.items()}
