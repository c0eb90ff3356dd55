"""Classifiers that `medtraverse.training.classifier` wrote: a file that says all of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .architectures import LIBRARIES, build, fixed_size, full_name
from .judge import SIGMOID, Judge, Settings, Squash, checked_size

ARCHITECTURE = "architecture"
# What the metadata says, as JSON, and what each is.
KINDS: dict[str, type | tuple[type, ...]] = {
    "labels": list,
    "image_size": int,
    "mean": list,
    "std": list,
    "width": (int, float),
}


def is_trained(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file's metadata names an architecture as `architectures.full_name` does."""
    return metadata.get(ARCHITECTURE, "").partition(":")[0] in LIBRARIES


def read_trained(
    state: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str], settings: Settings | None = None
) -> Judge:
    """Make a judge of a file that says its architecture, labels, size and normalisation.

    Parameters
    ----------
    state : mapping of str to Tensor
        Keys as the library names them. A temperature is already in the last layer's weights.
    file : path
        Where it was read, for messages.
    metadata : mapping of str to str
        `architecture`; and as JSON `labels`, `image_size`, `mean`, `std` and, where it is not 1, `width`.
    settings : Settings, optional
        What the user wants otherwise.

    Raises
    ------
    ValueError
        The metadata is incomplete, the architecture is in no library here, or the weights do not fit it.
    """
    settings = settings or Settings()
    known = _decoded(file, metadata)
    try:
        architecture = full_name(metadata[ARCHITECTURE])
    except ValueError as error:
        library = metadata[ARCHITECTURE].partition(":")[0]
        raise ValueError(
            f"classifier: {file.name} is a {metadata[ARCHITECTURE]}, which this {library} does not have; "
            f"install or update it: python -m pip install -U {library}"
        ) from error
    own = checked_size(known["image_size"], file.name)
    size = checked_size(settings.size or own, file.name)
    if size != own and fixed_size(architecture):
        raise ValueError(f"input_size: {file.name} takes images of {own} pixels only, not {size}; set 0.")
    network, head = build(architecture, len(known["labels"]), own, float(known.get("width", 1)))
    expected = network.state_dict()
    faults = [
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    ]
    if faults:
        raise ValueError(
            f"classifier: {file.name} does not fit the {architecture} that it names, {len(faults)} keys "
            "differ "
            f"({', '.join(sorted(faults)[:3])}); copy the file again."
        )
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()})
    return Judge(
        network,
        head,
        known["labels"],
        Squash(size, tuple(known["mean"]), tuple(known["std"])),
        settings.activation_or(SIGMOID, file.name),
        [file],
        architecture.replace(":", " "),
    )


def _decoded(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for key, kind in KINDS.items():
        if key not in metadata and key == "width":
            continue
        try:
            decoded[key] = json.loads(metadata[key])
        except (KeyError, json.JSONDecodeError):
            decoded[key] = None
        if not isinstance(decoded[key], kind):
            raise ValueError(
                f"classifier: the metadata of {file.name} has {key} = {metadata.get(key)!r}, which cannot be "
                "read; copy the file again."
            )
    return decoded
