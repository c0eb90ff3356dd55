"""torchxrayvision's classifiers, from their state dicts: raw sigmoid, one channel from -1024 to 1024."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .efficientnet import decode_metadata
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
_OF_CHEXPERT = ("Infiltration", "Emphysema", "Fibrosis", "Pleural_Thickening", "Nodule", "Mass", "Hernia")
# Which outputs torchxrayvision's weights were not trained for, by its names of the weights.
UNTRAINED: dict[str, tuple[str, ...]] = {
    "densenet121-res224-all": (),
    "densenet121-res224-nih": ("Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
    "densenet121-res224-pc": ("Lung Lesion", "Lung Opacity", "Enlarged Cardiomediastinum"),
    "densenet121-res224-chex": _OF_CHEXPERT,
    "densenet121-res224-rsna": tuple(
        name for name in PATHOLOGIES if name not in ("Pneumonia", "Lung Opacity")
    ),
    "densenet121-res224-mimic_nb": _OF_CHEXPERT,
    "densenet121-res224-mimic_ch": _OF_CHEXPERT,
    "resnet50-res512-all": ("Lung Lesion", "Enlarged Cardiomediastinum"),
}
# How the released files' names begin.
_RELEASES = {
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121": "densenet121-res224-all",
    "nih-densenet121": "densenet121-res224-nih",
    "pc-densenet121": "densenet121-res224-pc",
    "chex-densenet121": "densenet121-res224-chex",
    "kaggle-densenet121": "densenet121-res224-rsna",
    "mimic_nb-densenet121": "densenet121-res224-mimic_nb",
    "mimic_ch-densenet121": "densenet121-res224-mimic_ch",
    "pc-nih-rsna-siim-vin-resnet50": "resnet50-res512-all",
}


def released_weights(file: str) -> str:
    """Return torchxrayvision's name of a file's weights, by the file's name; empty where it shows none."""
    starts = {**_RELEASES, **{name: name for name in UNTRAINED}}
    return next((name for start, name in starts.items() if file.startswith(start)), "")


def trained_by(weights: str) -> frozenset[str] | None:
    """Return the labels that weights of torchxrayvision's were trained for; None for weights not known."""
    return frozenset(PATHOLOGIES).difference(UNTRAINED[weights]) if weights in UNTRAINED else None


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


def read_torchxrayvision(
    state: Mapping[str, Tensor],
    file: Path,
    settings: Settings | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Judge:
    """Make a judge of the state dict of a torchxrayvision DenseNet-121 or ResNet-50.

    Parameters
    ----------
    state : mapping of str to Tensor
        Keys without the prefix `model.`.
    file : path
        Where it was read, for messages.
    settings : Settings, optional
    metadata : mapping of str to str, optional
        Of a safetensors file: `labels`, a JSON list of 18, empty where a label was not trained; `image_size`.

    Returns
    -------
    Judge
        Its probabilities are the plain sigmoid. torchxrayvision itself rescales each label by a threshold
        of its own (`op_threshs`), which changes what CFRT compares across labels. A label that the weights
        were not trained for is left out: the metadata says it, else a threshold that is missing, else the
        file's name.

    Raises
    ------
    ValueError
        If the metadata is not of that form.
    """
    settings = settings or Settings()
    declared = decode_metadata(file, metadata or {})
    described = {**declared, **settings.sidecar}
    family = family_of(state)
    assert family is not None
    thresholds = state.get(THRESHOLDS)
    weights = {key: value for key, value in state.items() if key != THRESHOLDS}
    architecture, network, head = build(weights, file.name)
    known = trained_by(released_weights(file.name))
    names: list[str] = declared.get("labels", [])
    if not names:
        names = [name if known is None or name in known else "" for name in PATHOLOGIES]
        if thresholds is not None:
            names = [name if value == value else "" for name, value in zip(PATHOLOGIES, thresholds.tolist())]
    if len(names) != len(PATHOLOGIES) or not any(names):
        raise ValueError(
            f"classifier: the metadata of {file.name} has {len(names)} labels; write {len(PATHOLOGIES)}, "
            "empty where one was not trained."
        )
    columns = [number for number, name in enumerate(names) if name]
    notes = [
        f"classifier: {file.name}: torchxrayvision has no label Support Devices; its probabilities are the "
        "plain sigmoid, not rescaled by op_threshs."
    ]
    if known is None and thresholds is None and "labels" not in declared:
        notes.append(
            f"classifier: {file.name}: nothing says which of its 18 labels were trained, so all are used. "
            "Give it the name of its weights, such as densenet121-res224-chex.pt, or leave labels out by "
            "lines `label = logit`."
        )
    return Judge(
        network,
        head,
        settings.sidecar.get("labels") or [names[column] for column in columns],
        Film(checked_size(settings.size or described.get("image_size", SIZES[family]), file.name)),
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
