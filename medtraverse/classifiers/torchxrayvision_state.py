"""torchxrayvision's classifiers, from their state dicts: raw sigmoid, one channel from -1024 to 1024."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .judge import SIGMOID, Judge, Settings, checked_size
from .torchvision_state import build, family_of

# In torchxrayvision's order. It has no Support Devices.
PATHOLOGIES = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)
SIZES = {"DenseNet": 224, "ResNet": 512}
THRESHOLDS = "op_threshs"


def is_torchxrayvision(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is one of torchxrayvision's: one input channel and its 18 outputs."""
    family = family_of(state)
    if family not in SIZES:
        return False
    first, head = (
        ("features.conv0.weight", "classifier.weight")
        if family == "DenseNet"
        else ("conv1.weight", "fc.weight")
    )
    return (
        first in state
        and head in state
        and state[first].shape[1] == 1
        and len(state[head]) == len(PATHOLOGIES)
    )


@dataclass(frozen=True)
class Film:
    """torchxrayvision's preprocessing: grey, centre crop to a square, resized, from -1024 to 1024.

    Resizing is scikit-image's `resize` with its defaults, as torchxrayvision's `XRayResizer` calls it.
    """

    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size, self.size

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → network input [N, 1, size, size], on the images' device."""
        films = images.mean(-1).float().cpu().numpy()
        films = (2 * films - 1) * 1024
        side = min(films.shape[1:])
        top, left = ((length - side) // 2 for length in films.shape[1:])
        films = films[:, top : top + side, left : left + side]
        inputs = np.stack([_resized(film, self.size) for film in films])[:, None]
        return torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(images.device)

    def __str__(self) -> str:
        return f"centre crop to {self.size} × {self.size}, one channel from -1024 to 1024"


def read_torchxrayvision(state: Mapping[str, Tensor], file: Path, settings: Settings | None = None) -> Judge:
    """Make a judge of the state dict of a torchxrayvision DenseNet-121 or ResNet-50.

    Parameters
    ----------
    state : mapping of str to Tensor
        Keys without the prefix `model.`.
    file : path
        Where it was read, for messages.
    settings : Settings, optional

    Returns
    -------
    Judge
        Its probabilities are the plain sigmoid. torchxrayvision itself rescales each label by a threshold
        of its own (`op_threshs`), which changes what CFRT compares across labels. A label that the weights
        were not trained for has no threshold and is left out.
    """
    settings = settings or Settings()
    family = family_of(state)
    assert family is not None
    thresholds = state.get(THRESHOLDS)
    weights = {key: value for key, value in state.items() if key != THRESHOLDS}
    architecture, network, head = build(weights, file.name)
    trained = (
        torch.ones(len(PATHOLOGIES), dtype=torch.bool) if thresholds is None else ~torch.isnan(thresholds)
    )
    columns = torch.nonzero(trained).flatten().tolist()
    notes = [
        f"classifier: {file.name}: torchxrayvision has no label Support Devices; its probabilities are the "
        "plain "
        "sigmoid, not rescaled by op_threshs."
    ]
    return Judge(
        network,
        head,
        settings.sidecar.get("labels") or [PATHOLOGIES[column] for column in columns],
        Film(checked_size(settings.size or settings.sidecar.get("image_size", SIZES[family]), file.name)),
        settings.activation_or(SIGMOID, file.name),
        [file],
        f"torchxrayvision {architecture}",
        _Columns(columns),
        notes,
        len(columns),
    )


class _Columns(nn.Module):
    def __init__(self, columns: list[int]):
        super().__init__()
        self.columns = columns

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.columns]


def _resized(film: np.ndarray, size: int) -> np.ndarray:
    from scipy import ndimage

    if film.shape == (size, size):
        return film
    factor = film.shape[0] / size
    smooth = ndimage.gaussian_filter(film, max(0.0, (factor - 1) / 2), mode="grid-constant", cval=0.0)
    resized = ndimage.zoom(smooth, 1 / factor, order=1, mode="grid-constant", cval=0.0, grid_mode=True)
    limited: np.ndarray = np.clip(resized, film.min(), film.max())
    return limited
