"""What of a data set is used, and how: uncertain labels, views, the held-out split, captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .listing import FRONTAL, LATERAL, TRAIN, VALIDATION, Listing, existing

if TYPE_CHECKING:
    import pandas

UNNAMED = "nothing that a caption names"
UNCERTAIN = ("ignore", "positive", "drop")
VIEWS = (FRONTAL, LATERAL, "all")
BLANKS = ("unknown", "negative")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with captions and labels.

    Attributes
    ----------
    layout : str
        One of `LAYOUTS`.
    root : Path
        Images are ``root / frame.file``.
    frame : DataFrame
        A row an image that is to be used and is there, in the tables' order: ``file``, ``caption``,
        ``patient`` (or lesion; "" where unknown), ``split`` (``train``, ``validation`` or ``test``),
        ``view`` (``frontal``, ``lateral``, ``other`` or ""), ``place`` (``train.csv: line 7``),
        ``projection`` (AP, PA … as the set has it), ``sex`` and ``age`` (years, NaN where unknown).
    labels : DataFrame
        Same index, a float32 column a label: 1, 0, NaN (blank, or uncertain under ``ignore``).
    left_out : dict of str to int
        Rows that are not used, by reason.
    rule : str
        How captions came to be, in one line.
    domain : str, optional
        Name of the pack's domain (a key of `medtraverse.domain.load_domains`) that has these prompts.
    neutrals, attributes : dict of str to str
        Prompts in the words of the captions, by name, for a domain file; ``{neutral}`` stands for a neutral
        prompt. Empty where captions are free text.
    policies : dict
        What `read` was told, JSON-serialisable.
    states : DataFrame
        Same index and columns as `labels`: 1, 0, -1 (uncertain) and NaN (blank), as the tables have them.
    """

    layout: str
    root: Path
    frame: pandas.DataFrame
    labels: pandas.DataFrame
    left_out: dict[str, int]
    rule: str
    domain: str | None = None
    neutrals: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    states: pandas.DataFrame | None = None


def data_set(
    listing: Listing,
    uncertain: str,
    views: str,
    held_out: float,
    seed: int,
    blank: str = "unknown",
) -> DataSet:
    """Apply the policies of `medtraverse.data_sets.read`, which says what they are, to a listing.

    Rows that are left out get their reason written into ``listing.rows``, and all rows their split.
    """
    for name, value, choices in (
        ("uncertain", uncertain, UNCERTAIN),
        ("views", views, VIEWS),
        ("blank", blank, BLANKS),
    ):
        if value not in choices:
            raise ValueError(f"{name}: there is no {value!r}; the choices are {', '.join(choices)}.")
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out: {held_out} is out of range; give a share of 0 to below 1.")
    rows, states = listing.rows, listing.states
    if listing.settled is None:
        rows["split"] = splits(rows, held_out, seed)
    else:
        rows["split"] = rows.split.replace("", TRAIN)
    # a table with no word about views has none
    if listing.settled is None and views != "all" and (rows.view != "").any():
        unwanted = (rows.view != views) & (rows.reason == "")
        rows.loc[unwanted, "reason"] = (
            rows.view[unwanted].replace("", "view unknown").replace("other", "other view")
        )
    spoken = [name for name in listing.spoken if name in states]
    if uncertain == "drop":
        rows.loc[(states[spoken] == -1).any(axis=1) & (rows.reason == ""), "reason"] = "uncertain"
    if listing.normal is not None:
        present = (states == 1) | (states == (-1 if uncertain == "positive" else 1))
        named = present[[*spoken, listing.normal]].any(axis=1)
        rows.loc[~named & (rows.reason == ""), "reason"] = UNNAMED
    candidates = np.flatnonzero(rows.reason == "")
    there = existing(listing.root, list(rows.file.iloc[candidates]))
    rows.loc[rows.index[candidates[~there]], "reason"] = "missing"

    used = (rows.reason == "").to_numpy()
    raw = states[used].reset_index(drop=True).astype(np.float32)
    labels = raw.where(raw != -1, 1 if uncertain == "positive" else np.nan).astype(np.float32)
    if blank == "negative":
        labels = labels.where(raw.notna(), 0).astype(np.float32)
    frame = rows[used].reset_index(drop=True)
    if listing.caption is not None:
        frame["caption"] = captions(listing, labels[spoken])
    columns = ["file", "caption", "patient", "split", "view", "place", "projection", "sex", "age"]
    reasons = rows.reason[~used].value_counts()
    return DataSet(
        listing.layout,
        listing.root,
        frame[columns],
        labels,
        {str(reason): int(count) for reason, count in reasons.items()},
        listing.rule,
        listing.domain,
        listing.neutrals,
        listing.attributes,
        {
            "uncertain": uncertain,
            "views": views,
            "held_out": held_out,
            "seed": seed,
            "blank": blank,
        }
        | (listing.settled or {}),
        raw,
    )


def captions(listing: Listing, labels: pandas.DataFrame) -> np.ndarray:
    """Return the caption of each row; sentences are made once for each set of labels."""
    present = (labels == 1).to_numpy()
    kinds, which = np.unique(present, axis=0, return_inverse=True)
    assert listing.caption is not None
    names = list(labels.columns)
    sentences = [listing.caption([name for name, there in zip(names, kind) if there]) for kind in kinds]
    return np.asarray(sentences, object)[np.asarray(which).reshape(-1)]


def splits(rows: pandas.DataFrame, held_out: float, seed: int) -> pandas.Series:
    """Return each row's split: the set's own, and held-out patients where it has no validation.

    All images of a patient go together. The patients whose hash comes first are held out, so neither the
    order of the table nor what becomes of other rows moves one.

    Parameters
    ----------
    rows : DataFrame
        With ``file``, ``patient`` and ``split``, "" where the set has none.
    held_out : float
        Share of the patients; one at least, where there are two or more.
    seed : int
    """
    split = rows.split.replace("", TRAIN)
    if not held_out or (split == VALIDATION).any():
        return split
    training = split == TRAIN
    keys = rows.patient.where(rows.patient != "", rows.file)[training]
    patients = first_by_hash(list(keys.unique()), seed)
    count = max(1, round(held_out * len(patients))) if len(patients) > 1 else 0
    return split.mask(
        training & keys.isin(patients[:count]).reindex(rows.index, fill_value=False), VALIDATION
    )


def first_by_hash(names: Sequence[str], seed: int) -> list[str]:
    """Return names in an order that depends on each name and the seed alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
