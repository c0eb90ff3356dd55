"""Distance of a set of generated images to a set of reference images: FID and
KID, on the features of a network.

FID (Heusel et al. 2017) is the Fréchet distance of Gaussians with the features' means and covariances; KID
(Bińkowski et al. 2018) the squared maximum mean discrepancy under the kernel (x·y / C + 1)³, unbiased however
few the images. Both compare only between results of the same extractor: published values are as a rule
Inception v3's.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .notice import NOTICE
from .steady_batches import in_batches
from .weights import find_weights, places

INCEPTION = "Inception v3 (FID weights, 2015-12-05)"
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class DistributionDistance:
    """FID and KID with what they were computed from.

    Attributes
    ----------
    fid : float
        0 or more; round-off below 0 is set to 0.
    kid, kid_sd : float
        Mean and standard deviation over the subsets.
    images, references, features : int
        How many of each; features are those of one image.
    subsets, subset_size, seed : int
    warnings : tuple of str
        What limits these numbers.
    """

    fid: float
    kid: float
    kid_sd: float
    images: int
    references: int
    features: int
    subsets: int
    subset_size: int
    seed: int
    warnings: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def table(self, extractor: str) -> str:
        """The numbers as text, with the extractor that they belong to."""
        lines = [
            f"features   {extractor}, {self.features} an image",
            f"images     {self.images} generated, {self.references} reference",
            f"FID        {self.fid:.4g}",
            f"KID        {self.kid:.4g} ± {self.kid_sd:.2g} (SD over {self.subsets} subsets of "
            f"{self.subset_size}, seed {self.seed})",
        ]
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings), NOTICE]) + "\n"


def distribution_distance(
    features: np.ndarray | Tensor,
    reference_features: np.ndarray | Tensor,
    kid_subsets: int = 100,
    kid_subset_size: int = 50,
    seed: int = 0,
) -> DistributionDistance:
    """FID and KID of two sets of features, by torchmetrics, in float64.

    Parameters
    ----------
    features, reference_features : array or tensor [N, C], [M, C]
        Of the generated and of the reference images; 2 or more each.
    kid_subsets, kid_subset_size : int
        KID is averaged over this many random pairs of subsets of this size (2 or more).
    seed : int
        Chooses the subsets; the global random state is left as it was.

    Raises
    ------
    ValueError
        Too few images, a subset larger than a set, features of another shape or not finite, or torchmetrics
        not installed.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise ValueError(
            "extractor: FID and KID need the package torchmetrics; install the extra metrics: pip install "
            "torchmetrics."
        ) from error

    generated, reference = (
        torch.as_tensor(x).detach().cpu().double() for x in (features, reference_features)
    )
    for name, rows in (("images", generated), ("reference_images", reference)):
        if rows.ndim != 2 or rows.shape[1] < 1 or not torch.isfinite(rows).all():
            raise ValueError(
                f"{name}: their features have shape {list(rows.shape)} or are not finite; give finite "
                "numbers [N, C]."
            )
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"images: they have {generated.shape[1]} features, reference_images {reference.shape[1]}; take "
            "one extractor for both."
        )
    _check_counts(len(generated), len(reference), kid_subsets, kid_subset_size)
    width = generated.shape[1]
    fid = FrechetInceptionDistance(feature=_Given(width), normalize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it holds all features in memory
        kid = KernelInceptionDistance(
            feature=_Given(width), subsets=kid_subsets, subset_size=kid_subset_size, normalize=True
        )
    for metric in (fid, kid):
        metric.update(reference, real=True)
        metric.update(generated, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, spread = kid.compute()
    return DistributionDistance(
        max(0.0, float(fid.compute())),
        float(mean),
        float(spread),
        len(generated),
        len(reference),
        width,
        kid_subsets,
        kid_subset_size,
        seed,
        tuple(_warnings(len(generated), len(reference), width, kid_subset_size)),
    )


def check_sets(images: Tensor, reference_images: Tensor, kid_subsets: int, kid_subset_size: int) -> None:
    """Refuse two sets before any feature is computed: what `distribution_distance` would refuse, and more.

    Resizing one set alone would be measured too, so both must have one size.

    Parameters
    ----------
    images, reference_images : Tensor [N, H, W, 3], [M, H, W, 3]
        2 images or more each.
    kid_subsets, kid_subset_size : int
        As of `distribution_distance`.

    Raises
    ------
    ValueError
        Another shape, unlike sizes, too few images, or subsets that cannot be drawn.
    """
    for name, group in (("images", images), ("reference_images", reference_images)):
        if group.ndim != 4 or group.shape[-1] != 3:
            raise ValueError(f"{name}: they have shape {list(group.shape)}; give [N, H, W, 3].")
    _check_counts(len(images), len(reference_images), kid_subsets, kid_subset_size)
    a, b = images.shape[1:3], reference_images.shape[1:3]
    if a != b:
        raise ValueError(
            f"images: they are {a[0]}x{a[1]}, reference_images {b[0]}x{b[1]}; bring both to one size in the "
            "same way."
        )


def _check_counts(images: int, references: int, kid_subsets: int, kid_subset_size: int) -> None:
    for name, count in (("images", images), ("reference_images", references)):
        if count < 2:
            raise ValueError(
                f"{name}: {count} given; a distance of distributions needs 2 or more, and hundreds to mean "
                "something."
            )
    if kid_subsets < 1:
        raise ValueError(f"kid_subsets: {kid_subsets} is too few; take 1 or more.")
    fewest = min(images, references)
    if not 2 <= kid_subset_size <= fewest:
        raise ValueError(
            f"kid_subset_size: {kid_subset_size} is out of range; take 2 to {fewest}, the size of the "
            "smaller set."
        )


class Inception:
    """FID's own feature extractor. Made by `load_inception`.

    Attributes
    ----------
    module : torch.nn.Module
        Maps uint8 images [N, 3, H, W] to pooled features [N, 2048].
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def features(
        self, images: Tensor, batch_size: int = 32, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Compute pooled features of images.

        Parameters
        ----------
        images : Tensor [N, H, W, 3]
            In 0..1.
        batch_size : int
            Images at a time.
        progress : callable, optional
            Gets the images done and N after each batch.

        Returns
        -------
        Tensor [N, 2048]
            float32, on the CPU.
        """
        device = next(self.module.parameters()).device

        def pooled(part: slice) -> Tensor:
            batch = (images[part].clamp(0, 1) * 255).round().to(device, torch.uint8)
            features: Tensor = self.module(batch.permute(0, 3, 1, 2))
            return features.float()

        return in_batches(pooled, len(images), batch_size, device, progress)


def load_inception(folders: Sequence[str | os.PathLike[str]] = ()) -> Inception:
    """Load Inception v3 from torch-fidelity; nothing is downloaded.

    Parameters
    ----------
    folders : sequence of path
        Where its weights may lie, beside torch's hub cache.

    Returns
    -------
    Inception
        On the CPU.

    Raises
    ------
    ValueError
        The package or the weights are not there, or the file is not plain weights.
    """
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError as error:
        raise ValueError(
            f"extractor: Inception needs the package {error.name}; pip install torchmetrics torch-fidelity."
        ) from error
    path = find_weights(INCEPTION_WEIGHTS, folders)
    if path is None:
        folder = places(folders)[0]
        raise ValueError(
            f"extractor: Inception needs {INCEPTION_WEIGHTS} (from torch-fidelity's releases), not "
            f"downloaded for you; put it into {folder}."
        )
    _plain(path)
    with torch.random.fork_rng(devices=[]):
        return Inception(NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path)).requires_grad_(False))


def _plain(path: Path) -> None:
    """torch-fidelity unpickles whatever is in the file, so what is more than weights is refused before."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load has no single exception for a file that it cannot read
        raise ValueError(
            f"extractor: {path.name} does not load as plain weights; download it again."
        ) from error


class _Given(nn.Module):
    """Stands where torchmetrics wants a network: the features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _warnings(images: int, references: int, features: int, subset_size: int) -> Iterator[str]:
    if min(images, references) <= features:
        yield (
            f"fewer images than features ({min(images, references)}, {features}): the covariances are "
            "rank-deficient and FID is "
            "biased, mostly upwards; compare it only at equal counts. KID is not biased by that."
        )
    if subset_size == images == references:
        yield "every KID subset is the whole set: its SD says nothing; take smaller subsets."
