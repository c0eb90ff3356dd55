"""Chest phantoms: deterministic, and each attribute changes what it should and nothing else."""

import dataclasses

import numpy as np
import pytest

from demo.phantoms.chest import ATTRIBUTES, render, sample_factors

NONE = dict.fromkeys(ATTRIBUTES, False)
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
def test_films_are_grey_and_in_range(size):
    image, thin = render(sample_factors(3, **dict.fromkeys(ATTRIBUTES, True)), size)
    assert image.shape == (size, size, 3) and thin.shape == (size, size)
    assert image.dtype == thin.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1 and thin.min() >= 0 and thin.max() <= 1
    assert np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])


def test_an_override_leaves_every_other_factor():
    for name in ATTRIBUTES:
        base = sample_factors(5)
        other = dataclasses.asdict(sample_factors(5, **{name: not getattr(base, name)}))
        assert {key for key, was in dataclasses.asdict(base).items() if other[key] != was} == {name}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_plain_and_local(seed, name):
    """It changes at least 1 % of the pixels and no more than a third: the patient stays."""
    mask = changed(render(plain(seed)), render(plain(seed, **{name: True})))
    assert 0.01 < mask.mean() < 0.34


@pytest.mark.parametrize("seed", SEEDS)
def test_an_effusion_whitens_the_lower_half_only(seed):
    before, after = render(plain(seed)), render(plain(seed, pleural_effusion=True))
    rows, _ = np.nonzero(changed(before, after))
    assert np.median(rows) > 64
    assert (after.image - before.image)[changed(before, after)].mean() > 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_devices_are_bright_and_in_the_thin_mask(seed):
    before, after = render(plain(seed)), render(plain(seed, support_devices=True))
    drawn = after.thin - before.thin > 0.5
    assert drawn.any()
    assert after.image[drawn].mean() > before.image[drawn].mean()


def test_factors_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="overrides: hairs is no factor"):
        sample_factors(0, hairs=True)
    with pytest.raises(ValueError, match="seed: -1 "):
        sample_factors(-1)
