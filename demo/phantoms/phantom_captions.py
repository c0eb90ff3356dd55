"""Training captions: the paper's templates, and paraphrases of them.

Paraphrases, because the paper samples with prompts off its template.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from demo.phantoms.chest import ChestFactors
from demo.phantoms.dermoscopy import DermoscopyFactors
from medtraverse.captions import DIAGNOSES, NORMAL, chexpert_caption, isic_caption

# In the order of the labels in CheXpert and in ISIC 2019.
CHEST = {
    "cardiomegaly": "Cardiomegaly",
    "pleural_effusion": "Pleural Effusion",
    "support_devices": "Support Devices",
}
DERMOSCOPY = {
    "dark_corner": "dark corner",
    "hair": "hair",
    "gel_bubble": "gel bubble",
    "ruler": "ruler",
    "ink": "ink",
}
TEMPLATE_SHARE = 0.6

_PLURAL = {
    "dark_corner": "dark corners",
    "hair": "hairs",
    "gel_bubble": "gel bubbles",
    "ruler": "a ruler",
    "ink": "ink",
}
_VISIBLE = {key: f"{name} visible{' on skin' * (key == 'hair')}" for key, name in _PLURAL.items()}


def chest_caption(present: Sequence[str]) -> str:
    """The paper's CheXpert caption for the present attributes, keys of `CHEST`."""
    return chexpert_caption(CHEST[key] for key in present)


def dermoscopy_caption(diagnosis: str, present: Sequence[str]) -> str:
    """The paper's ISIC caption for a diagnosis, MEL or NV, and artefacts, keys of `DERMOSCOPY`."""
    return isic_caption(diagnosis, (DERMOSCOPY[key] for key in present))


def present_attributes(factors: ChestFactors | DermoscopyFactors) -> list[str]:
    """Names of the attributes that a factor record has switched on."""
    names = CHEST if isinstance(factors, ChestFactors) else DERMOSCOPY
    return [key for key in names if getattr(factors, key)]


def training_caption(factors: ChestFactors | DermoscopyFactors, rng: random.Random) -> str:
    """A caption of a phantom: the template in `TEMPLATE_SHARE` of draws, else a paraphrase."""
    present = present_attributes(factors)
    template = rng.random() < TEMPLATE_SHARE
    if isinstance(factors, ChestFactors):
        return chest_caption(present) if template else _chest_paraphrase(present, rng)
    if template:
        return dermoscopy_caption(factors.diagnosis, present)
    return DIAGNOSES[factors.diagnosis] + _dermoscopy_paraphrase(present, rng)


def _joined(names: list[str], rng: random.Random) -> str:
    rng.shuffle(names)
    if len(names) > 1 and rng.random() < 0.4:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return ", ".join(names)


def _chest_paraphrase(present: Sequence[str], rng: random.Random) -> str:
    if not present:
        return rng.choice(
            [
                NORMAL,
                "Normal chest X-ray",
                "Chest X-ray showing No Finding",
                "Chest X-ray with no significant findings",
            ]
        )
    lower = rng.random() < 0.4
    names = _joined([CHEST[key].lower() if lower else CHEST[key] for key in present], rng)
    return rng.choice(["Chest X-ray showing ", "Chest X-ray with "]) + names


def _dermoscopy_paraphrase(present: Sequence[str], rng: random.Random) -> str:
    if not present:
        return rng.choice(["", "", " with no visible artifacts"])
    form = rng.random()
    if form < 0.5:
        return " showing " + _joined([rng.choice((DERMOSCOPY[key], _PLURAL[key])) for key in present], rng)
    if form < 0.8:
        return " with " + _joined([_VISIBLE[key] for key in present], rng)
    # Each attribute in the very words that the paper samples with, one after the other.
    shown = [key for key in present if key not in ("ruler", "hair")]
    seen = [key for key in present if key in ("ruler", "hair")]
    clauses = [" showing " + _joined([_PLURAL[key] for key in shown], rng)] * bool(shown)
    clauses += [" with " + _joined([_VISIBLE[key] for key in seen], rng)] * bool(seen)
    rng.shuffle(clauses)
    return "".join(clauses)
