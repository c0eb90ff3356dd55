"""Which files had a part in a MODEL and in its prompts, and how much of a LoRA core has applied.

A MODEL of Load Medical Checkpoint carries the files that it was read from. What core's own nodes have loaded
or laid over it leaves no name on the MODEL, so names are looked up in the graph that is running; the weights
that were changed are told apart by a digest of the changes.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import folder_paths
import torch

from ..medtraverse.digest import sha256_of
from ..medtraverse.lora import changed_layers
from ..medtraverse.weights import shards_of

# Inputs of core's loaders, and of other packs' that are named after them, and the kind of file they name.
KINDS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "lora_name": "loras",
    "vae_name": "vae",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
}
_EMBEDDING = re.compile(r"(?<!\S)embedding:(\S*)")
_EMBEDDING_SUFFIXES = ("", ".safetensors", ".pt", ".bin")
_digests: dict[Any, str] = {}


def files_of(nodes: Iterable[Mapping[str, Any]], prompts: Iterable[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of the files that nodes and prompts name, by their place under ``models``.

    Prompts name embeddings of textual inversion. Files that are not there are left out: core has said so.
    """
    texts, files = list(prompts), dict[str, Path]()
    for node in nodes:
        for name, value in node.get("inputs", {}).items():
            if not isinstance(value, str):
                continue
            texts.append(value)
            path = folder_paths.get_full_path(KINDS[name], value) if name in KINDS else None
            for file in shards_of(path, name) if path else ():
                place = Path(value.replace("\\", "/")).with_name(file.name).as_posix()
                files[f"{KINDS[name]}/{place}"] = file
    for name in {match for text in texts for match in _EMBEDDING.findall(text)}:
        embedding = _embedding(name.rstrip(","))
        if embedding is not None:
            files[f"embeddings/{embedding.name}"] = embedding
    return {place: sha256_of(file) for place, file in sorted(files.items())}


def _embedding(name: str) -> Path | None:
    """Return the file of an embedding, found as core finds it; it never lies outside of its folder."""
    for folder in map(Path, folder_paths.get_folder_paths("embeddings")):
        for suffix in _EMBEDDING_SUFFIXES:
            file = folder / f"{name}{suffix}"
            if name and file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                return file
    return None


def patches_digest(model: Any) -> str | None:
    """Return a digest of all changes to a MODEL's weights, with their strengths; None without any."""
    if not model.patches:
        return None
    if model.patches_uuid not in _digests:
        digest = hashlib.sha256()
        for key in sorted(model.patches):
            digest.update(key.encode())
            for patch in model.patches[key]:
                _digest(patch, digest)
        _digests.clear()
        _digests[model.patches_uuid] = digest.hexdigest()
    return _digests[model.patches_uuid]


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (tuple, list)):
        for part in value:
            _digest(part, digest)
    elif hasattr(value, "weights"):  # core's adapters
        digest.update(type(value).__name__.encode())
        _digest(value.weights, digest)
    elif value is None or isinstance(value, (str, int, float)):
        digest.update(repr(value).encode())


def loras_of(nodes: Iterable[Mapping[str, Any]], model: Any) -> list[dict[str, Any]]:
    """Return what core applies of each LoRA that is laid over a MODEL.

    Parameters
    ----------
    nodes : iterable of nodes in API format
        Those that the MODEL comes from.
    model : ModelPatcher

    Returns
    -------
    list of dict
        ``file``, ``strength``, and ``applied`` of the ``layers`` of the U-Net that the file changes. A layer
        is applied if core knows its name and the change has its shape.
    """
    loras = []
    for node in nodes:
        inputs = node.get("inputs", {})
        name, strength = inputs.get("lora_name"), inputs.get("strength_model")
        path = folder_paths.get_full_path("loras", name) if isinstance(name, str) else None
        if path is None or not isinstance(strength, (int, float)) or not strength:
            continue
        weights = comfy.utils.load_torch_file(path, safe_load=True)
        layers, _ = changed_layers(weights)
        loras.append(
            {
                "file": f"loras/{name}",
                "strength": strength,
                "applied": min(len(layers), _applied(weights, model)),
                "layers": len(layers),
            }
        )
    return loras


def _applied(weights: dict[str, torch.Tensor], model: Any) -> int:
    """Return how many changes of a LoRA core lays over the U-Net, in names and shapes."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    changes = comfy.lora.load_lora(comfy.lora_convert.convert_lora(weights), keys, log_missing=False)
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    targets = ((key if isinstance(key, str) else key[0], change) for key, change in changes.items())
    return sum(key in shapes and _fits(change, shapes[key]) for key, change in targets)


def _fits(change: Any, shape: torch.Size) -> bool:
    """Whether a change has the shape of its weight; core leaves others out with an error in the log."""
    if getattr(change, "name", "") == "lora":
        up, down, _, middle, *_ = change.weights
        return middle is not None or (
            up.shape[0] == shape[0] and down.flatten(1).shape[1] == shape[1:].numel()
        )
    if isinstance(change, tuple) and change[0] == "diff":
        return bool(change[1][0].shape == shape)
    return True


def doubts(loras: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each LoRA of which core applies a part or nothing, also written to the log."""
    lines = [
        f"{lora['file']}: {lora['applied']} of {lora['layers']} of its changes to the U-Net were applied; "
        "if diffusers or PEFT saved it, convert it by python -m medtraverse lora; else it is of another kind."
        for lora in loras
        if lora["applied"] < lora["layers"]
    ]
    for line in lines:
        logging.warning("MedTraverse: %s", line)
    return lines
