"""Map of latents in the plane by t-SNE (Fig. 4; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

import numpy as np

from .pixels import to_numpy

MANY = 500


def latent_map(latents, perplexity: float = 2.0, seed: int = 500, pca: int = 50) -> np.ndarray:
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

    Returns
    -------
    ndarray [N, 2], float64

    Raises
    ------
    ValueError
        Fewer than 3 latents, perplexity negative or not below N, latents not finite or all the same.
    """
    points = to_numpy(latents).astype(np.float32)
    count = len(points) if points.ndim else 0
    if count < 3:
        raise ValueError(f"latents holds {count} points; a map needs at least 3")
    if not 0 <= perplexity < count:
        raise ValueError(
            f"perplexity is {perplexity}; with {count} latents it must lie below {count} (0 chooses one)"
        )
    if pca < 2:
        raise ValueError(f"pca is {pca}; a map in the plane needs at least 2 components")
    points = points.reshape(count, -1)
    if not np.isfinite(points).all():
        raise ValueError("latents holds NaN or infinite values; check the latents of the trajectory")
    if (points == points[0]).all():
        raise ValueError("all latents are the same; there is nothing to map")

    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if count > MANY and points.shape[1] > pca:
        points = PCA(pca, random_state=seed).fit_transform(points)
    # the principal axes start the map, but a single number per latent has only one of them
    start = "pca" if points.shape[1] > 1 else "random"
    return (
        TSNE(2, perplexity=used_perplexity(count, perplexity), random_state=seed, init=start)
        .fit_transform(points)
        .astype(np.float64)
    )


def used_perplexity(count: int, perplexity: float) -> float:
    """Return the perplexity that `latent_map` takes for `count` latents: the one given, or for 0 a
    tenth of them, within 2 and 30.
    """
    return perplexity or min(max(count / 10, 2.0), 30.0)
