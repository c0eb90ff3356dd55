import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from medtraverse.distribution import INCEPTION_WEIGHTS, check_sets, distribution_distance, load_inception

needs_torchmetrics = pytest.mark.skipif(not find_spec("torchmetrics"), reason="torchmetrics is not installed")


def normal(seed, count, width=6, scale=1.0):
    return (
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    )


def frechet(a, b):
    """Closed form for Gaussians with the samples' means and covariances."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a.numpy(), b.numpy()))
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))


@needs_torchmetrics
@given(st.integers(0, 2**31), st.integers(10, 60), st.integers(10, 60), st.floats(0.1, 3), st.floats(-3, 3))
@settings(max_examples=20)
def test_fid_is_the_closed_form(seed, count, references, scale, shift):
    a, b = normal(seed, count) @ normal(seed + 1, 6) * scale + shift, normal(seed + 2, references)
    found = distribution_distance(a, b, kid_subsets=1, kid_subset_size=5)
    assert found.fid == pytest.approx(frechet(a, b), rel=1e-6)
    assert (found.images, found.references, found.features) == (count, references, 6)


@needs_torchmetrics
def test_fid_of_many_samples_is_that_of_their_gaussians():
    scales, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, -2.0])
    a, b = normal(0, 100_000, 3) * scales + shift, normal(1, 100_000, 3)
    expected = shift.square().sum() + (scales - 1).square().sum()
    assert distribution_distance(a, b, 1, 10).fid == pytest.approx(expected.item(), rel=0.02)


@needs_torchmetrics
@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_shifting_all_features_moves_fid_by_the_squared_length(seed):
    x, shift = normal(seed, 40), normal(seed + 1, 1)
    assert distribution_distance(x + shift, x, 1, 5).fid == pytest.approx(
        shift.square().sum().item(), rel=1e-6
    )


@needs_torchmetrics
def test_kid_of_whole_sets_is_the_unbiased_estimate_and_says_so():
    a, b = normal(0, 12), normal(1, 12) + 0.5
    kernel = [(x @ y.T / 6 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    expected = sum((k.sum() - k.trace()) / (12 * 11) for k in kernel[:2]) - 2 * kernel[2].mean()
    found = distribution_distance(a, b, 7, 12)
    assert found.kid == pytest.approx(expected.item(), rel=1e-9) and found.kid_sd == pytest.approx(
        0, abs=1e-9
    )
    assert any("every KID subset is the whole set" in warning for warning in found.warnings)


@needs_torchmetrics
def test_kid_of_equal_distributions_is_near_zero_and_more_noise_is_farther():
    x = normal(0, 600)
    same = distribution_distance(normal(1, 600), x, 200, 60)
    assert abs(same.kid) < 0.02 and same.fid < 0.1
    noised = [
        distribution_distance(normal(1, 600) + normal(2, 600, scale=s), x, 200, 60) for s in (0.5, 1.0, 2.0)
    ]
    for name in ("fid", "kid"):
        values = [getattr(each, name) for each in (same, *noised)]
        assert values == sorted(values) and values[1] > 2 * values[0]


@needs_torchmetrics
def test_the_seed_chooses_the_subsets_and_the_random_state_stays():
    a, b = normal(0, 30), normal(1, 30)
    state = torch.random.get_rng_state()
    first, again, other = (distribution_distance(a, b, 5, 10, seed) for seed in (3, 3, 4))
    assert first == again and first.kid != other.kid and first.fid == other.fid
    assert torch.equal(torch.random.get_rng_state(), state)


@needs_torchmetrics
def test_fewer_images_than_features_are_warned_of():
    assert not distribution_distance(normal(0, 9), normal(1, 8), 1, 5).warnings
    few = distribution_distance(normal(0, 9), normal(1, 6), 1, 5)
    assert "fewer images than features (6, 6)" in few.warnings[0]
    text = few.table("classifier x (sha256 ab)")
    assert (
        "classifier x (sha256 ab), 6 an image" in text
        and "Warning: fewer" in text
        and "Not for clinical use" in text
    )


@needs_torchmetrics
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": normal(0, 1)}, "images: 1 given"),
        ({"reference_features": normal(0, 1)}, "reference_images: 1 given"),
        ({"features": normal(0, 20, 5)}, "images: they have 5 features, reference_images 6"),
        ({"features": torch.full((20, 6), torch.nan)}, "images: their features .* not finite"),
        ({"kid_subsets": 0}, "kid_subsets: 0 "),
        ({"kid_subset_size": 1}, "kid_subset_size: 1 is out of range; take 2 to 20"),
        ({"kid_subset_size": 21}, "kid_subset_size: 21 is out of range; take 2 to 20"),
    ],
)
def test_bad_features_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        distribution_distance(
            **{"features": normal(0, 20), "reference_features": normal(1, 30), "kid_subset_size": 5, **change}
        )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((1, 8, 8, 3), (3, 8, 8, 3), "images: 1 given"),
        ((3, 8, 8, 1), (3, 8, 8, 3), r"images: they have shape \[3, 8, 8, 1\]"),
        ((3, 8, 8, 3), (3, 8, 9, 3), "images: they are 8x8, reference_images 8x9"),
    ],
)
def test_sets_that_do_not_go_together_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        check_sets(torch.zeros(a), torch.zeros(b), 1, 2)


@pytest.fixture
def inception_parts(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    pytest.importorskip("torch_fidelity")
    fid = pytest.importorskip("torchmetrics.image.fid")
    return fid, pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


def test_inception_is_never_downloaded(inception_parts, tmp_path):
    with pytest.raises(
        ValueError, match="extractor: Inception needs weights-inception-2015-12-05-6726825d.pth"
    ):
        load_inception([tmp_path])
    (tmp_path / INCEPTION_WEIGHTS).write_bytes(b"half a download")
    with pytest.raises(ValueError, match="does not load as plain weights"):
        load_inception([tmp_path])


def test_inception_reads_its_file_and_is_the_packages_own(inception_parts, tmp_path, monkeypatch):
    """With random numbers in its file: the real one cannot be had offline."""
    fid, source = inception_parts
    with monkeypatch.context() as patch:
        patch.setattr(source, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(source.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        theirs = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"])
    torch.save(theirs.state_dict(), tmp_path / INCEPTION_WEIGHTS)
    images = torch.rand(3, 40, 40, 3)
    found = load_inception([tmp_path]).features(images, batch_size=2)
    with torch.no_grad():
        expected = theirs((images * 255).round().byte().permute(0, 3, 1, 2))
    assert found.shape == (3, 2048) and torch.allclose(found, expected, atol=1e-4)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(
        ValueError, match="extractor: FID and KID need the package torchmetrics; install the extra metrics"
    ):
        distribution_distance(normal(0, 9), normal(1, 9), 1, 5)
