"""Dermoscopy phantoms: deterministic, and each attribute changes what it should and nothing else."""

import dataclasses

import numpy as np
import pytest

from demo.phantoms.dermoscopy import ARTEFACTS, EDGES, PREVALENCE, DermoscopyFactors, render, sample_factors

NONE = dict.fromkeys(ARTEFACTS, False)
SEEDS = (0, 1, 7, 42)


def plain(seed, **overrides):
    return sample_factors(seed, **(NONE | overrides))


def changed(before, after):
    return np.abs(after.image - before.image).max(-1) > 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_same_seed_same_image(seed):
    first, again = render(sample_factors(seed)), render(sample_factors(seed))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.thin, again.thin)
    assert not np.array_equal(first.image, render(sample_factors(seed + 1)).image)


@pytest.mark.parametrize("size", [96, 128])
def test_shapes_and_ranges(size):
    image, thin = render(sample_factors(3, **dict.fromkeys(ARTEFACTS, True)), size)
    assert image.shape == (size, size, 3) and thin.shape == (size, size)
    assert image.dtype == thin.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1 and thin.min() >= 0 and thin.max() <= 1


def test_an_override_leaves_every_other_factor():
    for name in (*ARTEFACTS, "diagnosis", "hair_count"):
        base = sample_factors(5)
        value = {"diagnosis": "NV" if base.diagnosis == "MEL" else "MEL", "hair_count": 3}.get(
            name, not getattr(base, name)
        )
        other = dataclasses.asdict(sample_factors(5, **{name: value}))
        assert {key for key, was in dataclasses.asdict(base).items() if other[key] != was} == {name}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_is_plain_and_local(seed, name):
    """Seen in at least 2 % of the pixels, and no more than a third: the patient stays."""
    mask = changed(render(plain(seed)), render(plain(seed, **{name: True})))
    assert 0.02 < mask.mean() < 0.34


@pytest.mark.parametrize("seed", SEEDS)
def test_thin_mask_covers_hair_ruler_and_rims_only(seed):
    base = render(plain(seed))
    assert base.thin.max() == 0
    assert render(plain(seed, ink=True, dark_corner=True)).thin.max() == 0
    for name in ("hair", "ruler"):
        drawn = render(plain(seed, **{name: True}))
        assert np.array_equal(changed(base, drawn), changed(base, drawn) & (drawn.thin > 0))
        assert drawn.thin.mean() > 0.02
    rims = render(plain(seed, gel_bubble=True))
    assert rims.image[rims.thin > 0.9].mean() > base.image.mean() + 0.05


@pytest.mark.parametrize("edge", EDGES)
def test_ruler_lies_along_its_edge(edge):
    mask = changed(render(plain(2)), render(plain(2, ruler=True, ruler_edge=edge)))
    strips = {"top": mask[:24], "bottom": mask[-24:], "left": mask[:, :24], "right": mask[:, -24:]}
    assert strips[edge].sum() == mask.sum() > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_dark_corner_darkens_corners_and_spares_the_lesion(seed):
    base, dark = render(plain(seed)), render(plain(seed, dark_corner=True))
    assert dark.image[:6, :6].mean() < 0.15 < base.image[:6, :6].mean()
    assert np.array_equal(dark.image[40:88, 40:88], base.image[40:88, 40:88])


@pytest.mark.parametrize("seed", SEEDS)
def test_ink_is_blue_or_violet_and_beside_the_lesion(seed):
    factors = plain(seed)
    base, inked = render(factors), render(plain(seed, ink=True))
    mask = np.abs(inked.image - base.image).max(-1) > 0.3
    red, green, blue = inked.image[mask].mean(0)
    assert blue > 1.3 * red and blue > 1.3 * green
    rows, columns = np.nonzero(mask)
    away = np.hypot(columns / 128 - factors.lesion_x, rows / 128 - factors.lesion_y)
    assert np.median(away) > factors.lesion_radius


def test_melanoma_has_more_colours_than_a_nevus():
    def spread(seed, diagnosis):
        factors = plain(seed, diagnosis=diagnosis)
        x, y = int(factors.lesion_x * 128), int(factors.lesion_y * 128)
        patch = render(factors).image[y - 14 : y + 14, x - 14 : x + 14]
        return (patch / patch.sum(-1, keepdims=True)).std((0, 1)).sum()

    seeds = range(100, 120)
    assert sum(spread(s, "MEL") > spread(s, "NV") for s in seeds) >= 19


def test_artefacts_are_independent_of_each_other_and_of_the_diagnosis():
    records = [sample_factors(seed) for seed in range(4000)]
    table = np.array(
        [[getattr(r, name) for name in ARTEFACTS] + [r.diagnosis == "MEL"] for r in records], float
    )
    correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 0.07  # about four standard errors
    np.testing.assert_allclose(table.mean(0), [*PREVALENCE.values(), 0.5], atol=0.035)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="overrides: glare is no factor"):
        sample_factors(0, glare=True)
    with pytest.raises(ValueError, match="diagnosis: 'BCC' "):
        sample_factors(0, diagnosis="BCC")
    with pytest.raises(ValueError, match="ruler_edge: 'middle' "):
        sample_factors(0, ruler_edge="middle")
    with pytest.raises(ValueError, match="size: 32 "):
        render(sample_factors(0), 32)
    assert DermoscopyFactors.__dataclass_params__.frozen
