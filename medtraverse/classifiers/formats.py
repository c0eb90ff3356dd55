"""Which reader a classifier's file or folder needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..weights import PYTORCH, SAFETENSORS, metadata_of, read_tensors, without_wrappers
from .efficientnet import is_efficientnet, read_efficientnet
from .huggingface import CONFIG, read_huggingface
from .judge import ACTIVATIONS, Judge, Settings
from .timm_folder import read_timm
from .torchvision_state import at_root, family_of, read_torchvision
from .torchxrayvision_state import THRESHOLDS, is_torchxrayvision, read_torchxrayvision
from .trained import is_trained, read_trained
from .zero_shot import OPEN_CLIP, read_clip

ZERO_SHOT_TYPES = ("clip", "siglip", "siglip2", "chinese_clip", "altclip")
# What trainers call the network inside theirs.
INNER = ("module.", "model.", "net.", "network.", "backbone.", "encoder_model.", "classifier_model.", "base.")
# CheXNet's and other old training scripts write model.pth.tar, which is no archive.
SUFFIXES = (*SAFETENSORS, *PYTORCH, ".tar")
SIDECAR_KEYS: dict[str, type | tuple[type, ...]] = {
    "labels": list,
    "image_size": int,
    "mean": list,
    "std": list,
    "scale": (int, float),
    "activation": str,
}


def is_classifier_folder(folder: Path) -> bool:
    """Whether a folder holds a classifier of transformers, timm or open_clip."""
    return (folder / CONFIG).is_file() or (folder / OPEN_CLIP).is_file()


def read_judge(path: Path, settings: Settings | None = None) -> Judge:
    """Read a classifier in any of the formats that are known.

    Parameters
    ----------
    path : path
        A folder of transformers, timm or open_clip; or a file with a state dict: the paper's EfficientNet,
        or a
        model of torchvision or torchxrayvision. A file `NAME.json` beside `NAME.pth` may say `labels`,
        `image_size`, `mean`, `std`, `scale` and `activation`.
    settings : Settings, optional

    Raises
    ------
    ValueError
        If it is none of these, or incomplete. The message names what is there and what is wanted.
    """
    settings = settings or Settings()
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, settings)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"classifier: {path.name} ends in {path.suffix or 'no suffix'!r}; give a .safetensors, .pth, "
            ".pt, .ckpt, .bin or .pth.tar file, or a folder of transformers or timm."
        )
    try:
        state = read_tensors(path, "classifier")
    except ValueError as error:
        if "torchxrayvision." not in str(error):
            raise
        raise ValueError(
            f"classifier: {path.name} is a whole model of torchxrayvision, and such a pickle is a program, "
            "never run here; take its weights out by python -m medtraverse convert-torchxrayvision "
            f"{path.name}, and choose the new file."
        ) from None
    settings, metadata = replace(settings, sidecar=read_sidecar(path)), metadata_of(path)
    if is_trained(metadata):
        return read_trained(state, path, metadata, settings)
    if any(key.endswith("logit_scale") for key in state):
        raise ValueError(
            f"classifier: {path.name} holds the weights of a CLIP model alone, which show neither its heads "
            "nor its words; give its whole folder, with config.json or open_clip_config.json and the "
            "tokenizer."
        )
    if is_efficientnet(state):
        return read_efficientnet(state, path, metadata, settings)
    thresholds = {key: state.pop(key) for key in list(state) if key.split(".")[-1] == THRESHOLDS}
    state = at_root(without_wrappers(_inner(state), INNER))
    if thresholds:
        state[THRESHOLDS] = next(iter(thresholds.values()))
    if is_torchxrayvision(state):
        return read_torchxrayvision(state, path, settings, metadata)
    return read_torchvision(state, path, settings)


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what `NAME.json` beside a classifier's file says of it; nothing where there is none.

    Training records lie there too: a file in which one of the known keys is of another kind says nothing.
    """
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {}
    try:
        fields = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    if not isinstance(fields, dict):
        return {}
    known = {key: value for key, value in fields.items() if key in SIDECAR_KEYS}
    fits = all(
        isinstance(value, SIDECAR_KEYS[key]) and not isinstance(value, bool) for key, value in known.items()
    )
    return known if fits and known.get("activation", ACTIVATIONS[0]) in ACTIVATIONS else {}


def _read_folder(folder: Path, settings: Settings) -> Judge:
    if settings.size is not None:
        raise ValueError(
            f"input_size: {folder.name} has a preprocessing of its own, which decides its size; set 0."
        )
    if (folder / OPEN_CLIP).is_file():
        return read_clip(folder, settings)
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"classifier: the folder {folder.name} has no {CONFIG} and no {OPEN_CLIP}; give a folder that "
            "transformers, "
            "timm or open_clip saved."
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"classifier: {folder.name}/{CONFIG} cannot be read ({error}); copy it again."
        ) from error
    if kind in ZERO_SHOT_TYPES:
        return read_clip(folder, settings)
    if kind in (None, "timm_wrapper") and "architecture" in config:
        return read_timm(folder, settings)
    return read_huggingface(folder, settings)


def _inner(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what trainers keep beside the network: losses, metrics, a teacher."""
    beside = ("criterion.", "loss.", "loss_fn.", "metrics.", "train_metrics.", "val_metrics.", "teacher.")
    kept = {
        key: value for key, value in state.items() if not key.startswith(beside) and "pos_weight" not in key
    }
    return kept if family_of(at_root(without_wrappers(kept, INNER))) else state
