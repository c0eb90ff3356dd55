"""Image classifiers of torchvision, from a state dict alone: shapes tell the architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .judge import IMAGENET_MEAN, IMAGENET_STD, SIGMOID, Judge, Settings, Squash, checked_size

# A key that only this family has, the family's names in torchvision, and where its head lies.
FAMILIES: dict[str, tuple[str, str, str]] = {
    "DenseNet": (r"features\.denseblock1\.denselayer1\.", r"densenet\d+", "classifier"),
    "ResNet": (r"layer1\.0\.conv1\.", r"(wide_)?resne(x)?t\d+.*", "fc"),
    "Swin": (r"features\.1\.0\.attn\.relative_position_bias_table", r"swin_.*", "head"),
    "ConvNeXt": (r"features\.1\.0\.layer_scale", r"convnext_.*", "classifier.2"),
    "ViT": (r"encoder\.layers\.encoder_layer_0\.", r"vit_.*", "heads.head"),
    "EfficientNet": (r"features\.1\.0\.block\.0\.0\.weight", r"efficientnet_.*", "classifier.1"),
    "MobileNetV3": (r"features\.1\.block\.0\.0\.weight", r"mobilenet_v3_.*", "classifier.3"),
    "VGG": (r"classifier\.6\.weight", r"vgg\d+.*", "classifier.6"),
}
XRV_CHANNELS = 1


def family_of(state: Mapping[str, Tensor]) -> str | None:
    """Name the family of `FAMILIES` that a state dict belongs to; None for none of them."""
    for family, (pattern, _, _) in FAMILIES.items():
        if any(re.match(pattern, key) for key in state):
            return family
    return None


def at_root(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without what a wrapper calls its network, such as `densenet121.` or `resnet.`.

    A head beside the network keeps its name. Layers of old DenseNets (`norm.1`) get their new names.
    """
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): v for key, v in state.items()}
    for pattern, _, _ in FAMILIES.values():
        matches = [match for key in state if (match := re.search(rf"(?:^|(?<=\.)){pattern}", key))]
        places = {match.string[: match.start()] for match in matches}
        if places:
            # several: a teacher, or averaged weights beside; which of them is wanted is not known
            place = places.pop() if len(places) == 1 else ""
            return {key.removeprefix(place): value for key, value in state.items()}
    return state


def build(state: Mapping[str, Tensor], name: str) -> tuple[str, nn.Module, nn.Module]:
    """Return the architecture's name, the network with those weights, and its head.

    The head may be any sequence whose last layer is linear, under any number; it is rebuilt as that layer.
    The first convolution may have another number of channels than three.

    Raises
    ------
    ValueError
        If no model of the family has these shapes.
    """
    import torchvision

    family = family_of(state)
    if family is None:
        first = ", ".join(list(state)[:3])
        raise ValueError(
            f"classifier: {name} is none of torchvision's {', '.join(FAMILIES)} (its keys begin with "
            f"{first}); save "
            "the model's own state dict, or a folder of transformers or timm."
        )
    _, pattern, place = FAMILIES[family]
    weights = _head_at(dict(state), place, name)
    outputs = weights[f"{place}.weight"].shape[0]
    candidates = [model for model in torchvision.models.list_models() if re.fullmatch(pattern, model)]
    shapes = {key: value.shape for key, value in weights.items()}
    nearest, fewest = "", None
    for candidate in candidates:
        with torch.device("meta"):
            skeleton = torchvision.models.get_model(candidate, weights=None, num_classes=outputs)
        _match_channels(skeleton, shapes)
        wanted = {key: value.shape for key, value in skeleton.state_dict().items()}
        faults = [key for key in wanted.keys() | shapes.keys() if wanted.get(key) != shapes.get(key)]
        faults = [key for key in faults if not key.endswith("num_batches_tracked")]
        if not faults:
            network = skeleton.to_empty(device="cpu")
            _fill(network, weights)
            return candidate, network, network.get_submodule(place)
        if fewest is None or len(faults) < len(fewest):
            nearest, fewest = candidate, faults
    assert fewest is not None
    raise ValueError(
        f"classifier: {name} looks like a {family}, but fits none of torchvision's ({nearest} differs in "
        f"{len(fewest)} keys: {', '.join(sorted(fewest)[:3])}); save the model's own state dict."
    )


def read_torchvision(state: Mapping[str, Tensor], file: Path, settings: Settings | None = None) -> Judge:
    """Make a judge of a state dict of torchvision's DenseNet, ResNet, Swin, ConvNeXt, ViT, VGG, ….

    Parameters
    ----------
    state : mapping of str to Tensor
        Keys as torchvision names them, prefixes of wrappers already removed.
    file : path
        Where it was read, for messages.
    settings : Settings, optional
        A state dict says nothing of labels, size or normalisation. They come from here or from the sidecar;
        size 224, ImageNet's mean and deviation and sigmoid are taken else, and a note says so.

    Raises
    ------
    ValueError
        If the weights fit no architecture, or have one channel and nothing says how to normalise it.
    """
    settings = settings or Settings()
    architecture, network, head = build(state, file.name)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    sidecar = settings.sidecar
    if first.in_channels not in (1, 3):
        raise ValueError(
            f"classifier: {file.name} takes images of {first.in_channels} channels; give one that takes 1 "
            "or 3."
        )
    if first.in_channels == 1 and not {"mean", "std"} <= sidecar.keys():
        raise ValueError(
            f"classifier: {file.name} takes one channel, and nothing says in which range; put "
            f'{file.stem}.json beside it with "mean": [0.5], "std": [0.5] and, where needed, "scale": 1024.'
        )
    size = checked_size(settings.size or sidecar.get("image_size", 224), file.name)
    preprocess = Squash(
        size,
        tuple(sidecar.get("mean", IMAGENET_MEAN)),
        tuple(sidecar.get("std", IMAGENET_STD)),
        float(sidecar.get("scale", 1.0)),
    )
    if preprocess.channels != first.in_channels:
        raise ValueError(
            f"classifier: {file.name} takes {first.in_channels} channels, the mean in its sidecar has "
            f"{preprocess.channels}; give {first.in_channels} values."
        )
    notes = []
    if not settings.size and "image_size" not in sidecar:
        notes.append(
            f"classifier: {file.name}: a state dict does not say its input size; 224 is used. Set "
            "input_size, or put "
            f"{file.stem}.json beside it."
        )
    return Judge(
        network,
        head,
        sidecar.get("labels"),
        preprocess,
        settings.activation_or(SIGMOID, file.name),
        [file],
        f"torchvision {architecture}",
        notes=notes,
    )


def _head_at(weights: dict[str, Tensor], place: str, name: str) -> dict[str, Tensor]:
    """Move the head's last linear layer to where torchvision has it.

    People replace `fc` by a sequence with dropout (`fc.1.weight`), or `classifier` by another layer.
    """
    if f"{place}.weight" in weights:
        return weights
    root = place.split(".")[0]
    heads = [
        key for key in weights if re.fullmatch(rf"{root}(\.\w+)*\.weight", key) and weights[key].ndim == 2
    ]
    others = [
        key
        for key in weights
        if key.endswith(".weight")
        and weights[key].ndim == 2
        and not key.startswith(("features.", "layer", "encoder."))
    ]
    chosen = heads or others
    if len(chosen) != 1:
        what = f"{len(chosen)} linear layers ({', '.join(chosen[:3])})" if chosen else "no linear layer"
        raise ValueError(
            f"classifier: {name}: its head has {what} where one is read; save it with one linear layer "
            f"named {place}."
        )
    old = chosen[0].removesuffix(".weight")
    moved = {
        key: value
        for key, value in weights.items()
        if not key.startswith(f"{root}.") and key != f"{old}.bias"
    }
    moved.pop(chosen[0], None)
    moved[f"{place}.weight"] = weights[chosen[0]]
    if f"{old}.bias" in weights:
        moved[f"{place}.bias"] = weights[f"{old}.bias"]
    if family_keeps_norm(place):
        moved |= {
            key: value for key, value in weights.items() if re.match(rf"{root}\.0\.(weight|bias)$", key)
        }
    return moved


def family_keeps_norm(place: str) -> bool:
    """ConvNeXt has a normalisation in front of its head, under the same root."""
    return place == "classifier.2"


def _match_channels(skeleton: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Conv2d):
            shape = shapes.get(f"{name}.weight")
            if (
                shape is not None
                and len(shape) == 4
                and shape[1] != module.weight.shape[1]
                and module.groups == 1
            ):
                module.in_channels = shape[1]
                module.weight = nn.Parameter(torch.empty(shape, device="meta"))
            return


def _fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = network.state_dict()
    filled = {
        key: weights[key].to(own[key].dtype) if key in weights else torch.zeros_like(own[key]) for key in own
    }
    network.load_state_dict(filled)
    # Buffers outside the state dict, such as Swin v2's tables, are made anew: `to_empty` left them undefined.
    for module in network.modules():
        for buffer in module._non_persistent_buffers_set:
            if getattr(module, buffer, None) is not None:
                raise ValueError(
                    f"{type(module).__name__} keeps {buffer} outside its weights; this is not read."
                )
