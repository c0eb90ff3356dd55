"""What a run leaves: the weights with their origin in the metadata, a model card, a domain file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..domain import domain_of
from ..notice import NOTICE
from ..whole_file import whole_file, whole_files, write_text
from .networks import DTYPES, Denoiser, lora_weights
from .settings import LORA

if TYPE_CHECKING:
    from .base_model import Base
    from .settings import Settings

UNET_FILE = "diffusion_pytorch_model.safetensors"


def metadata_of_run(
    settings: Settings,
    base: Base,
    name: str,
    data: Mapping[str, Any],
    step: int,
    validation: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return the metadata of a weight file, each value JSON or a text.

    Parameters
    ----------
    settings : Settings
    base : Base
    name : str
        Of the run.
    data : mapping
        What is known of the data set: layout, images, hash, rule of the captions, policies.
    step : int
        Updates done.
    validation : mapping, optional
        Its record.
    """
    from importlib.metadata import PackageNotFoundError, version

    from ..digest import versions

    libraries = {}
    for library in ("diffusers", "transformers", "accelerate", "peft"):
        try:
            libraries[library] = version(library)
        except PackageNotFoundError:
            continue
    # Paths of this machine say nothing elsewhere.
    private = ("data", "base", "out", "unet", "cache", "install", "artefacts", "classifier", "domain")
    shown = {key: value for key, value in settings.report().items() if key not in private}
    records: dict[str, Any] = {
        "settings": shown,
        "versions": versions() | libraries,
        "data": data,
        "base": {"name": base.folder.name, "sha256": base.sha256},
        "validation": validation,
        "updates": step,
    }
    return {
        "format": "pt",
        "notice": NOTICE,
        "name": name,
        "prediction": base.prediction,
        **{key: json.dumps(value) for key, value in records.items()},
    }


def write_weights(
    folder: Path, denoiser: Denoiser, settings: Settings, base: Base, name: str, metadata: dict[str, str]
) -> None:
    """Write what was trained into a folder.

    The whole U-Net goes into ``unet/``, as diffusers has it, its config beside and in the metadata; a trained
    text encoder into ``text_encoder/``; a LoRA of either into ``NAME.safetensors``, under ComfyUI's keys.

    Raises
    ------
    ValueError
        A weight is not finite in the precision asked for.
    """
    dtype = DTYPES[settings.save_precision]
    if settings.method == LORA:
        _save(_checked(lora_weights(denoiser, settings), dtype), folder / f"{name}.safetensors", metadata)
        return
    config = {**denoiser.unet.config, "_class_name": "UNet2DConditionModel"}
    config = {key: value for key, value in config.items() if key != "_name_or_path"}
    text = json.dumps(config, indent=2) + "\n"
    weights = _checked(denoiser.unet.state_dict(), dtype)
    _save(weights, folder / "unet" / UNET_FILE, metadata | {"config": json.dumps(config)}, text)
    if denoiser.text is not None:
        encoder = denoiser.text.config.to_dict()
        encoder = {key: value for key, value in encoder.items() if key not in ("_name_or_path", "dtype")}
        _save(
            _checked(denoiser.text.state_dict(), dtype),
            folder / "text_encoder" / "model.safetensors",
            metadata,
            json.dumps(encoder, indent=2) + "\n",
        )


def _checked(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    stored = {}
    for key, value in weights.items():
        value = value.detach()
        stored[key] = (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
        if value.is_floating_point() and not bool(stored[key].isfinite().all()):
            raise ValueError(
                f"save_precision: {key} is not finite in {dtype}; give --save-precision fp32, or a lower "
                "rate."
            )
    return stored


def _save(
    weights: dict[str, Tensor], path: Path, metadata: dict[str, str], config: str | None = None
) -> None:
    from safetensors.torch import save_file

    with whole_files(path.parent) as part:
        save_file(weights, str(part / path.name), metadata=metadata)
        (part / path.name).chmod(0o644)
        if config is not None:
            (part / "config.json").write_text(config, encoding="utf-8")


def write_domain_file(path: Path, record: dict[str, Any]) -> None:
    """Write a domain file over an older one of the same run."""
    domain_of(record)
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def install(
    comfyui: Path, folder: Path, name: str, settings: Settings, record: dict[str, Any] | None
) -> list[Path]:
    """Put the weights and the domain where a ComfyUI lists them; return what was written.

    Parameters
    ----------
    comfyui : Path
        Its folder, or its base directory, which holds ``models``.
    folder : Path
        Of `write_weights`.
    name : str
    settings : Settings
    record : dict, optional
        Of the domain file.
    """
    models = check_comfyui(comfyui)
    written = []
    if settings.method == LORA:
        copies = {folder / f"{name}.safetensors": models / "loras" / f"{name}.safetensors"}
    elif settings.train_text_encoder:
        # Load Medical Checkpoint takes the text encoder that lies beside a U-Net's folder.
        copies = {
            file: models / "diffusers" / name / part / file.name
            for part in ("unet", "text_encoder")
            for file in (folder / part).iterdir()
        }
    else:
        copies = {folder / "unet" / UNET_FILE: models / "diffusion_models" / f"{name}.safetensors"}
    for source, target in copies.items():
        with whole_file(target) as part_file:
            shutil.copyfile(source, part_file)
        written.append(target)
    if record is not None:
        target = models.parent / "user" / "medtraverse" / "domains" / f"{name}.json"
        write_domain_file(target, record)
        written.append(target)
    return written


def check_comfyui(comfyui: Path) -> Path:
    """Return the models folder of a ComfyUI. Raises ValueError where there is none."""
    models = comfyui / "models"
    if not models.is_dir():
        raise ValueError(f"install: {comfyui} has no folder models; give the folder of a ComfyUI.")
    return models


def model_card(
    name: str, settings: Settings, base: Base, data: Mapping[str, Any], validation: Mapping[str, Any] | None
) -> str:
    """Return the stub of a model card: what the run knows, and what only its makers know."""
    kind = "LoRA" if settings.method == LORA else "U-Net"
    left_out = ", ".join(f"{count} {reason}" for reason, count in data["left_out"].items()) or "none"
    shown = settings.report() | {"size": data["size"], "epochs": settings.epochs or "–"}
    recipe = "\n".join(
        f"| {key} | {value} |"
        for key, value in shown.items()
        if key in ("method", "rank", "steps", "epochs", "batch", "accumulation", "rate", "schedule", "ema")
        or key in ("precision", "min_snr", "caption_dropout", "size", "fit", "seed", "train_text_encoder")
    )
    lines = [
        "---",
        f"base_model: {base.folder.name}",
        "library_name: diffusers",
        "tags: [stable-diffusion, medical, medtraverse]",
        "license: other",
        "---",
        "",
        f"# {name}",
        "",
        f"A {kind} fine-tuned with MedTraverse. **{NOTICE}**",
        "",
        "## Trained on",
        "",
        f"{data['images']:,} images of {data['layout']}, {data['held_out']:,} held out; left out: "
        f"{left_out}. SHA-256 of the list of images and captions: `{data['sha256']}`.",
        "",
        f"Captions: {data['rule']}",
        "",
        "## Recipe",
        "",
        "| setting | value |",
        "|---|---|",
        recipe,
        "",
        "## Measured on the way",
        "",
        _measured(validation),
        "",
        "## To be written by those who publish it",
        "",
        "- Licence of the data and of these weights, and who agreed to what.",
        "- Whom the data represent and whom they do not; what a subgroup's figures are.",
        "- What it is meant for, and what it must not be used for.",
        "- Whether training images can be drawn from it again.",
        "",
    ]
    return "\n".join(lines)


def _measured(validation: Mapping[str, Any] | None) -> str:
    if not validation:
        return "Nothing: no image was held out, and no classifier was given."
    lines = [f"After update {validation['step']}:", ""]
    if validation.get("loss") is not None:
        lines.append(f"- error on held-out images, all noise levels: {validation['loss']:.5f}")
    for attribute, rates in (validation.get("attributes") or {}).items():
        low, high = rates["cfrt_interval"]
        flips = "–" if rates["flip_rate"] is None else f"{rates['flip_rate']:.3f}"
        lines.append(
            f"- {attribute}: CFRT {rates['cfrt']:.3f} ({low:.3f} to {high:.3f}), flip rate {flips}, "
            f"{rates['patients']} synthetic patients"
        )
    return "\n".join(lines)
