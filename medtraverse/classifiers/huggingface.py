"""Image classifiers in a Hugging Face folder, as transformers saves them: ViT, Swin, ConvNeXt, ResNet, …."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .judge import SIGMOID, SOFTMAX, Judge, Library, Preprocess, Settings, Squash, last_linear

# Nothing is fetched, and no Python file of a folder is run.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


def read_huggingface(folder: Path, settings: Settings | None = None) -> Judge:
    """Read a folder that `save_pretrained` of a transformers image classifier wrote.

    Parameters
    ----------
    folder : path
        Holds `config.json` and the weights (`.safetensors`, or `.bin`, which is read with `weights_only`);
        `preprocessor_config.json` decides the preprocessing.
    settings : Settings, optional

    Returns
    -------
    Judge
        Softmax or sigmoid by the config's `problem_type`. Without one, sigmoid for one output and softmax for
        several, which is transformers' own rule. Labels are the config's `id2label`, or None where those are
        transformers' placeholders `LABEL_0`, ….

    Raises
    ------
    ValueError
        If the folder is incomplete, needs code of its own, or is no image classifier.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    settings = settings or Settings()
    folder = Path(folder)
    name = folder.name
    config_text = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "auto_map" in config_text:
        raise ValueError(
            f"classifier: {name} needs Python code of its own, which is never run; give a model of "
            "transformers."
        )
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        network, report = AutoModelForImageClassification.from_pretrained(
            folder, config=config, output_loading_info=True, **LOCAL
        )
        network.float()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"classifier: {name}: transformers does not read it as an image classifier "
            f"({_first_line(error)}); give a "
            "folder that save_pretrained of such a model wrote."
        ) from error
    missing = sorted(report["missing_keys"]) + sorted(str(item) for item in report.get("mismatched_keys", ()))
    if missing:
        raise ValueError(
            f"classifier: {name}: the weights lack {len(missing)} of the classifier's keys "
            f"({', '.join(missing[:3])}); "
            "give a model that was trained as an image classifier."
        )
    outputs = config.num_labels
    one_of_several = config.problem_type == "single_label_classification" or (
        config.problem_type is None and outputs > 1
    )
    head = last_linear(network, outputs)
    if head is None:
        raise ValueError(f"classifier: {name}: no layer has its {outputs} outputs; give an image classifier.")
    notes = []
    preprocess: Preprocess
    if (folder / PROCESSOR).is_file():
        processor = AutoImageProcessor.from_pretrained(folder, **LOCAL)
        preprocess = _by_processor(processor, name)
    else:
        side = config_text.get("image_size", 224)
        side = side[0] if isinstance(side, (list, tuple)) else side
        preprocess = Squash(settings.size or int(side))
        notes.append(
            f"classifier: {name} has no {PROCESSOR}: images are {preprocess} and normalised as ImageNet's; "
            "copy that "
            "file from the model that it was trained from."
        )
    return Judge(
        network,
        head,
        _labels(config.id2label, outputs),
        preprocess,
        settings.activation_or(SOFTMAX if one_of_several else SIGMOID, name),
        sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")),
        f"transformers {type(network).__name__}",
        lambda result: result.logits,
        notes,
    )


def _by_processor(processor: Callable[..., Mapping[str, Any]], name: str) -> Library:
    def function(image: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0]))

    shape = function(np.zeros((64, 64, 3), np.uint8)).shape
    return Library(function, (int(shape[-2]), int(shape[-1])), f"{name}'s {PROCESSOR}")


def _labels(names: Mapping[int, str], outputs: int) -> list[str] | None:
    ordered = [str(names.get(number, f"LABEL_{number}")) for number in range(outputs)]
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in ordered) else ordered


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
