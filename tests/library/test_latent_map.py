import csv
import threading
import time

import numpy as np
import pytest
import torch

import medtraverse.latent_map as latent_map_module
from medtraverse.latent_map import latent_map, map_trajectory, used_perplexity
from medtraverse.trajectory import Trajectory


def trajectories(count=10, directions=2, seed=0):
    """Straight trajectories from one neutral in different directions, far apart:
    [directions * count, 4, 4, 4].
    """
    rng = np.random.default_rng(seed)
    ways = rng.normal(size=(directions, 1, 4, 4, 4)) * 30
    far = np.linspace(0.1, 1, count).reshape(1, count, 1, 1, 1)
    return torch.tensor((ways * far).reshape(-1, 4, 4, 4), dtype=torch.float32)


def test_the_papers_twenty_points_keep_their_neighbours():
    z = trajectories()
    plane = latent_map(z)
    assert plane.shape == (20, 2) and plane.dtype == np.float64 and np.isfinite(plane).all()
    gaps = np.linalg.norm(plane[:, None] - plane[None], axis=2) + np.diag(np.full(20, np.inf))
    nearest = gaps.argmin(axis=1)
    assert (nearest // 10 == np.arange(20) // 10).mean() >= 0.9
    assert (np.abs(nearest - np.arange(20)) <= 2).mean() >= 0.8


def test_the_same_seed_gives_the_same_map():
    z = trajectories()
    assert np.array_equal(latent_map(z), latent_map(z.clone()))
    assert np.array_equal(latent_map(z), latent_map(z.numpy().astype(np.float64)))


@pytest.mark.parametrize(("count", "same_as"), [(20, 2.0), (60, 6.0), (3, 2.0)])
def test_automatic_perplexity(count, same_as):
    z = trajectories(count, 1)
    assert np.array_equal(latent_map(z, perplexity=0), latent_map(z, perplexity=same_as))
    assert used_perplexity(count, 0) == same_as and used_perplexity(count, 7.5) == 7.5


def test_many_latents_go_through_pca():
    rng = np.random.default_rng(0)
    core = rng.normal(size=(510, 3))
    # 60 dimensions, of which the first three carry everything: five components lose nothing
    z = np.concatenate([core, np.zeros((510, 57))], axis=1) @ np.linalg.qr(rng.normal(size=(60, 60)))[0]
    plane = latent_map(z, perplexity=10, pca=5)
    assert plane.shape == (510, 2)
    from sklearn.manifold import trustworthiness

    assert trustworthiness(core, plane, n_neighbors=10) > 0.9


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (torch.randn(2, 4), {}, "give 3 or more"),
        (torch.randn(20, 4), {"perplexity": 20}, "perplexity: 20 is .* with 20 latents it lies below 20"),
        (torch.randn(20, 4), {"perplexity": -1}, "perplexity: -1 "),
        (torch.randn(20, 4), {"pca": 1}, "pca: 1 "),
        (torch.full((20, 4), torch.nan), {}, "NaN"),
        (torch.ones(20, 4), {}, "latents: all are the same"),
    ],
)
def test_bad_input_is_named(latents, options, message):
    with pytest.raises(ValueError, match=message):
        latent_map(latents, **options)


def clusters(count=600):
    """Two clouds far apart, the first and the second half."""
    cloud = np.random.default_rng(3).normal(size=(count, 12)).astype(np.float32)
    cloud[count // 2 :] += 40
    return cloud


def parts_lie_apart(plane):
    half = len(plane) // 2
    centres = plane[:half].mean(axis=0), plane[half:].mean(axis=0)
    spread = max(plane[:half].std(axis=0).max(), plane[half:].std(axis=0).max())
    return np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_progress_changes_no_coordinate_and_ends_full():
    z, steps = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), []
    plane = latent_map(z, progress=lambda done, total: steps.append(done / total))
    assert np.array_equal(plane, latent_map(z)) and steps[-1] == 1 and steps == sorted(steps)
    with pytest.raises(ValueError, match="perplexity"):
        latent_map(z, 400, progress=lambda done, total: None)


def test_an_error_of_the_library_comes_back_as_it_is(monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(latent_map_module, "_mapped", broken)
    with pytest.raises(MemoryError, match="no room"):
        latent_map(clusters(10), progress=lambda done, total: None)


@pytest.mark.parametrize("library", ["scikit-learn", "openTSNE"])
def test_cancel_is_heard_within_two_seconds_and_ends_the_work(monkeypatch, library):
    if library == "openTSNE":
        pytest.importorskip("openTSNE")
        monkeypatch.setattr(latent_map_module, "FAST_FROM", 3)
    before, since = threading.active_count(), []

    def cancel(done, total):
        since.append(time.monotonic())
        if since[-1] > since[0] + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latent_map(clusters(4000), 30, progress=cancel)
    assert time.monotonic() - since[-2] < 2
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_open_tsne_maps_many_the_same_twice_and_keeps_clusters_apart(monkeypatch):
    pytest.importorskip("openTSNE")
    monkeypatch.setattr(latent_map_module, "FAST_FROM", 600)
    assert latent_map_module.library_for(599) == "scikit-learn"
    assert latent_map_module.library_for(600) == "openTSNE"
    z, steps = clusters(), []
    plane = latent_map(z, 0, progress=lambda done, total: steps.append((done, total)))
    assert plane.shape == (600, 2) and plane.dtype == np.float64 and np.isfinite(plane).all()
    assert np.array_equal(plane, latent_map(z, 0)) and parts_lie_apart(plane)
    assert steps[-1] == (750, 750) and len({done for done, _ in steps}) > 1


def test_without_open_tsne_scikit_learn_maps_all(monkeypatch):
    monkeypatch.setattr(latent_map_module, "find_spec", lambda name: None)
    assert latent_map_module.library_for(100_000) == "scikit-learn"
    assert parts_lie_apart(latent_map(clusters(200), 0))


def test_a_trajectorys_map_names_every_point():
    index = torch.tensor([[[0, 1, 2], [0, 3, 4]], [[5, 6, 7], [5, 8, 9]]])
    trajectory = Trajectory(
        trajectories(count=5),
        index,
        (21, 22),
        ("a", "b"),
        ("#112233", "#445566"),
        (("a",), ("b",)),
        ("neutral", "45", "5"),
        neutral="no finding",
    )
    result = map_trajectory(trajectory, seed=3)
    assert result.perplexity == 2 and result.library == "scikit-learn"
    assert np.array_equal(result.coordinates, latent_map(trajectory.latents, 2, 3))
    lines = list(csv.DictReader(result.csv.splitlines()))
    assert [(line["seed"], line["attribute"], line["point"]) for line in lines] == [
        (seed, attribute, point) for seed in ("21", "22") for attribute in "ab" for point in trajectory.points
    ]
    places = np.array([[float(line["x"]), float(line["y"])] for line in lines])
    assert np.array_equal(places, result.coordinates[index.flatten()])
    assert {line["neutral"] for line in lines} == {"no finding"}
    pictures = torch.rand(10, 8, 8, 3)
    assert len(result.figure(pictures).axes[0].images) > len(result.figure().axes[0].images) == 0
    with pytest.raises(ValueError, match="images: 9 do not match"):
        result.figure(pictures[:9])
