"""What a Stable Diffusion 1.x checkpoint holds, read from its files and the shapes of its weights.

Three forms are read: a diffusers folder, a single file in the original layout, and a U-Net alone in diffusers
keys (what the paper's training script saves). Nothing here builds a model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .weights import metadata_of, read_tensors, shards_in, shards_of

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
# The paper's U-Net and everybody else's of Stable Diffusion 1.x is so wide, and has so many heads.
USUAL_WIDTH, USUAL_HEADS = 320, 8
_STEMS = {
    "unet": ("diffusion_pytorch_model", "model", "pytorch_model"),
    "vae": ("diffusion_pytorch_model",),
    "text_encoder": ("model", "pytorch_model"),
}
# Full precision before half, and the averaged weights, which have no variant name, before those they average.
_VARIANTS = ("", ".fp16", ".non_ema")
_UNET_ENDS = ("time_embedding.linear_1.weight", "time_embed.0.weight")
_TOKENS = "embeddings.token_embedding.weight"
_TEXT_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
_LORA = re.compile(r"lora_(unet|te|A|B|up|down)|\.lora\.|\.hada_w|\.lokr_w|to_[qkv]_lora")
# A piece of a key that only this kind of model has. The first that is found names the model.
_OTHER_MODELS = {
    "Stable Diffusion XL": ("conditioner.embedders.", "add_embedding.linear_1", "label_emb.0.0"),
    "Stable Diffusion 2": ("cond_stage_model.model.",),
    "Stable Diffusion 3": ("joint_blocks.", "pos_embed.proj.weight"),
    "Flux": ("double_blocks.", "single_transformer_blocks."),
}
_SD2_TEXT_WIDTH = 1024


@dataclass
class Checkpoint:
    """State dicts of a Stable Diffusion 1.x model and the facts that are not in its weights.

    Attributes
    ----------
    unet, text_encoder, vae : dict of str to Tensor
        The U-Net and the VAE in diffusers' or the original keys, the text encoder in transformers' keys.
    unet_heads, text_heads : int or None
        Attention heads; None where no file says so.
    text_activation : str
    image_size : int or None
        Side in pixels that the U-Net was trained at.
    scheduler : dict
        Of `scheduler_config.json`.
    """

    unet: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    vae: dict[str, Tensor]
    unet_heads: int | None = None
    text_heads: int | None = None
    text_activation: str = "quick_gelu"
    image_size: int | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | os.PathLike[str], name: str = "checkpoint") -> dict[str, Tensor]:
    """Return the tensors of a weight file; see `medtraverse.weights.read_tensors`."""
    return read_tensors(path, name)


def read_checkpoint(
    path: str | os.PathLike[str], unet_path: str | os.PathLike[str] | None = None, heads: int = 0
) -> Checkpoint:
    """Read a diffusers folder or a single file, and the U-Net that is laid over it.

    Parameters
    ----------
    path : path
    unet_path : path, optional
        A U-Net alone, a file or a folder, in place of the checkpoint's own. A text encoder that was trained
        with it, and lies beside its folder, replaces the checkpoint's too.
    heads : int
        Attention heads of the U-Net; 0 reads them off the files.

    Returns
    -------
    Checkpoint
        Its `unet_heads` are known: as asked for, as a file says, of the base where the U-Net has the base's
        widths, or 8 where the U-Net is 320 wide as everybody's is.

    Raises
    ------
    ValueError
        If a part is missing or not of Stable Diffusion 1.x, or nothing says how many heads there are.
    """
    path = Path(path)
    parts = read_diffusers(path) if path.is_dir() else read_single_file(path)
    name, file = "checkpoint", path
    if unet_path is not None:
        name, file = "unet", Path(unet_path)
        weights, own = read_unet(file)
        if own is None and _width(weights) == _width(parts.unet):
            own = parts.unet_heads
        parts = replace(parts, unet=weights, unet_heads=own)
        text_encoder = _text_encoder_beside(file)
        if text_encoder:
            text, config = _read_text_encoder(text_encoder)
            parts = replace(parts, text_encoder=text, **_text_facts(config))
    width = _width(parts.unet)
    known = heads or parts.unet_heads or (USUAL_HEADS if width == USUAL_WIDTH else None)
    if known is None:
        raise ValueError(
            f"{name}: {file.name} does not say how many attention heads its U-Net has, which is {width} "
            f"wide and not {USUAL_WIDTH}; set 'heads', or put its diffusers config.json beside it as "
            f"{file.stem}.json."
        )
    return replace(parts, unet_heads=known)


def read_diffusers(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a diffusers folder. Raises ValueError that names the part that is missing or of another model."""
    folder = Path(folder)
    unet = _config(folder / "unet")
    text, text_config = _read_text_encoder(folder / "text_encoder")
    size = unet.get("sample_size")
    return Checkpoint(
        _unet_weights(_read_part(folder / "unet"), "checkpoint", f"{folder.name}/unet"),
        text,
        _read_part(folder / "vae"),
        unet_heads=_heads(unet, "checkpoint") if unet else None,
        image_size=size * 8 if isinstance(size, int) else None,
        scheduler=_config(folder / "scheduler", "scheduler_config.json"),
        **_text_facts(text_config),
    )


def weight_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the weight files that are read of a checkpoint, or of a U-Net alone, as ``{name: path}``.

    The name is relative to the folder, or to the folder that a single file lies in.
    """
    path = Path(path)
    if not path.is_dir():
        return {file.name: file for file in shards_of(path, "checkpoint")}
    if is_unet_folder(path):
        beside = _text_encoder_beside(path)
        return {
            os.path.relpath(file, path).replace(os.sep, "/"): file
            for file in (*_part_files(path, "unet"), *(_part_files(beside) if beside else ()))
        }
    return {f"{part}/{file.name}": file for part in _STEMS for file in _part_files(path / part)}


def is_unet_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a U-Net as diffusers saves it. A broken config counts as none."""
    try:
        return _config(Path(folder)).get("_class_name") == "UNet2DConditionModel"
    except (ValueError, OSError):
        return False


def read_single_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a single-file checkpoint in the original layout. Raises ValueError when a part is missing."""
    path = Path(path)
    weights = read_tensors(path, "checkpoint")
    _refuse_lora(weights, "checkpoint", path.name)
    parts = {
        prefix: {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        for prefix in (UNET, TEXT, VAE)
    }
    for prefix, what in ((UNET, "U-Net"), (TEXT, "CLIP text encoder"), (VAE, "VAE")):
        if not parts[prefix]:
            _refuse_other_model(weights, "checkpoint", path.name)
            raise ValueError(
                f"checkpoint: {path.name} has no {what} (no key begins with {prefix!r}); give a Stable "
                "Diffusion 1.x checkpoint, a diffusers folder, or wire a U-Net alone into 'unet' over such "
                "a base."
            )
    # Empty tensors by these names are how single files say what diffusers keeps in scheduler_config.json.
    scheduler: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in weights else {}
    scheduler |= {"rescale_betas_zero_snr": True} if "ztsnr" in weights else {}
    declared = _declared(path)
    return Checkpoint(
        _unet_weights(parts[UNET], "checkpoint", path.name),
        _text_weights(parts[TEXT], "checkpoint", path.name),
        parts[VAE],
        unet_heads=_heads(declared["unet"], "checkpoint") if declared.get("unet") else None,
        scheduler=scheduler | declared.get("scheduler", {}),
        **_text_facts(declared.get("text_encoder", {})),
    )


def read_unet(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], int | None]:
    """Read a U-Net alone, a file or a diffusers folder, as ``(weights, heads or None)``.

    Heads come from the file's metadata, from a JSON of its name, or from a `config.json` beside it.
    """
    path = Path(path)
    weights = _read_part(path, "unet", "unet") if path.is_dir() else read_tensors(path, "unet")
    folder = path if path.is_dir() else path.parent
    config = {} if path.is_dir() else _declared(path).get("unet", {})
    if not config and is_unet_folder(folder):
        config = _config(folder)
    return _unet_weights(weights, "unet", path.name), _heads(config, "unet") if config else None


def declared_domains(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the domains that a folder's ``medtraverse.json`` declares, empty without one."""
    return tuple(_config(Path(folder), "medtraverse.json").get("domains", ()))


def unet_depths(keys: Collection[str], name: str = "unet") -> tuple[list[int], list[int]]:
    """Return ``(residual blocks, transformer depths)`` per level, from a U-Net's diffusers keys.

    Raises ValueError unless the keys are those of a Stable Diffusion 1.x U-Net.
    """
    pattern = re.compile(
        r"down_blocks\.(\d+)\.(?:resnets\.(\d+)\.|attentions\.\d+\.transformer_blocks\.(\d+)\.)"
    )
    resnets: dict[int, int] = {}
    depths: dict[int, int] = {}
    for match in filter(None, map(pattern.match, keys)):
        level = int(match[1])
        if match[2]:
            resnets[level] = max(resnets.get(level, 0), int(match[2]) + 1)
        else:
            depths[level] = max(depths.get(level, 0), int(match[3]) + 1)
    if not resnets or not depths or "conv_in.weight" not in keys:
        raise ValueError(
            f"{name}: these are not the weights of a Stable Diffusion 1.x U-Net (its keys begin with "
            f"{', '.join(sorted(keys)[:3]) or 'nothing'}); give a U-Net as diffusers saves it."
        )
    levels = range(max(resnets) + 1)
    return [resnets.get(level, 0) for level in levels], [depths.get(level, 0) for level in levels]


def sampling_settings(scheduler: Mapping[str, Any]) -> tuple[str, float, float, str]:
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
                "supported; supported are epsilon or v_prediction, scaled_linear or linear betas, 1000 "
                "training steps."
            )
    return (
        prediction,
        float(scheduler.get("beta_start", 0.00085)),
        float(scheduler.get("beta_end", 0.012)),
        schedule,
    )


def _unet_weights(weights: Mapping[str, Tensor], name: str, file: str) -> dict[str, Tensor]:
    """Return the weights of the U-Net, without what wrappers and whole models put before its keys.

    Raises ValueError that names what they are instead of a U-Net of Stable Diffusion 1.x from noise.
    """
    _refuse_lora(weights, name, file)
    prefixes = {
        key[: -len(end)]
        for key in weights
        for end in _UNET_ENDS
        if key.endswith(end) and key[: -len(end)][-1:] in ("", ".")
    }
    if len(prefixes) > 1:
        # Beside a ControlNet, or averaged weights, the U-Net's own place is one of these.
        prefixes = next(({usual} for usual in ("", UNET, "unet.") if usual in prefixes), prefixes)
    if len(prefixes) > 1:
        raise ValueError(
            f"{name}: {file} holds several U-Nets ({', '.join(sorted(prefixes))}); save one of them alone."
        )
    if not prefixes:
        _refuse_other_model(weights, name, file)
        unet_depths(weights.keys(), name)  # names what is there
    prefix = next(iter(prefixes), "")
    weights = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    _refuse_other_model(weights, name, file)
    channels = next(
        (weights[key].shape[1] for key in ("conv_in.weight", "input_blocks.0.0.weight") if key in weights), 4
    )
    if channels == 8:
        raise ValueError(
            f"{name}: the U-Net of {file} takes 8 channels, so it edits a given picture (instruct-pix2pix), "
            "and a traversal begins with noise; choose a text-to-image model."
        )
    if channels not in (4, 9):
        raise ValueError(
            f"{name}: the U-Net of {file} takes {channels} channels, Stable Diffusion 1.x takes 4; choose a "
            "text-to-image model."
        )
    return weights


def _refuse_lora(weights: Iterable[str], name: str, file: str) -> None:
    if any(_LORA.search(key) for key in weights):
        raise ValueError(
            f"{name}: {file} is a LoRA, changes to a model and not a model; put it into models/loras, and "
            "wire Load LoRA behind this node."
        )


def _refuse_other_model(weights: Mapping[str, Tensor], name: str, file: str) -> None:
    other = next(
        (
            model
            for model, pieces in _OTHER_MODELS.items()
            if any(piece in key for key in weights for piece in pieces)
        ),
        None,
    )
    if other is None and _has_sd2_attention(weights):
        other = "Stable Diffusion 2"
    if other is not None:
        raise ValueError(
            f"{name}: {file} is of a {other} model, and this loader reads Stable Diffusion 1.x; core's own "
            "loaders read such a model."
        )


def _has_sd2_attention(weights: Mapping[str, Tensor]) -> bool:
    """Stable Diffusion 2 attends to wider text, and has linear layers where 1.x has 1 × 1 convolutions."""
    context = next((weights[key] for key in weights if key.endswith("attn2.to_k.weight")), None)
    inner = next((weights[key] for key in weights if key.endswith("proj_in.weight")), None)
    if context is None or inner is None:
        return False
    return context.shape[1] == _SD2_TEXT_WIDTH and inner.ndim == 2


def _text_weights(weights: Mapping[str, Tensor], name: str, file: str) -> dict[str, Tensor]:
    """Return the text encoder's weights with the keys of transformers' CLIPTextModel.

    Old single files and transformers 5 leave out the prefix ``text_model.``; a CLIPModel has its image
    encoder beside, and a projection that Stable Diffusion 1.x does not read.
    """
    tokens = [key for key in weights if key.endswith(_TOKENS)]
    if len(tokens) != 1:
        raise ValueError(
            f"{name}: {file} has no CLIP text encoder (its keys begin with "
            f"{', '.join(sorted(weights)[:2])}); give the text encoder of Stable Diffusion 1.x."
        )
    prefix = tokens[0].removesuffix(_TOKENS)
    bare = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    return {f"text_model.{key}": value for key, value in bare.items() if key.startswith(_TEXT_PARTS)}


def _read_text_encoder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config = _config(folder)
    weights = _text_weights(_read_part(folder), "checkpoint", f"{folder.parent.name}/{folder.name}")
    return weights, config.get("text_config", config)  # a CLIPModel's config has one for each half


def _text_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers leaves out of a config what is its default: 8 heads."""
    return {
        "text_heads": config.get("num_attention_heads", 8) if config else None,
        "text_activation": config.get("hidden_act", "quick_gelu"),
    }


def _text_encoder_beside(unet: Path) -> Path | None:
    """Training that touches the text encoder leaves it beside the U-Net's folder."""
    folder = unet.parent / "text_encoder"
    return folder if unet.is_dir() and _part_files(folder) else None


def _part_files(folder: Path, part: str | None = None) -> list[Path]:
    """Return the weight files of a part of a diffusers folder: one, all of a sharded part, or none."""
    stems = _STEMS[part or folder.name]
    for variant in _VARIANTS:
        for suffix in (".safetensors", ".bin"):
            for stem in stems:
                file = folder / f"{stem}{variant}{suffix}"
                if file.is_file():
                    return [file]
                index = folder / f"{stem}{suffix}.index{variant}.json"
                if index.is_file():
                    return shards_in(index, "checkpoint")
    return []


def _read_part(folder: Path, part: str | None = None, name: str = "checkpoint") -> dict[str, Tensor]:
    files = _part_files(folder, part)
    if not files:
        stems = " or ".join(_STEMS[part or folder.name])
        raise ValueError(
            f"{name}: {folder.parent.name}/{folder.name} holds no weights ({stems}, .safetensors or .bin); "
            "download or save that part again."
        )
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= read_tensors(file, name)
    return weights


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"checkpoint: {folder.name}/{name} is not a JSON object ({error}); download or save it again."
        ) from error


def _declared(path: Path) -> dict[str, dict[str, Any]]:
    """Return what stands of a single file's parts in its metadata or in a JSON of its name, by part.

    Either is the U-Net's diffusers config, or an object with `unet`, `text_encoder` and `scheduler`. Other
    programs put other things there; those are not looked at.
    """
    sidecar = path.with_suffix(".json")
    texts = [
        metadata_of(path).get("config", ""),
        sidecar.read_text("utf-8", "replace") if sidecar.is_file() else "",
    ]
    for text in filter(None, texts):
        try:
            declared = json.loads(text)
        except ValueError:
            continue
        if isinstance(declared, dict) and _says_heads(declared):
            return {"unet": declared}
        if isinstance(declared, dict) and _says_heads(declared.get("unet")):
            return {part: config for part, config in declared.items() if isinstance(config, dict)}
    return {}


def _says_heads(config: object) -> bool:
    return isinstance(config, dict) and ("attention_head_dim" in config or "num_attention_heads" in config)


def _heads(config: Mapping[str, Any], name: str) -> int:
    """diffusers calls the number of heads of SD 1.x ``attention_head_dim``; it may be a list, one a level."""
    heads = config.get("num_attention_heads") or config.get("attention_head_dim") or USUAL_HEADS
    if isinstance(heads, list):
        if len(set(heads)) > 1:
            raise ValueError(
                f"{name}: the U-Net has {heads} heads per level, and this loader reads Stable Diffusion "
                "1.x, which has one number for all; core's own loaders read Stable Diffusion 2."
            )
        heads = heads[0]
    if not isinstance(heads, int) or heads < 1:
        raise ValueError(f"{name}: the U-Net's config says {heads!r} attention heads; mend its config.json.")
    return heads


def _width(weights: Mapping[str, Tensor]) -> int | None:
    first = ("conv_in.weight", "input_blocks.0.0.weight")
    return next((weights[key].shape[0] for key in first if key in weights), None)
