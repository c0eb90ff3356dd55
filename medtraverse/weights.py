"""Weight files of other people's networks.

Looked for, never fetched, and read without running what is in them.
"""

from __future__ import annotations

import _codecs
import argparse
import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SAFETENSORS = (".safetensors", ".sft")
PYTORCH = (".pth", ".pt", ".ckpt", ".bin", ".pkl")
# Where trainers put a state dict inside their checkpoint; Lightning, timm, DeepSpeed and hand-written loops.
CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "unet",
    "net",
    "network",
    "ema",
    "model_ema",
    "params",
    "weights",
)
# What DataParallel, DistributedDataParallel, torch.compile and EMA wrappers put before every key.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema_model.")


class ModelCheckpoint:
    """Stands for a record that Lightning, and so Stable Diffusion's own files, keep beside the weights."""


# Under this name it is asked for.
ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def _numpy_scalar(module: str) -> Callable[..., object]:
    """Return numpy's maker of single numbers under the name that older, or newer, versions pickle."""

    def scalar(*arguments: object) -> object:
        core = np._core if hasattr(np, "_core") else np.core
        return core.multiarray.scalar(*arguments)

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


# What trainers keep beside the weights, none of which does anything: settings, a record, a loss.
HARMLESS = (
    argparse.Namespace,
    ModelCheckpoint,
    _numpy_scalar("numpy.core.multiarray"),
    _numpy_scalar("numpy._core.multiarray"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    _codecs.encode,
)
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)")


def find_weights(name: str, folders: Sequence[str | os.PathLike[str]] = ()) -> Path | None:
    """Path of the file `name` in one of `folders` or in torch's hub cache.

    None where it is in none of them.
    """
    found = [path for folder in places(folders) if (path := folder / name).is_file()]
    return found[0] if found else None


def places(folders: Sequence[str | os.PathLike[str]] = ()) -> list[Path]:
    """The folders that `find_weights` looks in, in order."""
    return [*map(Path, folders), Path(torch.hub.get_dir()) / "checkpoints"]


def read_tensors(path: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    """Read the tensors of a weight file, without running or unpickling anything else.

    Parameters
    ----------
    path : path
        A safetensors file (`.safetensors`, `.sft`), else a PyTorch file. One part of sharded weights stands
        for all of them: the index beside it names the rest.
    name : str
        Name of the input, for messages.

    Returns
    -------
    dict of str to Tensor
        On the CPU. A trainer's container (`state_dict`, `model`, …) is opened; keys are as they are in the
        file.

    Raises
    ------
    ValueError
        If the file is missing, unreadable, or holds no state dict. The message never repeats PyTorch's advice
        to unpickle objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{name}: file {path.name} is missing; put it back or choose another.")
    shards = shards_of(path, name)
    if len(shards) > 1:
        whole: dict[str, Tensor] = {}
        for shard in shards:
            whole |= _read(shard, name)
        return whole
    return _read(path, name)


def metadata_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file.

    Empty for other files, and where there is none.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.suffix.lower() not in SAFETENSORS:
        return {}
    try:
        with safe_open(str(path), framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return {}  # `read_tensors` says what is wrong


def shards_of(path: str | os.PathLike[str], name: str) -> list[Path]:
    """Return all parts of the sharded weights that a file is one of, in order; the file alone where it is
    whole.

    Raises ValueError, naming the input `name`, if a part is missing or the index names a file elsewhere.
    """
    path = Path(path)
    match = SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    index = path.with_name(f"{match['stem']}{match['suffix']}.index.json")
    return shards_in(index, name) if index.is_file() else _numbered(path, match, name)


def shards_in(index: Path, name: str) -> list[Path]:
    """Return the parts that an index of sharded weights (`….safetensors.index.json`) names, in order."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: {index.name} is no index of sharded weights; download it again."
        ) from error
    for part in names:
        if not isinstance(part, str) or Path(part).name != part:
            raise ValueError(f"{name}: {index.name} names {part!r}, which is not a file beside it.")
        if not (index.parent / part).is_file():
            raise ValueError(f"{name}: {index.name} names {part}, which is missing; download it again.")
    return [index.parent / part for part in names]


def without_wrappers(state: Mapping[str, Tensor], wrappers: Iterable[str] = WRAPPERS) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that all of its keys have from wrappers."""
    state, wrappers = dict(state), tuple(wrappers)
    while prefix := next((p for p in wrappers if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _numbered(path: Path, match: re.Match[str], name: str) -> list[Path]:
    count = int(path.stem[-5:])
    parts = [
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}{match['suffix']}")
        for number in range(1, count + 1)
    ]
    for part in parts:
        if not part.is_file():
            raise ValueError(f"{name}: {part.name}, a part of {path.name}, is missing; download it again.")
    return parts


def _read(path: Path, name: str) -> dict[str, Tensor]:
    _check_start(path, name)
    if path.suffix.lower() in SAFETENSORS:
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # safetensors has an exception of its own, and OSError
            raise ValueError(
                f"{name}: {path.name} could not be read as safetensors; it is cut off, or another kind of "
                "file. Download or convert it again."
            ) from error
    return _opened(_unpickled(path, name), path, name)


def _check_start(path: Path, name: str) -> None:
    """Name what is often there instead of weights.

    An empty download, a page, a pointer, a TorchScript archive.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        raise ValueError(f"{name}: {path.name} is empty; download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{name}: {path.name} is a Git LFS pointer, not the weights; run git lfs pull, or download "
            "the file."
        )
    if start.startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{name}: {path.name} is a web page, not weights; download the file itself.")
    if start.startswith(b"pk") and path.suffix.lower() not in SAFETENSORS and _is_torchscript(path):
        raise ValueError(
            f"{name}: {path.name} is a TorchScript archive, which holds code and is never run here; save "
            "its weights, safetensors.torch.save_file(torch.jit.load(FILE).state_dict(), NEW_FILE)."
        )


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.endswith("/constants.pkl") or "/code/" in entry for entry in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _unpickled(path: Path, name: str) -> object:
    harmless = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        with harmless(list(HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells how to unpickle them all the same. Only the object's name is taken from
        # it.
        named = re.search(r"(?:GLOBAL|global|class) ([\w.]+\.[\w.]+)", str(error))
        objects = f" ({named[1]})" if named else ""
        raise ValueError(
            f"{name}: {path.name} is cut off, or holds Python objects{objects} beside its tensors, "
            "which are never unpickled here; save its state dict alone, best as safetensors."
        ) from error
    except Exception as error:  # torch.load has no single exception for a file that it cannot read
        raise ValueError(
            f"{name}: {path.name} could not be read as PyTorch weights; it is cut off, or another kind of "
            "file. Download or convert it again."
        ) from error


def _opened(loaded: object, path: Path, name: str) -> dict[str, Tensor]:
    """Open a trainer's containers until a dict of tensors is left."""
    place = ""
    while isinstance(loaded, Mapping):
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return {str(key): value for key, value in loaded.items()}
        inner = next((key for key in CONTAINERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded, place = loaded[inner], f"{place}[{inner!r}]"
    if isinstance(loaded, Mapping):
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if tensors and any("." in key for key in tensors):
            return tensors  # counters and settings beside the weights
        there = f"the keys {', '.join(map(repr, list(loaded)[:5]))}" if loaded else "nothing"
    else:
        there = f"a {type(loaded).__name__}"
    raise ValueError(
        f"{name}: {path.name}{place} holds {there} and no state dict; save one bare, or under "
        f"{', '.join(map(repr, CONTAINERS[:3]))}."
    )
