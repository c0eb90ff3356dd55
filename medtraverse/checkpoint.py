"""What a Stable Diffusion 1.x or 2.x checkpoint holds, read from its files and the shapes of its weights.

Three forms are read: a diffusers folder, a single file in the original layout, and a U-Net alone in diffusers
keys (what the paper's training script saves). A VAE alone may take the place of the checkpoint's. Nothing
here builds a model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from .weights import metadata_of, read_tensors, shards_in, shards_of

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
# Stable Diffusion 2 has OpenCLIP's text encoder, under its own names.
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
# The paper's U-Net and everybody else's of Stable Diffusion is so wide. Version 1 has so many heads in every
# level, version 2 heads of so many channels.
USUAL_WIDTH, USUAL_HEADS, USUAL_HEAD_WIDTH = 320, 8, 64
PREDICTIONS = ("epsilon", "v_prediction")
# What pads a prompt to 77 tokens: CLIP's tokenizer the end of the text, OpenCLIP's the token 0.
END, EXCLAMATION = 49407, 0
_PADS = {"<|endoftext|>": END, "!": EXCLAMATION}
_STEMS = {
    "unet": ("diffusion_pytorch_model", "model", "pytorch_model"),
    "vae": ("diffusion_pytorch_model", "model", "pytorch_model"),
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
    "Stable Diffusion 2.1 unCLIP": ("class_embedding.linear_1", "embedder.model.visual."),
    "Stable Diffusion XL": ("conditioner.embedders.1", "add_embedding.linear_1", "label_emb.0.0"),
    "Stable Diffusion 3": ("joint_blocks.", "pos_embed.proj.weight"),
    "Flux": ("double_blocks.", "single_transformer_blocks."),
}
_XL = "Stable Diffusion XL"
# Where the base of a U-Net alone is to be had, by the width of the text that it attends to.
_BASES = {
    768: ", Stable Diffusion 1.4 or 1.5",
    1024: ", Stable Diffusion 2 or 2.1, which the Hub has under sd2-community",
}
_SD2_TEXT_WIDTH, _OPEN_CLIP_H_LAYERS = 1024, 24
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass
class Checkpoint:
    """State dicts of a Stable Diffusion 1.x or 2.x model and the facts that are not in its weights.

    Attributes
    ----------
    unet, text_encoder, vae : dict of str to Tensor
        The U-Net and the VAE in diffusers' or the original keys, the text encoder in transformers' keys.
    unet_heads : int, tuple of int or None
        Attention heads of the U-Net, in all levels or in each; None where no file says so.
    text_heads : int or None
    text_activation : str
        ``gelu`` is OpenCLIP's, ``quick_gelu`` CLIP's.
    text_pad : int or None
        The token that pads a prompt; None where no file says so.
    text_whole : bool
        Whether the text encoder has its last layer, which Stable Diffusion 2 does not read and diffusers
        leaves out.
    image_size : int or None
        Side in pixels that the U-Net was trained at.
    scheduler : dict or None
        Of `scheduler_config.json`; None where no file says anything.
    latent_scale : float or None
        By which the VAE's latents are multiplied for the U-Net; None where no file says so.
    """

    unet: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    vae: dict[str, Tensor]
    unet_heads: int | tuple[int, ...] | None = None
    text_heads: int | None = None
    text_activation: str = "quick_gelu"
    text_pad: int | None = None
    text_whole: bool = False
    image_size: int | None = None
    scheduler: dict[str, Any] | None = None
    latent_scale: float | None = None


@dataclass(frozen=True)
class Parts:
    """The files that a model is read from, and what its user says of it.

    Attributes
    ----------
    checkpoint : Path
    unet, vae : Path or None
        A U-Net and a VAE alone, in place of the checkpoint's own.
    heads : int
        Attention heads of the U-Net's first level; 0 reads them off the files.
    prediction : str
        One of `PREDICTIONS`; empty reads it off the files.
    """

    checkpoint: Path
    unet: Path | None = None
    vae: Path | None = None
    heads: int = 0
    prediction: str = ""

    def read(self) -> Checkpoint:
        """Read them; see `read_checkpoint`."""
        return read_checkpoint(self.checkpoint, self.unet, self.heads, self.vae, self.prediction)


def read_weights(path: str | os.PathLike[str], name: str = "checkpoint") -> dict[str, Tensor]:
    """Return the tensors of a weight file; see `medtraverse.weights.read_tensors`."""
    return read_tensors(path, name)


def read_checkpoint(
    path: str | os.PathLike[str],
    unet_path: str | os.PathLike[str] | None = None,
    heads: int = 0,
    vae_path: str | os.PathLike[str] | None = None,
    prediction: str = "",
) -> Checkpoint:
    """Read a diffusers folder or a single file, and the U-Net and the VAE that are laid over it.

    Parameters
    ----------
    path : path
    unet_path : path, optional
        A U-Net alone, a file or a folder, in place of the checkpoint's own. A text encoder that was trained
        with it, and lies beside its folder, replaces the checkpoint's too.
    heads : int
        Attention heads of the U-Net's first level; 0 reads them off the files.
    vae_path : path, optional
        A VAE alone, a file or a folder, in place of the checkpoint's own.
    prediction : str
        One of `PREDICTIONS`; empty reads it off the files.

    Returns
    -------
    Checkpoint
        Its `unet_heads` are known: as asked for, as a file says, of the base where the U-Net has the base's
        widths, or the usual ones where the U-Net is 320 wide as everybody's is. So is what it predicts.

    Raises
    ------
    ValueError
        If a part is missing or not of Stable Diffusion 1.x or 2.x, or nothing says how many heads there are,
        or whether a model of Stable Diffusion 2 predicts ε or v.
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
            parts = replace(parts, text_encoder=text, text_whole=False, **_text_facts(config, text))
    if vae_path is not None:
        vae, scale = read_vae(vae_path)
        parts = replace(parts, vae=vae, latent_scale=scale or parts.latent_scale)
    _check_text_width(parts, name)
    known = _heads_asked_for(parts.unet, heads) or parts.unet_heads or _usual_heads(parts.unet)
    if known is None:
        raise ValueError(
            f"{name}: {file.name} does not say how many attention heads its U-Net has, which is "
            f"{_width(parts.unet)} wide and not {USUAL_WIDTH}; set 'heads', or put its diffusers config.json "
            f"beside it as {file.stem}.json."
        )
    scheduler = parts.scheduler
    if prediction:
        scheduler = {**(scheduler or {}), "prediction_type": prediction}
    if scheduler is None and _linear(parts.unet):
        raise ValueError(
            f"{name}: {file.name} does not say whether its model of Stable Diffusion 2 predicts ε or v; set "
            f"'prediction', epsilon for models of 512 pixels and v_prediction for those of 768 in most cases."
        )
    return replace(parts, unet_heads=known, scheduler=scheduler)


def read_diffusers(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a diffusers folder. Raises ValueError that names the part that is missing or of another model."""
    folder = Path(folder)
    _refuse_other_pipeline(folder)
    unet = _config(folder / "unet")
    text, text_config = _read_text_encoder(folder / "text_encoder")
    size = unet.get("sample_size")
    vae = _read_part(folder / "vae")
    return Checkpoint(
        _unet_weights(_read_part(folder / "unet"), "checkpoint", f"{folder.name}/unet"),
        text,
        _vae_weights(vae, "checkpoint", f"{folder.name}/vae"),
        unet_heads=_heads(unet, "checkpoint") if unet else None,
        text_pad=_pad(folder / "tokenizer"),
        image_size=size * 8 if isinstance(size, int) else None,
        scheduler=_config(folder / "scheduler", "scheduler_config.json") or None,
        latent_scale=_latent_scale(_config(folder / "vae"), "checkpoint"),
        **_text_facts(text_config, text),
    )


def weight_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the weight files that are read of a checkpoint, or of a U-Net alone, as ``{name: path}``.

    The name is relative to the folder, or to the folder that a single file lies in.
    """
    path = Path(path)
    if not path.is_dir():
        return {file.name: file for file in shards_of(path, "checkpoint")}
    if is_vae_folder(path):
        return {file.name: file for file in _part_files(path, "vae")}
    if is_unet_folder(path):
        beside = _text_encoder_beside(path)
        return {
            os.path.relpath(file, path).replace(os.sep, "/"): file
            for file in (*_part_files(path, "unet"), *(_part_files(beside) if beside else ()))
        }
    return {f"{part}/{file.name}": file for part in _STEMS for file in _part_files(path / part)}


def is_unet_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a U-Net as diffusers saves it. A broken config counts as none."""
    return _class_of(folder) == "UNet2DConditionModel"


def is_vae_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a VAE as diffusers saves it. A broken config counts as none."""
    return _class_of(folder) == "AutoencoderKL"


def _class_of(folder: str | os.PathLike[str]) -> object:
    try:
        return _config(Path(folder)).get("_class_name")
    except (ValueError, OSError):
        return None


def read_single_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a single-file checkpoint in the original layout. Raises ValueError when a part is missing."""
    path = Path(path)
    weights = read_tensors(path, "checkpoint")
    _refuse_lora(weights, "checkpoint", path.name)
    _refuse_other_model(weights, "checkpoint", path.name)
    text_prefix = next(
        (prefix for prefix in (TEXT, *OPEN_CLIP) if any(key.startswith(prefix) for key in weights)), TEXT
    )
    unet, text, vae = (
        {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        for prefix in (UNET, text_prefix, VAE)
    )
    for part, prefix, what in (
        (unet, UNET, "U-Net"),
        (text, TEXT, "CLIP text encoder"),
        (vae, VAE, "VAE"),
    ):
        if not part:
            raise ValueError(
                f"checkpoint: {path.name} has no {what} (no key begins with {prefix!r}); give a whole "
                "checkpoint, a diffusers folder, or choose a U-Net alone in 'unet' over such a base."
            )
    declared = _declared(path)
    whole = text_prefix in OPEN_CLIP and _is_whole(text)
    if text_prefix in OPEN_CLIP:
        text = _from_open_clip(text, path.name)
    text = _text_weights(text, "checkpoint", path.name)
    return Checkpoint(
        _unet_weights(unet, "checkpoint", path.name),
        text,
        _vae_weights(vae, "checkpoint", path.name),
        unet_heads=_heads(declared["unet"], "checkpoint") if declared.get("unet") else None,
        text_whole=whole,
        scheduler=_said_of_prediction(weights, metadata_of(path)) | declared.get("scheduler", {}) or None,
        latent_scale=_latent_scale(declared.get("vae", {}), "checkpoint"),
        **_text_facts(declared.get("text_encoder", {}), text),
    )


def read_unet(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], int | tuple[int, ...] | None]:
    """Read a U-Net alone, a file or a diffusers folder, as ``(weights, heads or None)``.

    Heads come from the file's metadata, from a JSON of its name, or from a `config.json` beside it.
    """
    path = Path(path)
    if any("radedit" in part.lower() for part in path.parts[-3:]):
        raise ValueError(
            "unet: RadEdit's U-Net attends to text of BioViL-T, and no text encoder here is that; choose a "
            "U-Net that was trained with CLIP."
        )
    weights = _read_part(path, "unet", "unet") if path.is_dir() else read_tensors(path, "unet")
    folder = path if path.is_dir() else path.parent
    config = {} if path.is_dir() else _declared(path).get("unet", {})
    if not config and is_unet_folder(folder):
        config = _config(folder)
    return _unet_weights(weights, "unet", path.name), _heads(config, "unet") if config else None


def read_vae(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], float | None]:
    """Read a VAE alone, a file or a diffusers folder, as ``(weights, scale of its latents or None)``."""
    path = Path(path)
    weights = _read_part(path, "vae", "vae_alone") if path.is_dir() else read_tensors(path, "vae_alone")
    folder = path if path.is_dir() else path.parent
    config = _config(folder) if is_vae_folder(folder) else {}
    return _vae_weights(weights, "vae_alone", path.name), _latent_scale(config, "vae_alone")


def level_widths(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the channels of each level of a U-Net, in diffusers or in original keys."""
    widths: list[int] = []
    while (key := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in weights:
        widths.append(weights[key].shape[0])
    if widths or "input_blocks.0.0.weight" not in weights:
        return widths
    widths = [weights["input_blocks.0.0.weight"].shape[0]]
    for block in range(1, 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("input_bl"))):
        convolution = weights.get(f"input_blocks.{block}.0.out_layers.3.weight")
        if convolution is not None:
            widths[-1] = convolution.shape[0]
        elif f"input_blocks.{block}.0.op.weight" in weights:  # a step down ends the level
            widths.append(widths[-1])
    return widths


def declared_domains(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the domains that a folder's ``medtraverse.json`` declares, empty without one."""
    return tuple(_config(Path(folder), "medtraverse.json").get("domains", ()))


def unet_depths(keys: Collection[str], name: str = "unet") -> tuple[list[int], list[int]]:
    """Return ``(residual blocks, transformer depths)`` per level, from a U-Net's diffusers keys.

    Raises ValueError unless the keys are those of a U-Net of Stable Diffusion 1.x or 2.x.
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
            f"{name}: these are not the weights of a Stable Diffusion U-Net (its keys begin with "
            f"{', '.join(sorted(keys)[:3]) or 'nothing'}); give a U-Net as diffusers saves it."
        )
    levels = range(max(resnets) + 1)
    return [resnets.get(level, 0) for level in levels], [depths.get(level, 0) for level in levels]


def sampling_settings(scheduler: Mapping[str, Any] | None) -> tuple[str, float, float, str]:
    """Translate ``scheduler_config.json`` into ``(prediction type, beta_start, beta_end, beta_schedule)``.

    What it leaves out, or all of it, is as in Stable Diffusion 1.

    Raises ValueError for a schedule that the sampler would get silently wrong.
    """
    scheduler = scheduler or {}
    prediction = scheduler.get("prediction_type", "epsilon")
    schedule = scheduler.get("beta_schedule", "scaled_linear")
    unsupported = {
        "prediction_type": prediction not in PREDICTIONS,
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

    Raises ValueError that names what they are instead of a U-Net of Stable Diffusion from noise.
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
            f"{name}: the U-Net of {file} takes {channels} channels, Stable Diffusion takes 4; choose a "
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
    if other is not None:
        _refuse_model(other, name, file)


def _refuse_model(other: str, name: str, file: str) -> NoReturn:
    remedy = (
        "load it with Load Checkpoint, and wire its MODEL, CLIP and VAE into the same nodes"
        if other == _XL
        else "choose a model of Stable Diffusion 1, 2 or XL"
    )
    raise ValueError(
        f"{name}: {file} is of a {other} model, and this loader reads Stable Diffusion 1.x and 2.x; {remedy}."
    )


def _refuse_other_pipeline(folder: Path) -> None:
    """Name a folder of Stable Diffusion XL, 3 or another model by what its `model_index.json` says."""
    pipeline = str(_config(folder, "model_index.json").get("_class_name", ""))
    if "text_encoder_2" in _config(folder, "model_index.json") or (folder / "text_encoder_2").is_dir():
        other = _XL if "XL" in pipeline or not pipeline else pipeline.removesuffix("Pipeline")
        _refuse_model(other, "checkpoint", folder.name)


def _linear(weights: Mapping[str, Tensor]) -> bool:
    """Whether a U-Net has Stable Diffusion 2's linear layers where version 1 has 1 × 1 convolutions."""
    inner = next((weights[key] for key in weights if key.endswith("proj_in.weight")), None)
    return inner is not None and inner.ndim == 2


def _usual_heads(weights: Mapping[str, Tensor]) -> int | tuple[int, ...] | None:
    if _width(weights) != USUAL_WIDTH:
        return None
    if _linear(weights):
        return tuple(width // USUAL_HEAD_WIDTH for width in level_widths(weights))
    return USUAL_HEADS


def _heads_asked_for(weights: Mapping[str, Tensor], heads: int) -> int | tuple[int, ...]:
    """Return the heads of all levels, where a user says those of the first: see `_usual_heads`."""
    widths = level_widths(weights)
    if not heads or not _linear(weights) or not widths or widths[0] % heads:
        return heads
    return tuple(width * heads // widths[0] for width in widths)


def _check_text_width(parts: Checkpoint, name: str) -> None:
    """Raises ValueError where the U-Net attends to text of another width than the text encoder gives."""
    text = parts.text_encoder["text_model.embeddings.token_embedding.weight"].shape[-1]
    keys = [value for key, value in parts.unet.items() if key.endswith("attn2.to_k.weight")]
    if keys and keys[0].shape[-1] != text:
        context = keys[0].shape[-1]
        raise ValueError(
            f"{name}: the U-Net attends to text of width {context}, the text encoder gives {text}; lay it "
            f"over its own base{_BASES.get(context, '')}."
        )


def _said_of_prediction(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a single file says that diffusers keeps in `scheduler_config.json`.

    Empty tensors by these names are core's and many trainers'; the entries of the header are those of the
    ModelSpec standard, and core's own.
    """
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key")
    predictions = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    scheduler: dict[str, Any] = {"prediction_type": predictions[said]} if said in predictions else {}
    scheduler |= {"prediction_type": "v_prediction"} if "v_pred" in weights else {}
    return scheduler | ({"rescale_betas_zero_snr": True} if "ztsnr" in weights else {})


def _vae_weights(weights: Mapping[str, Tensor], name: str, file: str) -> dict[str, Tensor]:
    """Return the weights of a VAE, without what stands before its keys, its loss and its averages."""
    first = [key for key in weights if key.endswith("decoder.conv_in.weight")]
    if len(first) != 1:
        raise ValueError(
            f"{name}: {file} is no VAE of Stable Diffusion (its keys begin with "
            f"{', '.join(sorted(weights)[:2]) or 'nothing'}); give one such as sd-vae-ft-mse."
        )
    prefix = first[0].removesuffix("decoder.conv_in.weight")
    bare = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    return {key: value for key, value in bare.items() if key.startswith(_VAE_PARTS)}


def _latent_scale(config: Mapping[str, Any], name: str) -> float | None:
    """Return the scale of a VAE's latents by its config.json. Raises ValueError where there is more to it."""
    if config.get("latents_mean") is not None or config.get("shift_factor"):
        raise ValueError(
            f"{name}: the VAE's config.json shifts its latents, which Stable Diffusion does not; choose "
            "another VAE."
        )
    scale = config.get("scaling_factor")
    return float(scale) if scale else None


def _pad(tokenizer: Path) -> int | None:
    """Return the token that pads a prompt, by the tokenizer's files; None where they do not say.

    Raises ValueError for one that core's tokenizer does not have.
    """
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        pad = _config(tokenizer, file).get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        if pad is not None and pad not in _PADS:
            raise ValueError(
                f"checkpoint: {tokenizer.parent.name}/tokenizer pads prompts with {pad!r}, and CLIP's "
                f"tokenizer knows {' and '.join(map(repr, _PADS))}; mend its {file}."
            )
        if pad is not None:
            return _PADS[pad]
    return None


def _is_whole(text: Mapping[str, Tensor]) -> bool:
    """Whether OpenCLIP's text encoder has its last layer, which Stable Diffusion 2 does not read.

    diffusers leaves it out, and its converter to single files too. At OpenCLIP-H's size the number of layers
    shows it, else the projection, which is left out along with it.
    """
    layers = {int(match[1]) for key in text if (match := re.search(r"resblocks\.(\d+)\.", key))}
    tokens = text.get("token_embedding.weight")
    if tokens is not None and tokens.ndim == 2 and tokens.shape[1] == _SD2_TEXT_WIDTH:
        return len(layers) >= _OPEN_CLIP_H_LAYERS
    return any("text_projection" in key for key in text)


def _from_open_clip(weights: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return OpenCLIP's text encoder under the keys of transformers' CLIPTextModel, without its prefix."""
    names = {
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    layers = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    translated = {new: weights[old] for old, new in names.items() if old in weights}
    for key, value in weights.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", key)
        if match is None:
            continue
        place, layer, kind = f"encoder.layers.{match[1]}", match[2], match[3]
        if layer == "attn.in_proj":
            for name, third in zip("qkv", value.chunk(3)):
                translated[f"{place}.self_attn.{name}_proj.{kind}"] = third.contiguous()
        elif layer in layers:
            translated[f"{place}.{layers[layer]}.{kind}"] = value
        else:
            raise ValueError(
                f"checkpoint: {file} has a text encoder that is not OpenCLIP's; first key at fault: {key}."
            )
    return translated


def _text_weights(weights: Mapping[str, Tensor], name: str, file: str) -> dict[str, Tensor]:
    """Return the text encoder's weights with the keys of transformers' CLIPTextModel.

    Old single files and transformers 5 leave out the prefix ``text_model.``; a CLIPModel has its image
    encoder beside, and a projection that Stable Diffusion does not read.
    """
    tokens = [key for key in weights if key.endswith(_TOKENS)]
    if len(tokens) != 1:
        raise ValueError(
            f"{name}: {file} has no CLIP text encoder (its keys begin with "
            f"{', '.join(sorted(weights)[:2])}); give the text encoder of Stable Diffusion 1.x or 2.x."
        )
    prefix = tokens[0].removesuffix(_TOKENS)
    bare = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    return {f"text_model.{key}": value for key, value in bare.items() if key.startswith(_TEXT_PARTS)}


def _read_text_encoder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config = _config(folder)
    weights = _text_weights(_read_part(folder), "checkpoint", f"{folder.parent.name}/{folder.name}")
    return weights, config.get("text_config", config)  # a CLIPModel's config has one for each half


def _text_facts(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """transformers leaves out of a config what is its default: 8 heads. Without one the width tells."""
    width = weights["text_model.embeddings.token_embedding.weight"].shape[-1]
    return {
        "text_heads": config.get("num_attention_heads", 8) if config else None,
        "text_activation": config.get("hidden_act", "quick_gelu")
        if config
        else ("gelu" if width == _SD2_TEXT_WIDTH else "quick_gelu"),
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

    Either is the U-Net's diffusers config, or an object with the configs of `unet`, `text_encoder`, `vae` and
    `scheduler`. Other programs put other things there; those are not looked at.
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
        parts = declared if isinstance(declared, dict) else {}
        parts = {part: config for part, config in parts.items() if isinstance(config, dict)}
        if _says_heads(parts.get("unet")) or "prediction_type" in parts.get("scheduler", {}):
            return parts
    return {}


def _says_heads(config: object) -> bool:
    return isinstance(config, dict) and ("attention_head_dim" in config or "num_attention_heads" in config)


def _heads(config: Mapping[str, Any], name: str) -> int | tuple[int, ...]:
    """diffusers calls the number of heads ``attention_head_dim``; it may be a list, one a level."""
    heads = config.get("num_attention_heads") or config.get("attention_head_dim") or USUAL_HEADS
    levels = heads if isinstance(heads, list) else [heads]
    if not levels or not all(isinstance(number, int) and number > 0 for number in levels):
        raise ValueError(f"{name}: the U-Net's config says {heads!r} attention heads; mend its config.json.")
    return levels[0] if len(set(levels)) == 1 else tuple(levels)


def _width(weights: Mapping[str, Tensor]) -> int | None:
    first = ("conv_in.weight", "input_blocks.0.0.weight")
    return next((weights[key].shape[0] for key in first if key in weights), None)
