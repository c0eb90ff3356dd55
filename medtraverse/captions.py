"""Captions of the paper's fine-tuning sets; `medtraverse.data_sets` reads the sets.

TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623: CheXpert films are described by those of eight labels
that are certain, ISIC 2019 images by diagnosis and artefacts. Model prompts for sampling differ from these
on purpose; see `prompts`.
"""

from collections.abc import Iterable

NORMAL = "Normal chest X-ray with no significant findings"
CHEXPERT_LABELS = (
    "No Finding",
    "Cardiomegaly",
    "Lung Opacity",
    "Edema",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
ISIC_ARTEFACTS = ("dark corner", "hair", "gel border", "gel bubble", "ruler", "ink", "patches")
DIAGNOSES = {
    "MEL": "a dermoscopic image with melanoma (MEL)",
    "NV": "a dermoscopic image with melanocytic nevus (NV)",
}

# As CheXpert, the authors' tables and pandas write them, in small letters; anything else goes through
# float().
STATES: dict[str, int | None] = {"1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}
STATES |= {"true": 1, "false": 0}
STATES |= dict.fromkeys(("", "nan", "na", "n/a", "<na>", "none", "null"))


def chexpert_caption(present: Iterable[str]) -> str:
    """Return the paper's caption of a chest film (section 3 of TehraniNasab, Kumar, Arbel 2025).

    Parameters
    ----------
    present : iterable of str
        Labels that are 1. Those outside `CHEXPERT_LABELS` (Atelectasis, Fracture, ...) change nothing.

    Returns
    -------
    str
        The labels in the order of `CHEXPERT_LABELS`, or the neutral sentence where there are none.
    """
    present = set(present)
    names = [name for name in CHEXPERT_LABELS if name in present]
    return f"Chest X-ray showing {', '.join(names)}" if names else NORMAL


def isic_caption(diagnosis: str, present: Iterable[str]) -> str:
    """Return the paper's caption of a lesion (section 3 of TehraniNasab, Kumar, Arbel 2025).

    Parameters
    ----------
    diagnosis : {"MEL", "NV"}
    present : iterable of str
        Artefacts that are there, of `ISIC_ARTEFACTS`.

    Returns
    -------
    str
        The diagnosis, then the artefacts in the order of `ISIC_ARTEFACTS`.

    Raises
    ------
    ValueError
        Another diagnosis, for which the paper has no sentence, or an unknown artefact.
    """
    if diagnosis not in DIAGNOSES:
        raise ValueError(f"diagnosis: {diagnosis!r} has no sentence; give {' or '.join(DIAGNOSES)}.")
    present = set(present)
    if unknown := sorted(present - set(ISIC_ARTEFACTS)):
        raise ValueError(f"artefact: {unknown[0]!r} is unknown; give one of {', '.join(ISIC_ARTEFACTS)}.")
    names = [name for name in ISIC_ARTEFACTS if name in present]
    return f"{DIAGNOSES[diagnosis]} {'showing ' + ', '.join(names) if names else 'with no visible artifacts'}"
