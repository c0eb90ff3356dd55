"""How far an image has moved from its patient's neutral image, beside how far apart two patients are.

The same seed keeps much of a patient even without a swap, so a similarity to one's own neutral means little
by itself: every figure here stands beside the same figure against other patients' neutrals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .perceptual import LEFT_OUT, LPIPS, PerceptualDistance
from .published import published_curve
from .steady_batches import steady
from .table import csv_text, finite_list
from .trajectory import SWAP, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("ssim", "mse", "correlation")

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_PIXELS_PER_BATCH = 2**23


def mse(images: Any, references: Any) -> Tensor:
    """Compute the mean squared difference of image pairs.

    Parameters
    ----------
    images, references : array or tensor [N, H, W, C]
        In 0..1.

    Returns
    -------
    Tensor [N]
        float64, 0 for equal images.
    """
    return _mse(*_pairs(images, references))


def correlation(images: Any, references: Any) -> Tensor:
    """Compute Pearson's correlation of the pixels of image pairs.

    Parameters
    ----------
    images, references : array or tensor [N, H, W, C]
        In 0..1.

    Returns
    -------
    Tensor [N]
        float64 in -1..1; NaN for a uniform image.
    """
    return _correlation(*_pairs(images, references))


def ssim(images: Any, references: Any) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, sigma 1.5) of image pairs.

    Parameters
    ----------
    images, references : array or tensor [N, H, W, C]
        In 0..1, at least 11 pixels high and wide.

    Returns
    -------
    Tensor [N], float64
        Mean over the windows that lie inside the image and over the channels; 1 for equal images.

    Raises
    ------
    ValueError
        Images of another shape or range, or smaller.
    """
    return _ssim(*_pairs(images, references))


def ssim_outside(images: Any, references: Any, region: Tensor) -> Tensor:
    """As `ssim`, over the windows whose middle lies outside a region, bool [N, H, W]; NaN where none does."""
    a, b = _pairs(images, references)
    likeness = _ssim_map(a, b).double().mean(dim=1)
    edge = _WINDOW // 2
    kept = ~region[:, edge:-edge, edge:-edge].to(likeness.device)
    return (likeness * kept).sum(dim=(1, 2)) / kept.sum(dim=(1, 2))


class _Batch:
    """Images [n, H, W, C] with what several comparisons share: each is computed once."""

    def __init__(self, images: Tensor, device: torch.device):
        images = images.to(device)
        self.pixels = images.double().flatten(1)
        self.centred = self.pixels - self.pixels.mean(dim=1, keepdim=True)
        self.length = self.centred.norm(dim=1)
        # about mid-grey, where float32 keeps the digits that variances need
        self.grey = images.double().float().permute(0, 3, 1, 2) - 0.5

    @cached_property
    def mean(self) -> Tensor:
        return _blur(self.grey)

    @cached_property
    def square(self) -> Tensor:
        return _blur(self.grey * self.grey)


def _mse(a: _Batch, b: _Batch) -> Tensor:
    error: Tensor = (a.pixels - b.pixels).square().mean(dim=1)
    return error


def _correlation(a: _Batch, b: _Batch) -> Tensor:
    values: Tensor = (a.centred * b.centred).sum(dim=1) / (a.length * b.length)
    return values


def _ssim(a: _Batch, b: _Batch) -> Tensor:
    return _ssim_map(a, b).double().flatten(1).mean(dim=1)


def _ssim_map(a: _Batch, b: _Batch) -> Tensor:
    """SSIM of each window inside the image and each channel, [n, C, H - 10, W - 10]."""
    if min(a.grey.shape[2:]) < _WINDOW:
        height, width = a.grey.shape[2:]
        raise ValueError(
            f"images: they are {height}x{width}, and SSIM's window needs {_WINDOW} pixels a side; "
            "give larger images."
        )
    spread = a.square + b.square - a.mean.square() - b.mean.square()
    common = _blur(a.grey * b.grey) - a.mean * b.mean
    mean_a, mean_b = a.mean + 0.5, b.mean + 0.5
    likeness = (2 * mean_a * mean_b + _C1) * (2 * common + _C2)
    values: Tensor = likeness / ((mean_a.square() + mean_b.square() + _C1) * (spread + _C2))
    return values


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
    own: dict[str, Tensor]
    other: dict[str, Tensor]
    own_patients: dict[str, Tensor]
    other_patients: dict[str, Tensor]


def identity_table(
    images: Any,
    controls: int = 4,
    perceptual: PerceptualDistance | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: str | torch.device = "cpu",
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
    device : str or torch.device
        Where SSIM, MSE and correlation are computed; one without float64 (MPS) gives way to the CPU.

    Returns
    -------
    IdentityTable

    Raises
    ------
    ValueError
        Images of another shape or range, or `controls` below 1.
    """
    images = _images(images, 6, "[P, A, N, H, W, C]")
    if controls < 1:
        raise ValueError(f"controls: it is {controls}; compare with 1 other patient or more.")
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    patients = images.shape[0]
    names = (*MEASURES, perceptual.name) if perceptual else MEASURES
    own = {name: torch.full(images.shape[:3], torch.nan, dtype=torch.float64) for name in names}
    other = {name: values.clone() for name, values in own.items()}
    controls = min(controls, patients - 1)
    for p in range(patients):
        neutrals = images[[(p + shift) % patients for shift in range(controls + 1)], :, 0]
        for name, values in _measured(images[p], neutrals, perceptual, device).items():
            own[name][p] = values[0]
            if controls:
                other[name][p] = values[1:].mean(dim=0)
        if progress is not None:
            progress(p + 1, patients)
    own_means, other_means = (
        {name: values.mean(dim=0) for name, values in group.items()} for group in (own, other)
    )
    return IdentityTable(patients, controls, own_means, other_means, own, other)


def patient_similarity(
    images: Any,
    references: Any,
    perceptual: PerceptualDistance | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Similarity of one patient's images to some neutral images, its own or others'.

    Parameters
    ----------
    images : array or tensor [A, N, H, W, C]
        Attributes and points; in 0..1, 11 pixels a side or more.
    references : array or tensor [R, H, W, C]
        In 0..1.
    perceptual, device
        As `identity_table` takes them.

    Returns
    -------
    dict of str to Tensor [R, A, N], float64
        As the groups of `IdentityTable`.

    Raises
    ------
    ValueError
        Images of another shape or range.
    """
    images = _images(images, 5, "[A, N, H, W, C]")
    references = _images(references, 4, "[R, H, W, C]", "references")
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    neutrals = references[:, None].expand(-1, len(images), -1, -1, -1)
    return _measured(images, neutrals, perceptual, device)


@dataclass(frozen=True, eq=False)
class Identity:
    """The identity table of one trajectory, as figure, CSV and report.

    Attributes
    ----------
    table : IdentityTable
    trajectory : Trajectory
    perceptual : str
        Name of the perceptual distance in the table, or why there is none.
    """

    table: IdentityTable
    trajectory: Trajectory
    perceptual: str

    @property
    def csv(self) -> str:
        """One row per attribute and point, as CSV."""
        groups = {"own neutral": self.table.own, "other patients": self.table.other}
        header = [f"{measure} to {whose}" for whose, group in groups.items() for measure in group]
        columns = [values for group in groups.values() for values in group.values()]
        rows = [
            [attribute, point, *(float(values[a, n]) for values in columns), self.perceptual]
            for a, attribute in enumerate(self.trajectory.attributes)
            for n, point in enumerate(self.trajectory.points)
        ]
        return csv_text(["attribute", "point", *header, "perceptual distance"], rows)

    @property
    def published(self) -> dict[str, dict[int, float]]:
        """The paper's mean LPIPS by attribute and swap step, empty where it does not compare."""
        if self.perceptual != LPIPS or self.trajectory.kind != SWAP:
            return {}
        known: dict[str, dict[int, float]] = published_curve(
            "lpips to neutral", self.trajectory.settings.get("domain", ""), self.trajectory.neutral
        )
        return known

    def figure(self) -> "Figure":
        """Return the matplotlib figure of the perceptual distance, or of 1 − SSIM without one.

        A swap's neutral point is left out, as its distance is 0.
        """
        from .figures.identity_chart import identity_figure

        measured = self.perceptual in self.table.own
        first = int(self.trajectory.kind == SWAP)
        own, other = (
            (group[self.perceptual] if measured else 1 - group["ssim"])[..., first:]
            for group in (self.table.own_patients, self.table.other_patients)
        )
        return identity_figure(
            own,
            other,
            [int(point) for point in self.trajectory.points[first:]],
            self.trajectory.attributes,
            self.trajectory.colours,
            self.perceptual if measured else "1 − SSIM",
            self.trajectory.kind != SWAP,
            self.published,
        )

    def report(self) -> dict[str, Any]:
        """Return everything as a JSON-serialisable dict."""
        return {
            "patients": self.table.patients,
            "controls": self.table.controls,
            "points": list(self.trajectory.points),
            "perceptual distance": self.perceptual,
            "seeds": list(self.trajectory.seeds),
            "settings": self.trajectory.settings,
            "own neutral": self._means(self.table.own),
            "other patients": self._means(self.table.other),
        }

    def _means(self, group: dict[str, Tensor]) -> dict[str, dict[str, list[Any]]]:
        return {
            attribute: {measure: finite_list(values[a]) for measure, values in group.items()}
            for a, attribute in enumerate(self.trajectory.attributes)
        }


def measure_identity(
    trajectory: Trajectory,
    images: Tensor,
    controls: int = 4,
    perceptual: PerceptualDistance | None = None,
    wanted: bool = True,
    progress: Callable[[int, int], None] | None = None,
    device: str | torch.device = "cpu",
) -> Identity:
    """Measure how far a trajectory's images have moved from their patients' neutral images.

    Parameters
    ----------
    trajectory : Trajectory
    images : Tensor [rows, H, W, C]
        Decoded latents of the trajectory, row by row, in 0..1.
    controls, perceptual, progress, device
        As `identity_table` takes them.
    wanted : bool
        Whether a perceptual distance was asked for: without one, the result says that it is left out.

    Raises
    ------
    ValueError
        When images and trajectory do not match, and as `identity_table`.
    """
    table = identity_table(trajectory.gather(images), controls, perceptual, progress, device)
    used = perceptual.name if perceptual else LEFT_OUT if wanted else "none"
    return Identity(table, trajectory, used)


def _measured(
    images: Tensor, neutrals: Tensor, perceptual: PerceptualDistance | None, device: torch.device
) -> dict[str, Tensor]:
    """Every measure of a patient's images [A, N, H, W, C] against neutrals [R, A, H, W, C]: [R, A, N]."""
    # as ever in a trajectory: what is made of a neutral serves all attributes
    shared = bool((neutrals == neutrals[:, :1]).all())
    measures = dict(zip(MEASURES, (_ssim, _mse, _correlation), strict=True))
    size = max(1, _PIXELS_PER_BATCH // images[0, 0].numel())
    columns: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    references: list[_Batch] = []
    with steady(device):
        for a, attribute in enumerate(images):
            if not (shared and references):
                references = [_Batch(neutral[None, a], device) for neutral in neutrals]
            batches = [_Batch(part, device) for part in attribute.split(size)]
            for name, measure in measures.items():
                rows = [
                    torch.cat([measure(batch, reference) for batch in batches]) for reference in references
                ]
                columns[name].append(torch.stack(rows).cpu())
    values = {name: torch.stack(parts, dim=1) for name, parts in columns.items()}
    if perceptual:
        if shared:
            # a network sees each neutral once
            distances = perceptual.between(images.flatten(0, 1), neutrals[:, 0]).reshape(
                *images.shape[:2], -1
            )
        else:
            distances = torch.stack(
                [perceptual.between(each, neutrals[:, a]) for a, each in enumerate(images)]
            )
        values[perceptual.name] = distances.permute(2, 0, 1)
    return values


def _images(images: Any, axes: int, expected: str, name: str = "images") -> Tensor:
    pixels = torch.as_tensor(images)
    if pixels.ndim != axes or not pixels.numel():
        raise ValueError(f"{name}: the shape is {list(pixels.shape)}; give {expected}.")
    pixels = pixels.detach().cpu()
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: values go from {low:.3g} to {high:.3g}; give images in 0..1.")
    return pixels


def _pairs(images: Any, references: Any) -> tuple[_Batch, _Batch]:
    images = _images(images, 4, "[N, H, W, C]")
    references = _images(references, 4, "[N, H, W, C]", "references")
    if images.shape != references.shape:
        raise ValueError(
            f"references: the shape is {list(references.shape)}, that of images {list(images.shape)}; "
            "give one reference for each image."
        )
    device = torch.device("cpu")
    return _Batch(images, device), _Batch(references, device)


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over the windows inside [N, C, H, W]."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    planes = x.shape[0] * x.shape[1]
    # depthwise: one plane a channel is several times faster on a CPU than one plane a sample
    means = x.reshape(1, planes, *x.shape[2:])
    for shape in ((1, -1), (-1, 1)):
        taps = kernel.reshape(1, 1, *shape).expand(planes, -1, -1, -1)
        means = torch.nn.functional.conv2d(means, taps, groups=planes)
    return means.reshape(*x.shape[:2], *means.shape[2:])
