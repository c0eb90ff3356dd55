"""The paper's own numbers (TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623), to be
shown beside new ones.
"""

import json
from functools import cache
from pathlib import Path


@cache
def published() -> dict:
    """Everything in `published.json`: CFRT, direction cosines, LPIPS, and what they were
    measured on. Do not change it.
    """
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def published_cfrt(kind: str, domain: str, neutral: str) -> dict:
    """Published CFRT per attribute for "swap" or "curve"; empty where the paper has none."""
    return published()["cfrt"].get(kind, {}).get(domain, {}).get(neutral, {})


def published_curve(measure: str, domain: str, neutral: str) -> dict:
    """Published means per attribute as {attribute: {swap step: value}}; empty where the paper has none.

    `measure` is "direction cosine" (Fig. 5) or "lpips to neutral"; anything else raises ValueError.
    """
    if measure not in ("direction cosine", "lpips to neutral"):
        raise ValueError(f"measure is {measure!r}; published are: direction cosine, lpips to neutral")
    steps = published()["swap steps"]
    values = published()[measure].get(domain, {}).get(neutral, {})
    return {attribute: dict(zip(steps, row, strict=True)) for attribute, row in values.items()}
