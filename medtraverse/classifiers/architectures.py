"""Networks by name: any image classifier of torchvision or timm, without weights, its head of our size.

What `training.classifier` trains and what `trained` reads back are built here, by the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .judge import IMAGENET_MEAN, IMAGENET_STD, last_linear

LIBRARIES = ("torchvision", "timm")
# torchvision's networks with a second, auxiliary output while they are trained.
_AUXILIARY = ("googlenet", "inception_v3")
# EfficientNet-B0: expansion, kernel, stride, channels in and out, layers (Tan & Le 2019, table 1).
_B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def full_name(name: str) -> str:
    """Return an architecture's name with its library: ``torchvision:resnet50``, ``timm:convnext_tiny``.

    Parameters
    ----------
    name : str
        With the library or without; torchvision's comes first where both have one of that name.

    Raises
    ------
    ValueError
        Neither library has it, or it needs timm and timm is not installed.
    """
    library, colon, short = name.partition(":")
    libraries, short = ((library,), short) if colon else (LIBRARIES, name)
    known: list[str] = []
    for library in libraries:
        names = _names(library)
        if short in names:
            return f"{library}:{short}"
        known += names
    near = ", ".join(difflib.get_close_matches(short, known, 3)) or "efficientnet_b0"
    hint = "" if _has_timm() else " (timm is not installed: python -m pip install timm brings many more)"
    raise ValueError(
        f"backbone: {name!r} is no image classifier of {' or '.join(libraries)}{hint}; near are {near}."
    )


def build(
    architecture: str,
    outputs: int,
    size: int,
    width: float = 1.0,
    dropout: float = 0.0,
    drop_path: float | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Build a network and return it with its last layer.

    Parameters
    ----------
    architecture : str
        By `full_name`.
    outputs : int
        Number of logits.
    size : int
        Side of the input in pixels; transformers are built for it.
    width : float
        Multiplier of the channels of torchvision's efficientnet_b0, which alone has one.
    dropout : float
        Share of the features that the last layer does not see in training, as the paper's head. 0..1.
    drop_path : float, optional
        Share of the residual blocks left out in training; None takes the library's own.

    Raises
    ------
    ValueError
        The library does not build that network for that size, or it has no last linear layer.
    """
    library, _, name = architecture.partition(":")
    if width != 1 and architecture != "torchvision:efficientnet_b0":
        raise ValueError(f"width: {name} has one width; leave it out, or take efficientnet_b0.")
    try:
        network = (
            _timm(name, outputs, size, drop_path)
            if library == "timm"
            else _torchvision(name, outputs, size, width, drop_path)
        )
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"backbone: {library} does not build {name} for {outputs} labels and {size} pixels "
            f"({' '.join(str(error).split())[:150]}); take another backbone or size."
        ) from error
    get = getattr(network, "get_classifier", None)
    head = get() if get else None
    if not isinstance(head, nn.Module) or getattr(head, "out_features", None) != outputs:
        head = last_linear(network, outputs)
    if head is None:
        raise ValueError(f"backbone: {name} has no last layer with {outputs} outputs; take another.")
    if dropout:
        _set_dropout(network, head, dropout)
    return network, head


def fixed_size(architecture: str) -> bool:
    """Whether a network takes images of the one size only that it was built for."""
    library, _, name = architecture.partition(":")
    if library == "timm":
        return bool(_configuration(name).get("fixed_input_size"))
    return name.startswith("vit_")


def normalisation(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation, per channel of RGB in 0..1, that pretrained weights of it expect."""
    library, _, name = architecture.partition(":")
    known = _configuration(name) if library == "timm" else {}
    return tuple(known.get("mean", IMAGENET_MEAN)), tuple(known.get("std", IMAGENET_STD))


def place_of(network: nn.Module, layer: nn.Module) -> str:
    """Return a layer's name in its network."""
    places: dict[int, str] = {id(module): name for name, module in network.named_modules()}
    return places[id(layer)]


def _names(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models(module=torchvision.models))
    if library == "timm" and _has_timm():
        import timm

        return list(timm.list_models())
    return []


def _has_timm() -> bool:
    from importlib.util import find_spec

    return find_spec("timm") is not None


def _configuration(name: str) -> Mapping[str, Any]:
    import timm

    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {} if found is None else dict(found.to_dict())


def _timm(name: str, outputs: int, size: int, drop_path: float | None) -> nn.Module:
    import timm

    options: dict[str, object] = {"num_classes": outputs}
    if drop_path is not None:
        options["drop_path_rate"] = drop_path
    if fixed_size(f"timm:{name}"):
        options["img_size"] = size
    network: nn.Module = timm.create_model(name, pretrained=False, **options)
    return network


def _torchvision(name: str, outputs: int, size: int, width: float, drop_path: float | None) -> nn.Module:
    import torchvision
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    options: dict[str, object] = {}
    if drop_path is not None:
        options["stochastic_depth_prob"] = drop_path
    if name.startswith("vit_"):
        options["image_size"] = size
    if name in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    network: nn.Module
    if width != 1:
        row = partial(MBConvConfig, width_mult=width, depth_mult=1.0)
        network = EfficientNet(
            [row(*stage) for stage in _B0],
            dropout=0.2,
            num_classes=outputs,
            **{"stochastic_depth_prob": 0.2, **options},
        )
    else:
        network = torchvision.models.get_model(name, weights=None, num_classes=outputs, **options)
    return network


def _set_dropout(network: nn.Module, head: nn.Module, share: float) -> None:
    """Set the dropout that stands before the head; where there is none, put one there."""
    parent, _, last = place_of(network, head).rpartition(".")
    siblings = dict(network.get_submodule(parent).named_children())
    before = siblings.get(str(int(last) - 1)) if last.isdigit() else None
    if isinstance(before, nn.Dropout):
        before.p = share
        return

    def drop(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(given[0], share, layer.training), *given[1:])

    head.register_forward_pre_hook(drop)
