"""Perceptual distance of images: LPIPS where its backbone is at hand, else shift-tolerant
LPIPS, which ships its weights.

LPIPS (Zhang et al. 2018, AlexNet, version 0.1) is what the paper measures identity with (TehraniNasab, Kumar,
Arbel 2025, arXiv 2503.23623). ST-LPIPS (Ghildyal and Liu 2022) has the same form, but other strides and
weights: its values are not LPIPS's. Nothing is downloaded.
"""

import hashlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .steady_batches import in_batches, steady
from .weights import find_weights, places

CHOICES = ("auto", "none", "lpips", "st-lpips")
LPIPS, ST_LPIPS = "LPIPS (AlexNet v0.1)", "ST-LPIPS (AlexNet)"
LEFT_OUT = "left out: neither lpips with AlexNet's weights nor stlpips-pytorch is at hand"
ALEXNET, ALEXNET_SHA256 = "alexnet-owt-7be5be79.pth", "7be5be79"

_SMALLEST = 32
_PIXELS_PER_PASS = 2**19
_INSTALL = "install the extra metrics: pip install lpips stlpips-pytorch."


class PerceptualDistance:
    """A perceptual distance. Made by `perceptual_distance`.

    Attributes
    ----------
    name : str
        "LPIPS (AlexNet v0.1)" or "ST-LPIPS (AlexNet)".
    module : torch.nn.Module
        Maps images [N, 3, H, W] in 0..1 to the unit-length feature maps of five layers.
    """

    def __init__(self, name: str, module: "_Network"):
        self.name = name
        self.module = module.eval().requires_grad_(False)

    def distances(
        self,
        images: np.ndarray | Tensor,
        references: np.ndarray | Tensor,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Distance of each image to the reference beside it.

        Parameters
        ----------
        images, references : array or tensor [N, H, W, 3]
            RGB in 0..1, 32 pixels a side or more.
        progress : callable, optional
            Called with (images done, N) after each batch; may raise to cancel.

        Returns
        -------
        Tensor [N], float64
            0 for equal images; larger is less alike.

        Raises
        ------
        ValueError
            Images of another shape or range, or smaller.
        """
        images, references = _checked(images, "images"), _checked(references, "references")
        if images.shape != references.shape:
            raise ValueError(
                f"references: {list(references.shape)} is not the shape of images; give {list(images.shape)}."
            )
        return self._batches(
            images, lambda part, maps: self._compare(maps, self._maps(references[part])), progress
        )

    def between(
        self,
        images: np.ndarray | Tensor,
        references: np.ndarray | Tensor,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Compute the distance of every image to every reference.

        The feature maps of all references are held in memory: 2 MB each at 128 pixels a side, 40 MB at 512.

        Parameters
        ----------
        images, references : array or tensor [N, H, W, 3], [M, H, W, 3]
            In 0..1, of one size.
        progress : callable, optional
            As of `distances`.

        Returns
        -------
        Tensor [N, M]
            float64, 0 for equal images.

        Raises
        ------
        ValueError
            Unlike sizes, and as `distances`.
        """
        images, references = _checked(images, "images"), _checked(references, "references")
        if images.shape[1:] != references.shape[1:]:
            raise ValueError(
                f"references: {list(references.shape)} is not the size of images {list(images.shape)}; "
                "bring both to one size."
            )
        held = [self._maps(reference[None]) for reference in references]
        return self._batches(
            images,
            lambda part, maps: torch.stack([self._compare(maps, other) for other in held], dim=1),
            progress,
        )

    def _batches(
        self,
        images: Tensor,
        measure: Callable[[slice, list[Tensor]], Tensor],
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        size = max(1, _PIXELS_PER_PASS // (images.shape[1] * images.shape[2]))
        device = next(self.module.buffers()).device
        return in_batches(
            lambda part: measure(part, self._maps(images[part])).double(), len(images), size, device, progress
        )

    def _maps(self, images: Tensor) -> list[Tensor]:
        device = next(self.module.buffers()).device
        with steady(device):
            batch = images.permute(0, 3, 1, 2).to(device=device, dtype=torch.float32).contiguous()
            maps: list[Tensor] = self.module(batch)
            return maps

    def _compare(self, maps: list[Tensor], others: list[Tensor]) -> Tensor:
        layers = zip(maps, others, self.module.weights(), strict=True)
        first, *rest = (((a - b).square() * weight).sum(dim=1).mean(dim=(1, 2)) for a, b, weight in layers)
        return sum(rest, first)


def perceptual_distance(
    measure: str = "auto", folders: Sequence[str | os.PathLike[str]] = ()
) -> PerceptualDistance | None:
    """Load a perceptual distance from what is installed.

    Parameters
    ----------
    measure : str
        "lpips": the package `lpips` with the file `alexnet-owt-7be5be79.pth`. "st-lpips": the package
        `stlpips-pytorch`. "auto": the first of the two that is at hand, None if neither is. "none": None.
    folders : sequence of path
        Where AlexNet's weights may lie, beside torch's hub cache.

    Raises
    ------
    ValueError
        Another `measure`, one asked for by name that is not at hand, or weights that are not AlexNet's.
    """
    if measure not in CHOICES:
        raise ValueError(f"perceptual: {measure!r} is unknown; choose one of {', '.join(CHOICES)}.")
    if measure == "none":
        return None
    alexnet, shipped = find_weights(ALEXNET, folders), _shipped_weights()
    if measure == "auto":
        measure = "lpips" if find_spec("lpips") and alexnet else "st-lpips"
        if measure == "st-lpips" and not shipped:
            return None
    if measure == "lpips":
        if not find_spec("lpips"):
            raise ValueError(f"perceptual: the package lpips is not installed; {_INSTALL}")
        if alexnet is None:
            folder = places(folders)[0]
            raise ValueError(
                f"perceptual: LPIPS needs {ALEXNET} (from download.pytorch.org/models), which is not "
                f"downloaded for you; put it into {folder}."
            )
        name, path, network = LPIPS, alexnet, _lpips
    elif not shipped:
        raise ValueError(f"perceptual: the package stlpips-pytorch is not installed; {_INSTALL}")
    else:
        name, path, network = ST_LPIPS, shipped, _st_lpips
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights
        return PerceptualDistance(name, network(path))


class _Network(nn.Module):
    """Slices of a network, each one's output scaled to unit length per pixel, and the
    weights of their channels.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, slices: Sequence[nn.Module], weights: Sequence[Tensor], shift: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.slices = nn.ModuleList(slices)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight{number}", weight.detach())

    def weights(self) -> list[Tensor]:
        return [getattr(self, f"weight{number}") for number in range(len(self.slices))]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        x = (2 * images - 1 - self.shift) / self.scale
        for part in self.slices:
            x = part(x)
            maps.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return maps


class _BlurPool(nn.Module):
    """Every second pixel of a 3 × 3 binomial blur, two reflected pixels around."""

    filt: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def _lpips(path: Path) -> _Network:
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(ALEXNET_SHA256):
        raise ValueError(
            f"perceptual: {path.name} is damaged or not torchvision's AlexNet; take the one whose SHA-256 "
            f"begins with {ALEXNET_SHA256}."
        )
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # pnet_rand: with pretrained weights asked for, torchvision would download them
        model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # `slice2.3.weight` here is `features.3.weight` there
    model.net.load_state_dict(
        {key: state["features." + key.split(".", 1)[1]] for key in model.net.state_dict()}
    )
    return _Network(
        [getattr(model.net, f"slice{k}") for k in range(1, 6)],
        [getattr(model, f"lin{k}").model[1].weight for k in range(5)],
        model.scaling_layer.shift,
        model.scaling_layer.scale,
    )


def _shipped_weights() -> Path | None:
    spec = find_spec("stlpips_pytorch")
    paths = (
        [
            Path(folder) / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
            for folder in spec.submodule_search_locations
        ]
        if spec and spec.submodule_search_locations
        else []
    )
    return next((path for path in paths if path.is_file()), None)


def _st_lpips(path: Path) -> _Network:
    """The package's network, built here: importing it needs IPython and torchsummary, which it
    neither uses nor declares.
    """
    layers = [
        nn.Conv2d(3, 64, 11, padding=2),
        _BlurPool(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 1),
        _BlurPool(64),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 1),
        _BlurPool(192),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]
    ends = (0, 3, 7, 11, 13, 15)
    slices: OrderedDict[str, nn.Module] = OrderedDict(
        (
            f"slice{k + 1}",
            nn.Sequential(OrderedDict((str(n), layers[n]) for n in range(ends[k], ends[k + 1]))),
        )
        for k in range(5)
    )
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = nn.Sequential(slices)
    network.load_state_dict(
        {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    )
    return _Network(
        list(network),
        [state[f"lin{k}.model.1.weight"] for k in range(5)],
        state["scaling_layer.shift"],
        state["scaling_layer.scale"],
    )


def _checked(images: np.ndarray | Tensor, name: str) -> Tensor:
    images = torch.as_tensor(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.numel():
        raise ValueError(f"{name}: they have shape {list(images.shape)}; give [N, H, W, 3].")
    if min(images.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"{name}: they are {images.shape[1]}x{images.shape[2]}; a perceptual distance needs {_SMALLEST} "
            "pixels a side or more."
        )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: they run from {low:.3g} to {high:.3g}; give values in 0…1.")
    return images
