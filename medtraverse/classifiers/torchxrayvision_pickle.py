"""torchxrayvision's released files, which are whole modules, as weights that the loader reads.

A pickle is a program. But for tensors and the containers that hold them, every name in it stands here for an
empty shell, so that nothing of the file or of torchxrayvision is run.
"""

from __future__ import annotations

import collections
import json
import os
import pickle
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..digest import sha256_of
from ..weights import SAFETENSORS, metadata_of, read_tensors, without_wrappers
from ..whole_file import whole_file
from .formats import INNER
from .torchxrayvision_state import (
    PATHOLOGIES,
    SIZES,
    THRESHOLDS,
    UNTRAINED,
    is_torchxrayvision,
    released_weights,
    trained_by,
)

# All that a pickled module needs to have its tensors rebuilt.
_REBUILT = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


class _Shell:
    """Stands for any class or function of a pickle: takes all, does nothing, keeps a module's attributes."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _REBUILT.get((module, name)) or type(name, (_Shell,), {"__module__": module})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# What torch.load asks of a module in pickle's place.
_SHELLS = types.ModuleType("shells")
_SHELLS.__dict__.update(Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError)


def convert(path: str | os.PathLike[str], out: str | os.PathLike[str], weights: str = "") -> list[str]:
    """Write the weights of a torchxrayvision file as safetensors, with its labels and input size.

    Parameters
    ----------
    path : path
        A whole module, as torchxrayvision's releases are, or its state dict.
    out : path
        Where the safetensors file shall be. Nothing that is there is replaced.
    weights : str
        torchxrayvision's name of the weights, such as ``densenet121-res224-chex``: it says which of the 18
        labels they were trained for. Default: read off the thresholds in the file, or its name.

    Returns
    -------
    list of str
        The labels that were trained.

    Raises
    ------
    ValueError
        If the file is no classifier of torchxrayvision, nothing says which labels were trained, or `out`
        cannot be used.
    """
    from safetensors.torch import save_file

    path, out = Path(path), Path(out)
    if out.suffix.lower() not in SAFETENSORS:
        raise ValueError(f"out: {out.name} does not end in .safetensors; name such a file.")
    if out.exists():
        raise ValueError(f"out: {out} is there already; name another, or remove it.")
    if weights and weights not in UNTRAINED:
        raise ValueError(f"weights: there is no {weights!r}; choose one of {', '.join(UNTRAINED)}.")
    state, kind = _state(path)
    if not is_torchxrayvision(state):
        raise ValueError(
            f"{path.name}: it holds {kind}, and no DenseNet-121 or ResNet-50 with one channel and 18 "
            "outputs; give a file of torchxrayvision's releases."
        )
    trained = trained_by(weights or released_weights(path.name)) or _by_thresholds(state)
    if trained is None:
        raise ValueError(
            f"{path.name}: nothing says which of the 18 labels it was trained for; name its weights by "
            f"--weights, one of {', '.join(UNTRAINED)}."
        )
    labels = [name if name in trained else "" for name in PATHOLOGIES]
    family = "ResNet" if "fc.weight" in state else "DenseNet"
    described = {
        "format": "pt",
        "library": "torchxrayvision",
        "labels": json.dumps(labels),
        "image_size": json.dumps(SIZES[family]),
        "converted_from": json.dumps({"file": path.name, "sha256": sha256_of(path)}),
    }
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    with whole_file(out) as part:
        save_file(tensors, part, {**metadata_of(path), **described})
    return [label for label in labels if label]


def _state(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dict, without prefixes of wrappers, and what it was held by."""
    try:
        state, kind = read_tensors(path, "file"), "a state dict"
    except ValueError as error:
        if "never unpickled" not in str(error):  # missing, empty, TorchScript, …
            raise
        module = _unpickled(path)
        state, kind = dict(_tensors(module)), f"a {type(module).__name__}"
    thresholds = [state.pop(key) for key in list(state) if key.split(".")[-1] == THRESHOLDS]
    state = without_wrappers(state, INNER)
    return ({**state, THRESHOLDS: thresholds[0]} if thresholds else state), kind


def _unpickled(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # old files ask for the source of each class, and it is not looked for
        try:
            return torch.load(path, map_location="cpu", pickle_module=_SHELLS, weights_only=False)
        except Exception as error:  # whatever a broken pickle raises
            raise ValueError(
                f"{path.name}: it could not be read as a pickled module; it is cut off, or another kind of "
                "file. Download it again."
            ) from error


def _tensors(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a module's shell, as `state_dict` names them."""
    parts = module.__dict__ if isinstance(module, _Shell) else {}
    for held in (parts.get("_parameters"), parts.get("_buffers")):
        for name, value in (held or {}).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
    for name, inner in (parts.get("_modules") or {}).items():
        yield from _tensors(inner, f"{prefix}{name}.")


def _by_thresholds(state: dict[str, Tensor]) -> frozenset[str] | None:
    thresholds = state.get(THRESHOLDS)
    if thresholds is None:
        return None
    return frozenset(name for name, value in zip(PATHOLOGIES, thresholds.tolist()) if value == value)
