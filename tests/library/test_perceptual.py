import hashlib
import importlib
import sys
import types
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtraverse import perceptual
from medtraverse.identity import identity_table
from medtraverse.perceptual import ALEXNET, LPIPS, ST_LPIPS, perceptual_distance

needs_stlpips = pytest.mark.skipif(
    not find_spec("stlpips_pytorch"), reason="stlpips-pytorch is not installed"
)
needs_lpips = pytest.mark.skipif(not find_spec("lpips"), reason="lpips is not installed")


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """A hub cache without files, and no way to fetch any."""

    def refuse(*_, **__):
        raise AssertionError("something was downloaded")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def distance():
    return perceptual_distance("st-lpips")


def images(seed, count=2, side=48):
    return torch.rand(count, side, side + 3, 3, generator=torch.Generator().manual_seed(seed))


def planes(x):
    return x.permute(0, 3, 1, 2)


@needs_stlpips
@pytest.mark.parametrize("side", [32, 45, 128])
def test_st_lpips_is_the_packages_own(distance, side, monkeypatch):
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        if not find_spec(name):  # the package imports both, uses neither and declares neither
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
            monkeypatch.setattr(sys.modules[name], attribute, None, raising=False)
    theirs = importlib.import_module("stlpips_pytorch.stlpips").LPIPS(
        net="alex", variant="shift_tolerant", verbose=False
    )
    a, b = images(1, 2, side), images(2, 2, side)
    with torch.no_grad():
        expected = theirs(planes(a), planes(b), normalize=True).flatten().double()
    assert distance.name == ST_LPIPS and expected.min() > 0.01
    assert torch.allclose(distance.distances(a, b), expected, rtol=1e-5)


@needs_lpips
def test_lpips_is_the_packages_own_on_the_weights_that_it_finds(empty_hub, monkeypatch):
    """With random numbers in AlexNet's file: the real one cannot be had offline."""
    from torchvision.models import alexnet

    empty_hub.mkdir(parents=True)
    torch.save(alexnet().state_dict(), empty_hub / ALEXNET)
    monkeypatch.setattr(
        perceptual, "ALEXNET_SHA256", hashlib.sha256((empty_hub / ALEXNET).read_bytes()).hexdigest()[:8]
    )
    import lpips

    ours, theirs = perceptual_distance("auto"), lpips.LPIPS(net="alex", verbose=False)
    a, b = images(1), images(2)
    with torch.no_grad():
        expected = theirs(planes(a), planes(b), normalize=True).flatten().double()
    assert ours.name == LPIPS
    assert torch.allclose(ours.distances(a, b), expected, rtol=1e-5)


@needs_lpips
def test_weights_that_are_not_alexnets_are_refused(tmp_path):
    (tmp_path / ALEXNET).write_bytes(b"half a download")
    with pytest.raises(ValueError, match="perceptual: .* begins with 7be5be79"):
        perceptual_distance("auto", [tmp_path])


@needs_stlpips
@given(st.integers(0, 2**31))
@settings(max_examples=5)
def test_a_distance_is_symmetric_and_zero_for_equal_images(distance, seed):
    a, b = images(seed), images(seed + 1)
    assert (distance.distances(a, a) == 0).all()
    assert torch.allclose(distance.distances(a, b), distance.distances(b, a))
    assert distance.distances(a, b).dtype == torch.float64 and (distance.distances(a, b) > 0).all()


@needs_stlpips
def test_more_noise_is_farther_and_batches_do_not_matter(distance, monkeypatch):
    a = images(5, 3) * 0.5 + 0.25
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(6))
    far = [distance.distances(a, (a + s * noise).clamp(0, 1)) for s in (0.02, 0.1, 0.3)]
    assert (far[0] < far[1]).all() and (far[1] < far[2]).all()
    whole, done = distance.between(a, images(7, 2)), []
    monkeypatch.setattr(perceptual, "_PIXELS_PER_PASS", 1)
    assert torch.allclose(
        distance.between(a, images(7, 2), progress=lambda *counts: done.append(counts)), whole, rtol=1e-5
    )
    assert whole.shape == (3, 2) and done == [(1, 3), (2, 3), (3, 3)]
    assert torch.allclose(distance.distances(a[:2], images(7, 2)), whole[[0, 1], [0, 1]], rtol=1e-5)


@needs_stlpips
@pytest.mark.parametrize("shared", [True, False])
def test_the_identity_table_takes_it_as_one_more_measure(distance, shared):
    x = images(1, 3 * 2 * 3, 32).unflatten(0, (3, 2, 3))
    if shared:
        x[:, :, 0] = x[:, :1, 0]
    table = identity_table(x, perceptual=distance)
    assert list(table.own) == ["ssim", "mse", "correlation", ST_LPIPS] and table.controls == 2
    assert table.own_patients[ST_LPIPS][:, :, 0].max() < 1e-9 and table.own_patients[ST_LPIPS].shape == (
        3,
        2,
        3,
    )
    pairs = [[distance.distances(x[p, 1, 2:], x[q, 1, :1]).item() for q in range(3)] for p in range(3)]
    assert table.own_patients[ST_LPIPS][:, 1, 2].tolist() == pytest.approx(
        [pairs[p][p] for p in range(3)], rel=1e-5
    )
    expected = [sum(pairs[p][q] for q in range(3) if q != p) / 2 for p in range(3)]
    assert table.other_patients[ST_LPIPS][:, 1, 2].tolist() == pytest.approx(expected, rel=1e-5)
    assert table.other[ST_LPIPS][1, 2].item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_what_is_not_there_is_left_out_or_named(monkeypatch):
    present = find_spec("lpips")
    if present:
        with pytest.raises(ValueError, match=f"perceptual: LPIPS needs {ALEXNET} .* not downloaded"):
            perceptual_distance("lpips")
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert perceptual_distance("auto") is None and perceptual_distance("none") is None
    with pytest.raises(
        ValueError, match="perceptual: the package lpips is not installed; install the extra metrics"
    ):
        perceptual_distance("lpips")
    with pytest.raises(
        ValueError,
        match="perceptual: the package stlpips-pytorch is not installed; install the extra metrics",
    ):
        perceptual_distance("st-lpips")
    with pytest.raises(ValueError, match="perceptual: 'vgg' is unknown; .* auto, none, lpips, st-lpips"):
        perceptual_distance("vgg")


@needs_stlpips
def test_loading_leaves_the_random_state():
    state = torch.random.get_rng_state()
    perceptual_distance("auto")
    assert torch.equal(torch.random.get_rng_state(), state)


@needs_stlpips
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            torch.zeros(1, 31, 40, 3),
            torch.zeros(1, 31, 40, 3),
            "images: they are 31x40; a perceptual distance needs 32",
        ),
        (
            torch.zeros(1, 40, 40, 1),
            torch.zeros(1, 40, 40, 1),
            r"images: they have shape .* give \[N, H, W, 3\]",
        ),
        (
            torch.zeros(1, 40, 40, 3),
            torch.full((1, 40, 40, 3), 2.0),
            "references: they run from 2 to 2; give values in 0…1",
        ),
        (torch.zeros(1, 40, 40, 3), torch.full((1, 40, 40, 3), torch.nan), "references: they run from nan"),
        (torch.zeros(1, 40, 40, 3), torch.zeros(2, 40, 40, 3), "references: .* is not the shape of images"),
    ],
)
def test_bad_images_are_named(distance, a, b, message):
    with pytest.raises(ValueError, match=message):
        distance.distances(a, b)
