"""How far an image has moved from its patient's neutral image, beside how far apart two patients are.

The same seed keeps much of a patient even without a swap, so a similarity to one's own neutral means little
by itself: every figure here stands beside the same figure against other patients' neutrals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEASURES = ("ssim", "mse", "correlation")

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_PIXELS_PER_BATCH = 2**23


def mse(images, references) -> Tensor:
    """Mean squared difference of image pairs [N, H, W, C] in 0..1: [N], float64; 0 for equal images."""
    images, references = _pairs(images, references)
    return (images - references).square().flatten(1).mean(dim=1)


def correlation(images, references) -> Tensor:
    """Pearson correlation of the pixels of image pairs [N, H, W, C] in 0..1: [N],
    float64; NaN for a uniform image.
    """
    images, references = _pairs(images, references)
    a, b = (x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in (images, references))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def ssim(images, references) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, sigma 1.5) of image pairs.

    Parameters
    ----------
    images, references : array or tensor [N, H, W, C]
        In 0..1, at least 11 pixels high and wide.

    Returns
    -------
    Tensor [N], float64
        Mean over the windows that lie inside the image and over the channels; 1 for equal images.
    """
    images, references = _pairs(images, references)
    if min(images.shape[1:3]) < _WINDOW:
        raise ValueError(
            f"images are {images.shape[1]}x{images.shape[2]}; SSIM's window needs 11 pixels a side or more"
        )
    # about mid-grey, where float32 keeps the digits that variances need
    a, b = (x.float().permute(0, 3, 1, 2) - 0.5 for x in (images, references))
    mean_a, mean_b = _blur(a), _blur(b)
    spread = _blur(a * a + b * b) - mean_a.square() - mean_b.square()
    common = _blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    likeness = (2 * mean_a * mean_b + _C1) * (2 * common + _C2)
    likeness = likeness / ((mean_a.square() + mean_b.square() + _C1) * (spread + _C2))
    return likeness.double().flatten(1).mean(dim=1)


@dataclass(frozen=True, eq=False)
class IdentityTable:
    """Mean similarity per attribute and point, over patients.

    Attributes
    ----------
    patients : int
    controls : int
        How many other patients each image was compared with; 0 when there is one patient only.
    own : dict of str to Tensor [A, N], float64
        "ssim", "mse" and "correlation" against the patient's own neutral, and the perceptual distance by its
        name if there is one. Point 0 is the neutral itself.
    other : dict of str to Tensor [A, N], float64
        The same images against other patients' neutrals; NaN when there is one patient only.
    own_patients, other_patients : dict of str to Tensor [P, A, N], float64
        The same before the mean over patients; `other_patients` is a mean over the controls.
    """

    patients: int
    controls: int
    own: dict
    other: dict
    own_patients: dict
    other_patients: dict


def identity_table(
    images, controls: int = 4, perceptual=None, progress: Callable[[int, int], None] | None = None
) -> IdentityTable:
    """Similarity to the own neutral and to other patients' neutrals, along the trajectory.

    Parameters
    ----------
    images : array or tensor [P, A, N, H, W, C]
        Patients, attributes, points (0 = neutral); in 0..1, 11 pixels a side or more.
    controls : int
        Each patient is compared with this many others (the next ones in order, around the end), or with all
        if fewer.
    perceptual : medtraverse.perceptual.PerceptualDistance, optional
        A further measure.
    progress : callable, optional
        Called with (patients done, P); may raise to cancel.

    Raises
    ------
    ValueError
        Images of another shape or range, or `controls` below 1.
    """
    images = _images(images, 6, "[P, A, N, H, W, C]")
    if controls < 1:
        raise ValueError(f"controls is {controls}; compare with 1 other patient or more")
    patients = images.shape[0]
    names = (*MEASURES, perceptual.name) if perceptual else MEASURES
    own = {name: torch.full(images.shape[:3], torch.nan, dtype=torch.float64) for name in names}
    other = {name: values.clone() for name, values in own.items()}
    controls = min(controls, patients - 1)
    for p in range(patients):
        neutrals = images[[(p + shift) % patients for shift in range(controls + 1)], :, 0]
        for name, values in _measured(images[p], neutrals, perceptual).items():
            own[name][p] = values[0]
            if controls:
                other[name][p] = values[1:].mean(dim=0)
        if progress is not None:
            progress(p + 1, patients)
    means = [{name: values.mean(dim=0) for name, values in group.items()} for group in (own, other)]
    return IdentityTable(patients, controls, *means, own, other)


def _measured(images: Tensor, neutrals: Tensor, perceptual) -> dict:
    """Every measure of one patient's images [A, N, H, W, C] against neutrals
    [R, A, H, W, C]: name to [R, A, N].
    """
    points = images.shape[1]
    batch = max(1, _PIXELS_PER_BATCH // images[0, 0].numel())
    rows = images.flatten(0, 1).split(batch)
    found = {name: [] for name in MEASURES}
    for reference in neutrals:
        beside = reference.repeat_interleave(points, 0).split(batch)
        for name, measure in zip(MEASURES, (ssim, mse, correlation), strict=True):
            found[name].append(
                torch.cat([measure(a, b) for a, b in zip(rows, beside)]).unflatten(0, (-1, points))
            )
    found = {name: torch.stack(values) for name, values in found.items()}
    if perceptual:
        if (neutrals == neutrals[:, :1]).all():
            # as ever in a trajectory; a network sees each neutral once
            distances = perceptual.between(images.flatten(0, 1), neutrals[:, 0]).unflatten(0, (-1, points))
        else:
            distances = torch.stack(
                [perceptual.between(each, neutrals[:, a]) for a, each in enumerate(images)]
            )
        found[perceptual.name] = distances.permute(2, 0, 1)
    return found


def _images(images, axes: int, expected: str) -> Tensor:
    images = torch.as_tensor(images)
    if images.ndim != axes or not images.numel():
        raise ValueError(f"images has shape {list(images.shape)}; expected {expected}")
    images = images.detach().cpu()
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images has values from {low:.3g} to {high:.3g}; expected 0..1")
    return images


def _pairs(images, references) -> tuple[Tensor, Tensor]:
    images, references = (_images(x, 4, "[N, H, W, C]") for x in (images, references))
    if images.shape != references.shape:
        raise ValueError(
            f"images {list(images.shape)} and references {list(references.shape)} differ in shape"
        )
    return images.double(), references.double()


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over the windows inside [N, C, H, W]."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    planes = x.shape[0] * x.shape[1]
    # depthwise: one plane a channel is several times faster on a CPU than one plane a sample
    means = x.reshape(1, planes, *x.shape[2:])
    for shape in ((1, -1), (-1, 1)):
        taps = kernel.reshape(1, 1, *shape).expand(planes, -1, -1, -1)
        means = torch.nn.functional.conv2d(means, taps, groups=planes)
    return means.reshape(*x.shape[:2], *means.shape[2:])
