"""Map of latents in the plane by t-SNE (Fig. 4; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .pixels import to_numpy
from .processors import processors
from .table import csv_text
from .trajectory import Trajectory
from .watched import watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 500
# from here on openTSNE maps, if it is installed: below, scikit-learn takes no longer
FAST_FROM = 3000
_EVERY = 10


@dataclass(frozen=True, eq=False)
class LatentMap:
    """Map of one trajectory's latents.

    Attributes
    ----------
    trajectory : Trajectory
    coordinates : ndarray [rows, 2], float64
        Of each of the trajectory's latents.
    perplexity : float
        The one that was taken, where 0 was given too.
    seed : int
    """

    trajectory: Trajectory
    coordinates: np.ndarray
    perplexity: float
    seed: int

    @property
    def csv(self) -> str:
        """One row per patient, attribute and point, as CSV."""
        places = self.trajectory.gather(self.coordinates)
        rows = [
            [self.trajectory.neutral, attribute, seed, point, *places[p, a, n].tolist()]
            for p, seed in enumerate(self.trajectory.seeds)
            for a, attribute in enumerate(self.trajectory.attributes)
            for n, point in enumerate(self.trajectory.points)
        ]
        return csv_text(["neutral", "attribute", "seed", "point", "x", "y"], rows)

    @property
    def library(self) -> str:
        """Name of the package that made the map."""
        return library_for(len(self.coordinates))

    def figure(self, images: Any = None) -> "Figure":
        """Return the matplotlib figure (Fig. 4).

        Parameters
        ----------
        images : Tensor [rows, H, W, 3] in 0..1, optional
            Decoded latents of the trajectory, for thumbnails.

        Raises
        ------
        ValueError
            When images and trajectory do not match.
        """
        from .figures.latent_map_chart import latent_map_figure

        return latent_map_figure(
            self.trajectory.gather(self.coordinates),
            self.trajectory.attributes,
            self.trajectory.colours,
            self.trajectory.points,
            self.trajectory.seeds,
            None if images is None else self.trajectory.gather(images),
        )


def map_trajectory(
    trajectory: Trajectory,
    perplexity: float = 0.0,
    seed: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> LatentMap:
    """Map a trajectory's latents in the plane; parameters and errors as of `latent_map`."""
    coordinates = latent_map(trajectory.latents, perplexity, seed, progress=progress)
    return LatentMap(trajectory, coordinates, used_perplexity(len(coordinates), perplexity), seed)


def latent_map(
    latents: Any,
    perplexity: float = 2.0,
    seed: int = 500,
    pca: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """t-SNE coordinates of final latents; the defaults are the paper's, which mapped 20 points.

    Parameters
    ----------
    latents : array or tensor [N, ...]
        At least 3, each flattened to one point. Give a neutral that several trajectories share once.
    perplexity : float
        Effective number of neighbours, below N. 0 chooses N / 10 within 2 ... 30 (2 for the paper's 20
        points).
    seed : int
        Random state; the same latents and seed give the same map on the same machine.
    pca : int
        Above 500 latents of more than `pca` numbers each, their first `pca` principal components are mapped
        instead.
    progress : callable, optional
        Called with (steps done, steps in all) a few times a second; may raise to cancel, which is heard at
        once.
        scikit-learn says no step, so the number stays 0 until its map is there.

    Returns
    -------
    ndarray [N, 2], float64
        By openTSNE from 3,000 latents on where it is installed (the extra `maps`), else by scikit-learn.

    Raises
    ------
    ValueError
        Fewer than 3 latents, perplexity negative or not below N, latents not finite or all the same.
    """

    def work(report: Callable[[int, int], None]) -> np.ndarray:
        points = _checked(latents, perplexity, pca)
        return _mapped(points, used_perplexity(len(points), perplexity), seed, pca, report)

    return work(lambda done, total: None) if progress is None else watched(work, progress)


def _checked(latents: Any, perplexity: float, pca: int) -> np.ndarray:
    """Return latents as points, float32 [N, numbers of each], or say what a map cannot take."""
    points = to_numpy(latents).astype(np.float32, copy=False)
    count = len(points) if points.ndim else 0
    if count < 3:
        raise ValueError(f"latents: {count} make no map; give 3 or more.")
    if not 0 <= perplexity < count:
        raise ValueError(
            f"perplexity: {perplexity} is out of range; with {count} latents it lies below {count} "
            "(0 chooses one)."
        )
    if pca < 2:
        raise ValueError(f"pca: {pca} components do not span a plane; give 2 or more.")
    points = points.reshape(count, -1)
    if not np.isfinite(points).all():
        raise ValueError("latents: they hold NaN or infinite values; check the latents of the trajectory.")
    if (points == points[0]).all():
        raise ValueError("latents: all are the same; give latents that differ.")
    return points


def library_for(count: int) -> str:
    """Return the name of the package that maps this many latents here."""
    return "openTSNE" if count >= FAST_FROM and find_spec("openTSNE") else "scikit-learn"


def _mapped(
    points: np.ndarray, perplexity: float, seed: int, pca: int, report: Callable[[int, int], None]
) -> np.ndarray:
    from sklearn.decomposition import PCA

    count = len(points)
    if count > MANY and points.shape[1] > pca:
        points = PCA(pca, random_state=seed).fit_transform(points)
    if library_for(count) == "openTSNE":
        return _by_open_tsne(points, perplexity, seed, report)
    from sklearn.manifold import TSNE

    # the principal axes start the map, but a single number per latent has only one of them
    start = "pca" if points.shape[1] > 1 else "random"
    plane: np.ndarray = TSNE(2, perplexity=perplexity, random_state=seed, init=start).fit_transform(points)
    return plane.astype(np.float64)


def _by_open_tsne(
    points: np.ndarray, perplexity: float, seed: int, report: Callable[[int, int], None]
) -> np.ndarray:
    from openTSNE import TSNE
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors
    from sklearn.neighbors import NearestNeighbors

    # exact ones: openTSNE's own search is approximate, and not the same twice on several cores
    neighbours = min(len(points) - 1, int(3 * perplexity))
    distances, indices = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(points).kneighbors()
    jobs = processors()
    affinities = PerplexityBasedNN(
        perplexity=perplexity, knn_index=PrecomputedNeighbors(indices, distances), n_jobs=jobs
    )
    early, late = 250, 500  # openTSNE's own
    # iterations are counted from 1 again after the early exaggeration
    steps = iter(range(_EVERY, early + late + 1, _EVERY))
    tsne = TSNE(
        early_exaggeration_iter=early,
        n_iter=late,
        random_state=seed,
        n_jobs=jobs,
        callbacks=lambda *_: report(next(steps), early + late),
        callbacks_every_iters=_EVERY,
    )
    start = points[:, :2] if points.shape[1] > 1 else np.repeat(points, 2, axis=1)
    start = start / start[:, 0].std() * 1e-4
    return np.asarray(tsne.fit(affinities=affinities, initialization=start), dtype=np.float64)


def used_perplexity(count: int, perplexity: float) -> float:
    """Return the perplexity that `latent_map` takes.

    Parameters
    ----------
    count : int
        Latents.
    perplexity : float
        Effective number of neighbours. For 0 it is a tenth of the latents, within 2 and 30.
    """
    return perplexity or min(max(count / 10, 2.0), 30.0)
