"""What all classifiers have in common: images in, logits, probabilities or pooled features out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGMOID, SOFTMAX = "sigmoid", "softmax"
ACTIVATIONS = (SIGMOID, SOFTMAX)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Squash:
    """Preprocessing of a state dict: the whole image is resized to a square, then scaled and normalised.

    Attributes
    ----------
    size : int
        Side in pixels.
    mean, std : tuple of float
        Per channel, of values in 0..1. One value means one channel: the mean of red, green and blue.
    scale : float
        The normalised image is multiplied by it (torchxrayvision: 1024).
    """

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1.0

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size, self.size

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → network input [N, channels, size, size]."""
        inputs = images.permute(0, 3, 1, 2).contiguous()
        if self.channels == 1:
            inputs = inputs.mean(1, keepdim=True)
        if inputs.shape[-2:] != (self.size, self.size):
            inputs = F.interpolate(inputs, size=(self.size,) * 2, mode="bilinear", antialias=True)
        mean, std = (inputs.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (inputs - mean) / std * self.scale

    def __str__(self) -> str:
        grey = ", one channel" if self.channels == 1 else ""
        return f"resized to {self.size} × {self.size}{grey}"


@dataclass(frozen=True)
class Library:
    """Preprocessing by the library that made the files, applied to 8-bit images as the library applies it.

    Attributes
    ----------
    function : callable
        uint8 image [H, W, 3] as a numpy array → float tensor [C, h, w].
    size : tuple of int
        Height and width of its result.
    name : str
        For messages and reports.
    """

    function: Callable[[np.ndarray], Tensor]
    size: tuple[int, int]
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → network input [N, C, h, w] on the same device."""
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return torch.stack([self.function(image) for image in pixels]).to(images.device, torch.float32)

    def __str__(self) -> str:
        return f"{self.name}, {self.size[0]} × {self.size[1]}"


class Preprocess(Protocol):
    """How images become a network's input."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → the network's input."""


class Judge(nn.Module):
    """A classifier network with its labels and its preprocessing.

    Parameters
    ----------
    network : torch.nn.Module
        Called with the network's input. Returns logits [N, L], or what `logits_of` takes them out of.
    head : torch.nn.Module
        The last layer; its input, flattened, is the features.
    labels : sequence of str or None
        Name of each output, in order; None where the files do not say.
    preprocess : Preprocess
    activation : {"sigmoid", "softmax"}
        Softmax where the labels exclude each other.
    files : sequence of path
        What was read, for the record.
    kind : str
        Name of the format, for messages and reports.
    notes : sequence of str
        What the user should know: a default that was taken because the files do not say.
    outputs : int, optional
        Number of labels. Default: the head's.
    zero_shot : bool
        Whether the labels are prompts.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        labels: Sequence[str] | None,
        preprocess: Preprocess,
        activation: str,
        files: Sequence[Path],
        kind: str,
        logits_of: Callable[[Any], Tensor] | None = None,
        notes: Sequence[str] = (),
        outputs: int | None = None,
        zero_shot: bool = False,
    ):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self._head = [head]  # in a list: a module assigned here would be registered twice
        self.labels = None if labels is None else tuple(labels)
        self.preprocess = preprocess
        self.activation = activation
        self.files = tuple(files)
        self.kind = kind
        self.notes = tuple(notes)
        self._logits_of = logits_of or (lambda result: result)
        self.outputs = outputs if outputs is not None else _outputs(head)
        self.zero_shot = zero_shot

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.preprocess.shape

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files among what was read."""
        return tuple(file for file in self.files if file.suffix != ".json")

    def prepare(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → the network's input, on the images' device."""
        return self.preprocess(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Network input → logits [N, L]."""
        return self._logits_of(self.network(inputs))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Network input → probabilities [N, L]."""
        logits = self(inputs)
        return torch.softmax(logits, 1) if self.activation == SOFTMAX else torch.sigmoid(logits)

    def features(self, inputs: Tensor) -> Tensor:
        """Network input → features [N, C]: what the last layer sees."""
        kept: list[Tensor] = []
        hook = self._head[0].register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
        try:
            self.network(inputs)
        finally:
            hook.remove()
        return kept[-1].flatten(1)


def checked_size(size: object, name: str) -> int:
    """Return an input size in pixels. Raises ValueError unless it is a whole number of 32 or more."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 32:
        raise ValueError(f"input_size: {size!r}, of {name}, is no side in pixels; give 32 or more.")
    return size


def _outputs(head: nn.Module) -> int:
    return int(getattr(head, "out_features", None) or head.out_channels)  # type: ignore[arg-type]


def last_linear(network: nn.Module, outputs: int) -> nn.Module | None:
    """Return the last layer with that many outputs; None where there is none."""
    layers = [
        module
        for module in network.modules()
        if getattr(module, "out_features", None) == outputs
        or getattr(module, "out_channels", None) == outputs
    ]
    return layers[-1] if layers else None


@dataclass(frozen=True)
class Settings:
    """What the user decides where the files do not, or otherwise than they do.

    Attributes
    ----------
    labels : tuple of str or None
    size : int or None
        Side in pixels.
    activation : str or None
    sidecar : dict
        The JSON beside a single file: `labels`, `image_size`, `mean`, `std`, `scale`, `activation`.
    """

    labels: tuple[str, ...] | None = None
    size: int | None = None
    activation: str | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)

    def activation_or(self, default: str, name: str) -> str:
        """The user's activation, else the sidecar's, else the default; ValueError for an unknown one."""
        chosen = self.activation or self.sidecar.get("activation") or default
        if chosen not in ACTIVATIONS:
            raise ValueError(
                f"classifier: {name}: activation is {chosen!r}; give {' or '.join(ACTIVATIONS)}."
            )
        return chosen
