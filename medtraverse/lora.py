"""What a LoRA file changes, by the names of its keys, and under which names ComfyUI applies it.

diffusers' training scripts save keys that ComfyUI's Load LoRA does not know, and passes over with a line in
the log. Here they get the names that it does know.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import metadata_of, read_tensors

# What stands behind the name of a changed layer: diffusers', PEFT's and kohya's halves, LyCORIS' pieces.
_PIECE = re.compile(
    r"(_lora\.(up|down)\.weight|\.lora_(up|down|mid)\.weight|\.lora_[AB](\.\w+)?(\.weight)?"
    r"|(\.lora|\.lora_linear_layer)\.(up|down)\.weight|\.(alpha|dora_scale|reshape_weight)"
    r"|\.(hada|lokr|oft|boft|glora|a|b)\w*(\.weight)?|\.(diff|diff_b|w_norm|b_norm|set_weight))$"
)
_TEXT = ("lora_te", "text_encoder", "text_model.", "te_", "te1_", "te2_")
_HALVES = {"lora_A": "lora_down", "lora_B": "lora_up", "lora.down": "lora_down", "lora.up": "lora_up"}
_OF_DIFFUSERS = re.compile(
    r"(?:(?P<part>unet|text_encoder)\.)?(?:base_model\.model\.)?"
    r"(?P<layer>.+?)\.(?P<half>lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)"
    r"(?:\.default)?\.weight"
)


def changed_layers(keys: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the names of the layers that a LoRA changes, ``(of the U-Net, of text encoders)``."""
    names = {_PIECE.sub("", key) for key in keys if _PIECE.search(key)}
    text = {name for name in names if name.startswith(_TEXT)}
    return names - text, text


def renamed(weights: Mapping[str, Tensor], scales: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return a LoRA of diffusers or PEFT under the keys that ComfyUI applies.

    Parameters
    ----------
    weights : mapping of str to Tensor
    scales : mapping, optional
        What diffusers writes into the header: ``unet.lora_alpha`` and ``unet.r``. Without it α is the rank,
        as diffusers takes it.

    Returns
    -------
    dict of str to Tensor
        ``lora_unet_… .lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` for each layer; for layers of
        the text encoder ``lora_te_…``.

    Raises
    ------
    ValueError
        If a key is not one of a LoRA that diffusers or PEFT saved.
    """
    scales, result = scales or {}, {}
    for key, value in weights.items():
        match = _OF_DIFFUSERS.fullmatch(key)
        if match is None:
            raise ValueError(
                f"file: {key!r} is no key of a LoRA of diffusers or PEFT; Load LoRA takes others as they are."
            )
        text = match["part"] == "text_encoder" or match["layer"].startswith("text_model.")
        layer = match["layer"].replace(".processor.", ".").replace(".", "_")
        name = f"{'lora_te' if text else 'lora_unet'}_{layer}"
        half = match["half"].replace("lora_linear_layer", "lora")
        result[f"{name}.{_HALVES[half]}.weight"] = value.contiguous()
        if _HALVES[half] == "lora_down":
            part = "text_encoder" if text else "unet"
            pattern = scales.get(f"{part}.alpha_pattern") or {}
            alpha = pattern.get(match["layer"], scales.get(f"{part}.lora_alpha", value.shape[0]))
            result[f"{name}.alpha"] = torch.tensor(float(alpha))
    return result


def convert(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write a LoRA of diffusers or PEFT under ComfyUI's keys; return how many layers it changes.

    Raises ValueError for another kind of file, and one whose target exists.
    """
    from safetensors.torch import save

    from .whole_file import write_bytes

    path, target = Path(path), Path(target)
    if target.exists():
        raise ValueError(f"output: {target} exists; name another file.")
    try:
        scales = json.loads(metadata_of(path).get("lora_adapter_metadata", "{}"))
    except ValueError:
        scales = {}
    made = renamed(read_tensors(path, "file"), scales if isinstance(scales, dict) else {})
    write_bytes(target, save(made))
    return sum(map(len, changed_layers(made)))
