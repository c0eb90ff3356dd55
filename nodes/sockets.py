"""The pack's own socket types, and the check of what arrives in a socket.

The names of the types are forever: saved workflows hold them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..medtraverse import domain, projection, prompts, trajectory
from ..medtraverse.figures.drawing import Drawing
from ..medtraverse.medical_image import MedicalSource

Trajectory = io.Custom("MEDTRAVERSE_TRAJECTORY")
Domain = io.Custom("MEDTRAVERSE_DOMAIN")
Attributes = io.Custom("MEDTRAVERSE_ATTRIBUTES")
Classifier = io.Custom("MEDTRAVERSE_CLASSIFIER")
Figure = io.Custom("MEDTRAVERSE_FIGURE")
Source = io.Custom("MEDTRAVERSE_SOURCE")
Start = io.Custom("MEDTRAVERSE_START")

CATEGORY = "medical/traversal"

LOADER = "Load Medical Checkpoint, or of a loader of ComfyUI"


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _conditioning(value: Any) -> bool:
    """Whether a value is core's CONDITIONING, a list of [tensor, options]."""
    return isinstance(value, list) and all(
        isinstance(item, (list, tuple))
        and len(item) == 2
        and isinstance(item[0], torch.Tensor)
        and isinstance(item[1], dict)
        for item in value
    )


# Type of a socket: what its value is called, how it is told, which node's output it is. Other packs wrap
# core's MODEL, CLIP and VAE in classes of their own, so these are known by what they can do.
OBJECTS: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "MODEL": ("MODEL", _has("clone", "get_model_object", "model_options"), LOADER),
    "CLIP": ("CLIP", _has("tokenize", "encode_from_tokens_scheduled"), LOADER),
    "VAE": ("VAE", _has("decode", "encode"), LOADER),
    "CONDITIONING": ("CONDITIONING", _conditioning, "Medical Attribute Prompts or CLIP Text Encode"),
    "LATENT": (
        "LATENT",
        lambda value: isinstance(value, dict) and isinstance(value.get("samples"), torch.Tensor),
        "Prompt Swap KSampler",
    ),
    "IMAGE": (
        "IMAGE batch",
        lambda value: isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[-1] in (1, 3, 4),
        "VAE Decode",
    ),
    Trajectory.io_type: (
        "trajectory",
        lambda value: isinstance(value, trajectory.Trajectory),
        "Prompt Swap KSampler",
    ),
    Domain.io_type: ("domain", lambda value: isinstance(value, domain.Domain), "Load Medical Checkpoint"),
    Attributes.io_type: (
        "set of attributes",
        lambda value: isinstance(value, prompts.AttributeSet),
        "Medical Attribute Prompts",
    ),
    Classifier.io_type: ("classifier", _has("predict"), "Load Medical Classifier"),
    Source.io_type: (
        "source",
        lambda value: (
            isinstance(value, tuple)
            and bool(value)
            and all(isinstance(item, MedicalSource) for item in value)
        ),
        "Load Medical Image",
    ),
    Start.io_type: ("start", lambda value: isinstance(value, projection.Start), "Project to Latent"),
    "MASK": (
        "MASK",
        lambda value: isinstance(value, torch.Tensor) and value.ndim >= 2 and value.numel() > 0,
        "Load Image, or another node with a mask",
    ),
    Figure.io_type: (
        "drawing",
        lambda value: isinstance(value, Drawing),
        "a node that draws a figure, such as Trajectory Grid",
    ),
}


def checked_sockets(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``execute`` of a node refuse what does not belong into its sockets, before it runs.

    ComfyUI checks links alone, and not those from a node whose output may be anything: a literal from the API
    arrives as it stands. Raises ValueError that names the input, what stands there, and which node's output
    belongs there.
    """

    @functools.wraps(execute)
    def checked(cls: Any, **inputs: Any) -> Any:
        declared = cls.INPUT_TYPES()
        optional = declared.get("optional", {})
        for name, (kind, *_) in {**optional, **declared.get("required", {})}.items():
            kinds = kind.split(",") if isinstance(kind, str) else []
            absent = name in optional and inputs.get(name) is None
            if absent or not kinds or kinds[0] not in OBJECTS:
                continue
            objects = [OBJECTS[each] for each in kinds]
            if not any(belongs(inputs.get(name)) for _, belongs, _ in objects):
                what = " and no ".join(called for called, _, _ in objects)
                raise ValueError(
                    f"{name}: {_told(inputs.get(name))} is no {what}; wire the output of {objects[0][2]}."
                )
        return execute(cls, **inputs)

    return checked


def _told(value: Any) -> str:
    """Return a short text for a value in a message."""
    if value is None or isinstance(value, (str, int, float, bool)):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}…'"
    return f"an object of type {type(value).__name__}"
