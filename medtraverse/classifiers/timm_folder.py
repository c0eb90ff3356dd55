"""Image classifiers of timm, as its `push_to_hf_hub` or `save_for_hf` leaves them in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..weights import read_tensors
from .judge import SIGMOID, SOFTMAX, Judge, Library, Settings, last_linear

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_timm(folder: Path, settings: Settings | None = None) -> Judge:
    """Read a folder with timm's `config.json` (`architecture`, `pretrained_cfg`) and its weights.

    Parameters
    ----------
    folder : path
    settings : Settings, optional

    Returns
    -------
    Judge
        timm's own transform of `pretrained_cfg`. timm's files do not say whether labels exclude each other:
        softmax is taken for several outputs, as timm's own inference does, and a note says so.

    Raises
    ------
    ValueError
        If timm is not installed, or the folder does not fit the architecture that it names.
    """
    settings = settings or Settings()
    folder = Path(folder)
    name = folder.name
    try:
        import timm
        from PIL import Image
        from timm.data import create_transform, resolve_data_config
    except ImportError as error:
        raise ValueError(
            f"classifier: {name} is a timm model and timm is not installed; run: python -m pip install timm"
        ) from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described = config.get("pretrained_cfg", config)
    outputs = int(config.get("num_classes", described.get("num_classes", 0)))
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        raise ValueError(
            f"classifier: {name} holds none of {', '.join(WEIGHTS)}; copy the weights into the folder."
        )
    arguments = {"num_classes": outputs, **config.get("model_args", {})}
    # timm would read other files, or fetch them, for these.
    outside = sorted(
        arguments.keys() & {"checkpoint_path", "cache_dir", "scriptable", "exportable"}
    ) + sorted(key for key in arguments if key.startswith("pretrained"))
    if config.get("architecture") not in timm.list_models() or outside:
        raise ValueError(
            f"classifier: {name} names the architecture {config.get('architecture')!r}"
            f"{' with ' + ', '.join(outside) if outside else ''}, which this timm does not build by itself; "
            "give the folder as timm saved it."
        )
    state = read_tensors(weights, "classifier")
    try:
        network = timm.create_model(config["architecture"], pretrained=False, **arguments)
        network.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"classifier: {name}: {weights.name} does not fit the architecture "
            f"{config.get('architecture')!r} "
            f"({' '.join(str(error).split())[:200]}); give the folder as timm saved it."
        ) from error
    data = resolve_data_config(pretrained_cfg=described)
    transform = create_transform(**data, is_training=False)

    def function(image: np.ndarray) -> Tensor:
        transformed: Tensor = transform(Image.fromarray(image))
        return transformed

    notes = []
    if settings.activation is None and outputs > 1:
        notes.append(
            f"classifier: {name}: timm's files do not say whether its labels exclude each other; softmax "
            "is used. Choose "
            "sigmoid if several may be present at once."
        )
    head = network.get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(head, torch.nn.Module) or isinstance(head, torch.nn.Identity):
        head = last_linear(network, outputs)
    if head is None:
        raise ValueError(f"classifier: {name}: no layer has its {outputs} outputs; give an image classifier.")
    return Judge(
        network,
        head,
        config.get("label_names") or described.get("label_names"),
        Library(function, tuple(data["input_size"][-2:]), f"{name}'s pretrained_cfg"),
        settings.activation_or(SOFTMAX if outputs > 1 else SIGMOID, name),
        [folder / "config.json", weights],
        f"timm {config['architecture']}",
        notes=notes,
    )
