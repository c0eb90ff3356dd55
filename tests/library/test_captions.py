"""Captions by the paper's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.captions import (
    CHEXPERT_LABELS,
    DIAGNOSES,
    ISIC_ARTEFACTS,
    NORMAL,
    chexpert_caption,
    isic_caption,
)


@pytest.mark.parametrize(
    ("labels", "caption"),
    [
        ([], NORMAL),
        (["No Finding"], "Chest X-ray showing No Finding"),
        (["Support Devices", "Pleural Effusion"], "Chest X-ray showing Pleural Effusion, Support Devices"),
        (["Atelectasis", "Fracture"], NORMAL),  # labels that the paper does not use
        (
            ["Pneumothorax", "Pneumonia", "Lung Opacity", "Cardiomegaly"],
            "Chest X-ray showing Cardiomegaly, Lung Opacity, Pneumonia, Pneumothorax",
        ),
    ],
)
def test_chexpert_rules(labels, caption):
    assert chexpert_caption(labels) == caption


@pytest.mark.parametrize(
    ("diagnosis", "artefacts", "caption"),
    [
        ("MEL", [], "a dermoscopic image with melanoma (MEL) with no visible artifacts"),
        (
            "NV",
            ["ruler", "dark corner"],
            "a dermoscopic image with melanocytic nevus (NV) showing dark corner, ruler",
        ),
        (
            "MEL",
            ["patches", "ink", "gel bubble", "gel border", "hair"],
            "a dermoscopic image with melanoma (MEL) showing hair, gel border, gel bubble, ink, patches",
        ),
    ],
)
def test_isic_rules(diagnosis, artefacts, caption):
    assert isic_caption(diagnosis, artefacts) == caption


@given(present=st.sets(st.sampled_from(ISIC_ARTEFACTS)), diagnosis=st.sampled_from(sorted(DIAGNOSES)))
def test_a_caption_tells_what_is_present(present, diagnosis):
    caption = isic_caption(diagnosis, present)
    assert caption.startswith(DIAGNOSES[diagnosis])
    shown = caption.removeprefix(DIAGNOSES[diagnosis] + " showing ")
    assert (
        shown.split(", ") == [name for name in ISIC_ARTEFACTS if name in present]
        if present
        else caption.endswith("with no visible artifacts")
    )


@given(present=st.sets(st.sampled_from(CHEXPERT_LABELS)))
def test_chexpert_captions_are_distinct_and_ordered(present):
    caption = chexpert_caption(present)
    assert (
        caption == NORMAL
        if not present
        else caption.removeprefix("Chest X-ray showing ").split(", ")
        == [n for n in CHEXPERT_LABELS if n in present]
    )


def test_what_the_paper_has_no_words_for_is_named():
    with pytest.raises(ValueError, match="diagnosis: 'BCC' "):
        isic_caption("BCC", ())
    with pytest.raises(ValueError, match="artefact: 'glare' is unknown"):
        isic_caption("NV", ["glare"])
