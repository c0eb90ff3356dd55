"""What a Stable Diffusion 1.x checkpoint holds, read from its files and the shapes of its weights.

Three forms are read: a diffusers folder, a single file in the original layout, and a U-Net alone in diffusers
keys (what the paper's training script saves). Nothing here builds a model.
"""

import json
import pickle
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
WEIGHT_NAMES = {
    "unet": (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.safetensors",
    ),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    "text_encoder": ("model.safetensors", "model.fp16.safetensors"),
}


@dataclass
class Checkpoint:
    """State dicts of a Stable Diffusion 1.x model and the facts that are not in its weights."""

    unet: dict
    text_encoder: dict
    vae: dict
    unet_heads: int = 8
    text_heads: int | None = None
    text_activation: str = "quick_gelu"
    image_size: int | None = None
    scheduler: dict = field(default_factory=dict)


def read_weights(path, name="checkpoint"):
    """Return the tensors of a .safetensors file, or of a PyTorch file without unpickling objects.

    Raises ValueError that names the input ``name`` and the file when it is missing or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{name}: file {path.name} is missing.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        import torch

        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return loaded.get("state_dict", loaded)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells how to unpickle them all the same.
        raise ValueError(
            f"{name}: {path.name} is cut off, or holds Python objects beside its tensors, which are never "
            "unpickled here; "
            "convert it to safetensors."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{name}: {path.name} could not be read as "
            f"{'safetensors' if path.suffix == '.safetensors' else 'tensors'} "
            f"({error}); it may be cut off, or another kind of file. Download or convert it again."
        ) from error


def read_checkpoint(path, unet_path=None):
    """Read a diffusers folder or a single file; with ``unet_path`` its U-Net is replaced by that one.

    Raises ValueError that names the input and the part at fault.
    """
    path = Path(path)
    parts = read_diffusers(path) if path.is_dir() else read_single_file(path)
    if unet_path is None:
        return parts
    weights, heads = read_unet(unet_path)
    return replace(parts, unet=weights, unet_heads=heads or parts.unet_heads)


def read_diffusers(folder):
    """Read a diffusers folder. Raises ValueError that names the part that is missing or
    not Stable Diffusion 1.x.
    """
    folder = Path(folder)
    parts = {part: _read_part(folder, part, names) for part, names in WEIGHT_NAMES.items()}
    unet, text = _config(folder / "unet"), _config(folder / "text_encoder")
    size = unet.get("sample_size")
    return Checkpoint(
        parts["unet"],
        _text_keys(parts["text_encoder"]),
        parts["vae"],
        unet_heads=_heads(unet),
        text_heads=text.get("num_attention_heads"),
        text_activation=text.get("hidden_act", "quick_gelu"),
        image_size=size * 8 if isinstance(size, int) else None,
        scheduler=_config(folder / "scheduler", "scheduler_config.json"),
    )


def is_unet_folder(folder):
    """Return whether a folder holds a U-Net as diffusers saves it. A broken config counts as none."""
    try:
        return _config(Path(folder)).get("_class_name") == "UNet2DConditionModel"
    except (ValueError, OSError):
        return False


def weight_files(path):
    """Return the files of weights that `read_diffusers` or `read_single_file` reads, as
    ``{name within the checkpoint: path}``.

    The name is relative to the diffusers folder, or empty for a single file.
    """
    path = Path(path)
    if not path.is_dir():
        return {"": path}
    found = (_part_file(path, part, names) for part, names in WEIGHT_NAMES.items())
    return {file.relative_to(path).as_posix(): file for file in found if file}


def read_single_file(path):
    """Read a single-file checkpoint in the original layout. Raises ValueError when a part is missing."""
    weights = read_weights(path)
    parts = {
        prefix: {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
        for prefix in (UNET, TEXT, VAE)
    }
    for prefix, what in ((UNET, "U-Net"), (TEXT, "CLIP text encoder"), (VAE, "VAE")):
        if not parts[prefix]:
            raise ValueError(
                f"checkpoint: {Path(path).name} has no {what} (no key begins with {prefix!r}); give a Stable "
                "Diffusion 1.x "
                "checkpoint, a diffusers folder, or wire a U-Net alone into 'unet' over such a base."
            )
    # Empty tensors by these names are how single files say what diffusers keeps in scheduler_config.json.
    scheduler = {"prediction_type": "v_prediction"} if "v_pred" in weights else {}
    scheduler |= {"rescale_betas_zero_snr": True} if "ztsnr" in weights else {}
    return Checkpoint(parts[UNET], _text_keys(parts[TEXT]), parts[VAE], scheduler=scheduler)


def declared_domains(folder):
    """Return the names of the domains that a folder's ``medtraverse.json`` declares, empty without one."""
    return tuple(_config(Path(folder), "medtraverse.json").get("domains", ()))


def unet_depths(keys, name="unet"):
    """Return ``(residual blocks, transformer depths)`` per level, from a U-Net's diffusers keys.

    Raises ValueError unless the keys are those of a Stable Diffusion 1.x U-Net.
    """
    pattern = re.compile(
        r"down_blocks\.(\d+)\.(?:resnets\.(\d+)\.|attentions\.\d+\.transformer_blocks\.(\d+)\.)"
    )
    resnets, depths = {}, {}
    for match in filter(None, map(pattern.match, keys)):
        level = int(match[1])
        if match[2]:
            resnets[level] = max(resnets.get(level, 0), int(match[2]) + 1)
        else:
            depths[level] = max(depths.get(level, 0), int(match[3]) + 1)
    if (
        not resnets
        or not depths
        or "conv_in.weight" not in keys
        or any(k.startswith("add_embedding.") for k in keys)
    ):
        raise ValueError(
            f"{name}: these are not the weights of a Stable Diffusion 1.x U-Net (its keys begin with "
            f"{', '.join(sorted(keys)[:3]) or 'nothing'}); SDXL, SD 3 and Flux models are not supported."
        )
    levels = range(max(resnets) + 1)
    return [resnets[level] for level in levels], [depths.get(level, 0) for level in levels]


def sampling_settings(scheduler):
    """Translate ``scheduler_config.json`` into ``(prediction type, beta_start, beta_end, beta_schedule)``.

    Raises ValueError for a schedule that a Stable Diffusion 1.x sampler would get silently wrong.
    """
    prediction = scheduler.get("prediction_type", "epsilon")
    schedule = scheduler.get("beta_schedule", "scaled_linear")
    unsupported = {
        "prediction_type": prediction not in ("epsilon", "v_prediction"),
        "beta_schedule": schedule not in ("scaled_linear", "linear"),
        "num_train_timesteps": scheduler.get("num_train_timesteps", 1000) != 1000,
        "rescale_betas_zero_snr": bool(scheduler.get("rescale_betas_zero_snr")),
        "trained_betas": scheduler.get("trained_betas") is not None,
    }
    for setting, bad in unsupported.items():
        if bad:
            raise ValueError(
                f"checkpoint: scheduler_config.json has {setting} = {scheduler.get(setting)!r}, which is not "
                "supported; "
                "supported are epsilon or v_prediction, scaled_linear or linear betas, 1000 training steps."
            )
    return (
        prediction,
        float(scheduler.get("beta_start", 0.00085)),
        float(scheduler.get("beta_end", 0.012)),
        schedule,
    )


def _text_keys(weights):
    """Old single files and transformers 5 leave out the prefix ``text_model.``."""
    return {
        key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in weights.items()
    }


def _part_file(folder, part, names):
    return next((folder / part / name for name in names if (folder / part / name).is_file()), None)


def _read_part(folder, part, names):
    file = _part_file(folder, part, names)
    if file:
        return read_weights(file)
    raise ValueError(
        f"checkpoint: {folder.name}/{part} holds none of {', '.join(names)} (sharded weights and .bin files "
        "are not read); save the "
        "folder again with safe_serialization=True, each part in one file."
    )


def _config(folder, name="config.json"):
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"checkpoint: {folder.name}/{name} is not a JSON object ({error}); download or save it again."
        ) from error


def _heads(config):
    """diffusers calls the number of heads of SD 1.x ``attention_head_dim``; it may be a
    list with one number a level.
    """
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if isinstance(heads, list):
        if len(set(heads)) > 1:
            raise ValueError(
                f"checkpoint: the U-Net has {heads} heads per level; Stable Diffusion 1.x has one number for "
                "all."
            )
        heads = heads[0]
    return heads


def read_unet(path):
    """Read a U-Net alone as ``(weights, heads or None)``; heads come from a ``config.json`` beside it."""
    path = Path(path)
    config = _config(path.parent)
    heads = _heads(config) if config.get("_class_name") == "UNet2DConditionModel" else None
    weights = read_weights(path, "unet")
    if any(key.startswith(UNET) for key in weights):
        weights = {key[len(UNET) :]: value for key, value in weights.items() if key.startswith(UNET)}
    return weights, heads
