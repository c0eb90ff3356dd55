"""The paper's classifiers: EfficientNets of torchvision, of any width and depth, from their state dicts.

The paper (TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623) scores images with EfficientNet-B0,
its head replaced by `Dropout(0.3)` and a linear layer with one logit per attribute, on 512 × 512 inputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .judge import IMAGENET_MEAN, IMAGENET_STD, SIGMOID, Judge, Settings, Squash, checked_size

PAPER_INPUT_SIZE = 512
# Strides leave no trace in the weights; these are every EfficientNet's.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPECTED = "torchvision's EfficientNet (B0 to B4, any width) with one linear layer as head"
_FIRST_KEY, _LAST_KEY = "features.0.0.weight", "features.8.0.weight"


def is_efficientnet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of an EfficientNet B0 to B4, whatever wrappers put before its keys."""
    # Version 2 has no squeeze layer in its first stage; B5 and larger use another batch normalisation.
    last = next((value for key, value in state.items() if key.endswith(_LAST_KEY)), None)
    squeezed = any(re.search(r"features\.1\.0\.block\.\d\.fc1\.weight$", key) for key in state)
    return squeezed and (last is None or last.shape[0] < 2048)


def read_efficientnet(
    state: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str], settings: Settings | None = None
) -> Judge:
    """Make a judge of an EfficientNet's state dict.

    Parameters
    ----------
    state : mapping of str to Tensor
        Prefixes of wrappers and the head's name do not matter. Width, depth and number of logits are read
        from
        the weights.
    file : path
        Where it was read, for messages.
    metadata : mapping of str to str
        Of the safetensors file: `labels`, a JSON list, and `image_size`.
    settings : Settings, optional

    Raises
    ------
    ValueError
        If the weights fit no EfficientNet, or the metadata is not what it should be.
    """
    settings = settings or Settings()
    known = {**settings.sidecar, **decode_metadata(file, metadata)}
    network = _network(file, _bare(file, dict(state)))
    size = checked_size(settings.size or known.get("image_size", PAPER_INPUT_SIZE), file.name)
    head = network.get_submodule("classifier")[-1]  # type: ignore[index]
    return Judge(
        network,
        head,
        known.get("labels"),
        Squash(
            size,
            tuple(known.get("mean", IMAGENET_MEAN)),
            tuple(known.get("std", IMAGENET_STD)),
            float(known.get("scale", 1.0)),
        ),
        settings.activation_or(SIGMOID, file.name),
        [file],
        "torchvision EfficientNet",
    )


def _bare(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what wrappers put before them (`module.`, `backbone.`, …), the head as `classifier.1`."""
    before = [key.removesuffix(_FIRST_KEY) for key in state if key.endswith(_FIRST_KEY)]
    if len(before) != 1:
        return state  # `_network` says what is there
    body = f"{before[0]}features."
    network = {
        f"features.{key.removeprefix(body)}": value for key, value in state.items() if key.startswith(body)
    }
    others = {key: value for key, value in state.items() if not key.startswith(body) and not _in_loss(key)}
    channels = network.get(_LAST_KEY, torch.empty(0)).shape[0]
    heads = [
        key for key, value in others.items() if key.endswith(".weight") and value.shape[1:] == (channels,)
    ]
    linear = [key for key, value in others.items() if value.ndim == 2]
    if heads and heads == linear:
        old = heads[0].removesuffix(".weight")
        for part in ("weight", "bias"):
            if f"{old}.{part}" in others:
                network[f"classifier.1.{part}"] = others.pop(f"{old}.{part}")
    elif linear:
        raise ValueError(
            f"classifier: {file.name} has {len(linear)} linear layers behind its features "
            f"({', '.join(linear[:3])}); {_EXPECTED} is read."
        )
    return network | {key.removeprefix(before[0]): value for key, value in others.items()}


def _in_loss(key: str) -> bool:
    """Trainers keep class weights and metrics beside the network."""
    return key.endswith("pos_weight") or key.split(".")[0] in ("criterion", "loss", "loss_fn", "metrics")


def decode_metadata(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Labels and input size that a safetensors file names. ValueError where they are no JSON of that kind."""
    decoded: dict[str, Any] = {}
    for key, kind, wanted in (("labels", list, '["hair", "ink"]'), ("image_size", int, "128")):
        if key in metadata:
            try:
                decoded[key] = json.loads(metadata[key])
            except json.JSONDecodeError:
                decoded[key] = None
            if not isinstance(decoded[key], kind):
                raise ValueError(
                    f"classifier: the metadata of {file.name} has {key} = {metadata[key]!r}; write JSON "
                    f"such as {wanted}."
                )
    return decoded


def _network(file: Path, state: dict[str, Tensor]) -> nn.Module:
    """EfficientNet whose blocks are read from the shapes in `state`, with those weights in float32."""
    try:
        network = _build(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        first = ", ".join(list(state)[:3])
        reason = f"no key {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"classifier: {file.name} is not an EfficientNet ({reason}; its keys begin with {first}); "
            f"{_EXPECTED} is read."
        ) from error
    expected = network.state_dict()
    missing, unmapped = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or unmapped:
        faults = [
            f"{len(keys)} keys {word} ({', '.join(keys[:3])})"
            for keys, word in ((missing, "missing"), (unmapped, "unmapped"))
            if keys
        ]
        raise ValueError(f"classifier: {file.name} does not fit, {'; '.join(faults)}; {_EXPECTED} is read.")
    wrong = [
        f"{k} {list(state[k].shape)}, not {list(v.shape)}"
        for k, v in expected.items()
        if state[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(
            f"classifier: {file.name} does not fit, {'; '.join(wrong[:3])}; {_EXPECTED} is read."
        )
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()})
    return network


def _build(state: dict[str, Tensor]) -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stages = []
    for index, stride in enumerate(_STRIDES, 1):
        block = f"features.{index}.0.block."
        layers = {int(m[1]) for key in state if (m := re.match(rf"features\.{index}\.(\d+)\.", key))}
        parts = {int(m[1]) for key in state if (m := re.match(re.escape(block) + r"(\d+)\.", key))}
        if not layers or not parts:
            raise ValueError(f"no key starts with {block}")
        # An expansion by 1 leaves its convolution out: three parts instead of four.
        last, expands = max(parts), len(parts) == 4
        depthwise, project = state[f"{block}{last - 2}.0.weight"], state[f"{block}{last}.0.weight"]
        channels = state[f"{block}0.0.weight"].shape[1] if expands else depthwise.shape[0]
        stages.append(
            MBConvConfig(
                depthwise.shape[0] / channels,
                depthwise.shape[-1],
                stride,
                channels,
                project.shape[0],
                len(layers),
                1.0,
                1.0,
            )
        )
    head, final = state["classifier.1.weight"], state["features.8.0.weight"]
    network: nn.Module = EfficientNet(
        stages, dropout=0.3, num_classes=head.shape[0], last_channel=final.shape[0]
    )
    return network
