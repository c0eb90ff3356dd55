"""Builds ComfyUI's MODEL, CLIP and VAE from a Stable Diffusion 1.x or 2.x checkpoint of any size.

ComfyUI's own detection knows full-size models only. What is built here are its own modules inside its own
ModelPatcher, so LoRA, offloading, previews and memory management keep working.

Newer versions of ComfyUI stream weights to an NVIDIA card ("dynamic VRAM"). Their Linear layers are empty
until a file is loaded, and take whatever it holds. So keys and shapes are compared before loading, with a
model of plain layers.
"""

import logging
from typing import Any

import comfy.diffusers_convert
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ..medtraverse.checkpoint import END, EXCLAMATION, level_widths, sampling_settings, unet_depths
from .live import say
from .provenance import patches_digest

ORIGIN = "medtraverse.origin"
# CLIP-L, OpenCLIP-H and OpenCLIP-bigG, which have a head for 64 channels; of another encoder nobody knows it.
KNOWN_TEXT_WIDTHS = (768, 1024, 1280)


def origin(model: Any) -> dict[str, Any] | None:
    """Return which files a MODEL was loaded from, as MedicalCheckpointLoader attached it, else None.

    Clones keep it; ``patched_weights`` counts the weights that a LoRA or a merge has changed since, and
    ``patches`` has a digest of the changes.
    """
    loaded, digest = model.get_attachment(ORIGIN), patches_digest(model)
    if loaded is None and digest is None:
        return None
    changes = {"patches": {"sha256": digest}} if digest else {}
    return {**(loaded or {}), "patched_weights": len(model.patches), **changes}


class _PlainLayers(comfy.ops.disable_weight_init):
    """Core's layers, of which none waits for a file to have its weights."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        def _load_from_state_dict(self, *args):  # core creates weights at once where this is overridden
            return torch.nn.Module._load_from_state_dict(self, *args)


def patcher_class(disable_dynamic=False):
    """Return the class that this ComfyUI wraps a MODEL in; ``disable_dynamic`` wants the plain one."""
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def reload_model(files, disable_dynamic=False):
    """Return the MODEL of ``Parts`` anew, which core asks for to compile, to hook weights, or for a GPU."""
    parts = files.read()
    return build_model(
        parts.unet, parts.unet_heads, parts.scheduler, parts.latent_scale, disable_dynamic=disable_dynamic
    )


def reload_clip(files, embedding_directory=None, disable_dynamic=False):
    """Return the CLIP's patcher anew, as ``reload_model`` does the MODEL."""
    return build_clip(files.read(), embedding_directory, disable_dynamic).patcher


def reload_vae(files, disable_dynamic=False):
    """Return the VAE's patcher anew, as ``reload_model`` does. Core's VAE has no plain patcher to ask for."""
    return build_vae(files.read().vae).patcher


def is_dynamic(patcher):
    """Return whether core streams the patcher's weights; older versions have no such patcher."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def build_model(
    weights, heads, scheduler, latent_scale=None, dtype=None, name="checkpoint", disable_dynamic=False
):
    """Return a ModelPatcher for a U-Net in diffusers or original keys.

    A U-Net with Stable Diffusion 2's linear layers becomes core's SD20, with attention in float32; what it
    predicts is the scheduler's to say. ``heads`` is one number, or one a level. ``disable_dynamic`` makes a
    plain patcher, which core asks for where it compiles a model or hooks weights onto it. Raises ValueError
    for keys that do not fit.
    """
    if "conv_in.weight" in weights:
        weights = _original_keys(weights, name)
    if "input_blocks.0.0.weight" not in weights:
        unet_depths(weights.keys(), name)
    detected = comfy.model_detection.detect_unet_config(weights, "")
    blocks = {int(key.split(".")[1]) for key in weights if key.startswith("input_blocks.")}
    if detected.get("context_dim") is None or len(blocks) <= max(blocks):
        raise ValueError(
            f"{name}: the U-Net does not fit Stable Diffusion; input blocks are missing, or have no "
            "cross-attention."
        )
    # ComfyUI rounds what is no whole multiple of the first level's width.
    widths = level_widths(weights)
    detected["channel_mult"] = [
        width // widths[0] if width % widths[0] == 0 else _Multiple(width / widths[0]) for width in widths
    ]
    base = (
        comfy.supported_models.SD20 if detected["use_linear_in_transformer"] else comfy.supported_models.SD15
    )
    prediction, beta_start, beta_end, schedule = sampling_settings(scheduler)

    class MedicalModel(base):
        unet_config = {key: detected[key] for key in ("context_dim", "model_channels")}
        unet_extra_config = {**base.unet_extra_config, **_attention_heads(heads, widths, name)}
        sampling_settings = {
            "linear_start": beta_start,
            "linear_end": beta_end,
            "beta_schedule": "linear" if schedule == "scaled_linear" else "sqrt_linear",
        }

        def model_type(self, state_dict, prefix=""):
            v_prediction = prediction == "v_prediction"
            return comfy.model_base.ModelType.V_PREDICTION if v_prediction else comfy.model_base.ModelType.EPS

    config = MedicalModel(detected)
    device = comfy.model_management.get_torch_device()
    if dtype is None:
        dtype = comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(weights),
            supported_dtypes=config.supported_inference_dtypes,
            weight_dtype=comfy.utils.weight_dtype(weights),
        )
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    _check_keys(weights, _unet_shapes(config.unet_config), name, "U-Net")
    offload = comfy.model_management.unet_offload_device()
    model = config.get_model(weights, "").to(offload)
    if latent_scale:
        model.latent_format.scale_factor = latent_scale
    patcher = patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload)
    # A dynamic patcher casts at use and keeps the file's tensors. A plain one never casts, and core's empty
    # layers take a tensor as it is, whatever the type of the others.
    dynamic = is_dynamic(patcher)
    if not dynamic:
        weights = {key: value.to(dtype) for key, value in weights.items()}
    model.diffusion_model.load_state_dict(weights, assign=dynamic)
    return patcher


def _unet_shapes(unet_config):
    """Return ``{key: tensor without data}`` of the U-Net of that configuration."""
    return comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
        **unet_config, device="meta", operations=_PlainLayers
    ).state_dict()


class _Multiple(float):
    """A broken multiple whose product with a width is a width, a whole number, as ComfyUI's U-Net needs."""

    def __mul__(self, width):
        return round(float(self) * width)

    __rmul__ = __mul__


def _attention_heads(heads, widths, name):
    """Return core's two settings for heads: their number in all levels, or their width in all levels."""
    levels = [heads] * len(widths) if isinstance(heads, int) else list(heads)[: len(widths)]
    if len(levels) < len(widths) or any(width % number for width, number in zip(widths, levels)):
        raise ValueError(
            f"heads: {heads} does not divide the widths of the U-Net's levels, "
            f"{', '.join(map(str, widths))}; give the number that it was trained with."
        )
    if len(set(levels)) == 1:
        return {"num_heads": levels[0], "num_head_channels": -1}
    channels = {width // number for width, number in zip(widths, levels)}
    if len(channels) > 1:
        raise ValueError(
            f"{name}: the U-Net's levels, {', '.join(map(str, widths))} wide, have {heads} heads, and "
            "ComfyUI knows one number for all levels, or heads of one width; such a model cannot be loaded."
        )
    return {"num_heads": -1, "num_head_channels": channels.pop()}


def build_clip(parts, embedding_directory=None, disable_dynamic=False):
    """Return a CLIP for the text encoder of a ``Checkpoint``, of any width and depth.

    With ``gelu`` it is OpenCLIP's, and core's for Stable Diffusion 2. It is kept in float32: ComfyUI's
    default, fp16 even on a CPU, moves the final latents by 2e-2.
    """
    weights = {key: value for key, value in parts.text_encoder.items() if not key.endswith("position_ids")}
    tokens = weights.get("text_model.embeddings.token_embedding.weight")
    if tokens is None or tokens.ndim != 2 or tokens.shape[0] != 49408:
        found = "none" if tokens is None else tokens.shape[0]
        raise ValueError(
            f"checkpoint: the text encoder has {found} token embeddings; CLIP's vocabulary has 49408."
        )
    width = tokens.shape[1]
    layers = 1 + max(
        int(key.split(".")[3]) for key in weights if key.startswith("text_model.encoder.layers.")
    )
    open_clip = parts.text_activation == "gelu"
    encoder, model = ("clip_h", comfy.supported_models.SD20) if open_clip else ("clip_l", None)
    if open_clip and not parts.text_whole:
        weights, layers = _with_idle_layer(weights, layers), layers + 1
    heads = parts.text_heads or max(1, width // 64)
    if parts.text_heads is None and width not in KNOWN_TEXT_WIDTHS:
        line = (
            f"checkpoint: no file says how many attention heads the text encoder has, which is {width} wide; "
            f"{heads} are taken. If it has others, put a JSON of the file's name beside it, with the "
            "config.json of both parts as unet and text_encoder."
        )
        logging.warning("MedTraverse: %s", line)
        say(line)
    config = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "hidden_act": parts.text_activation,
        "max_position_embeddings": weights["text_model.embeddings.position_embedding.weight"].shape[0],
        "projection_dim": width,
    }
    clip = comfy.sd.CLIP(
        (model or comfy.supported_models.SD15).clip_target(None),
        embedding_directory=embedding_directory,
        parameters=comfy.utils.calculate_parameters(weights),
        model_options={f"{encoder}_model_config": config, "dtype": torch.float32},
        **({"disable_dynamic": True} if disable_dynamic else {}),  # known only to versions that ask for it
    )
    state = {f"{encoder}.transformer.{key}": value.float() for key, value in weights.items()}
    missing, unexpected = clip.load_sd(state, full_model=True)
    missing = [key for key in missing if "logit_scale" not in key and "text_projection" not in key]
    faults = missing + list(unexpected) + _misshapen(clip.cond_stage_model)
    if faults:
        raise ValueError(
            f"checkpoint: the text encoder does not fit CLIP; first keys at fault: {faults[:3]}."
        )
    pad = parts.text_pad if parts.text_pad is not None else EXCLAMATION if open_clip else END
    tokenizer, network = getattr(clip.tokenizer, encoder), getattr(clip.cond_stage_model, encoder)
    tokenizer.pad_token, tokenizer.embedding_size = pad, width
    network.special_tokens = {**network.special_tokens, "pad": pad}
    return clip


def _with_idle_layer(weights, number):
    """Return a text encoder with one more layer, of zeros, which adds nothing to what it gets.

    Core reads Stable Diffusion 2's last layer but one, as OpenCLIP numbers them. diffusers has left the last
    one out, so that its last is the one to read.
    """
    last = f"text_model.encoder.layers.{number - 1}."
    idle = {
        key.replace(last, f"text_model.encoder.layers.{number}."): torch.zeros_like(value)
        for key, value in weights.items()
        if key.startswith(last)
    }
    projection = torch.eye(weights["text_model.final_layer_norm.weight"].shape[0])
    return {**weights, **idle, "text_projection.weight": projection}


def _misshapen(module):
    """Return the linear layers with weights of another shape: core's empty layers take what they get."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and layer.weight.shape != (layer.out_features, layer.in_features)
    ]


def build_vae(weights, name="checkpoint"):
    """Return a VAE for an AutoencoderKL of four levels (×8), in diffusers or original keys, of any width."""
    if "encoder.conv_in.weight" not in weights:
        raise ValueError(
            f"{name}: this is not the VAE of Stable Diffusion; its keys begin with {sorted(weights)[:2]}."
        )
    diffusers = "encoder.down_blocks.0.resnets.0.norm1.weight" in weights
    block, resnet, conv = ("down_blocks", "resnets", "conv1") if diffusers else ("down", "block", "conv1")
    channels, resnets = [], 0
    while (key := f"encoder.{block}.{len(channels)}.{resnet}.0.{conv}.weight") in weights:
        channels.append(weights[key].shape[0])
    while f"encoder.{block}.0.{resnet}.{resnets}.{conv}.weight" in weights:
        resnets += 1
    latent_channels = weights["decoder.conv_in.weight"].shape[1]
    if len(channels) != 4 or any(width % channels[0] for width in channels) or latent_channels != 4:
        raise ValueError(
            f"{name}: the VAE has levels {channels} and {latent_channels} latent channels; Stable "
            "Diffusion has four levels (×8), multiples of the first, and 4 latent channels."
        )
    ddconfig = {
        "double_z": True,
        "z_channels": latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": resnets,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    if diffusers:
        weights = comfy.diffusers_convert.convert_vae_state_dict(dict(weights))
    try:
        vae = comfy.sd.VAE(
            sd=dict(weights), config={"params": {"ddconfig": ddconfig, "embed_dim": latent_channels}}
        )
    except RuntimeError as error:  # torch's own list of shapes that differ
        raise ValueError(
            f"{name}: the VAE does not fit Stable Diffusion; {str(error).splitlines()[-1].strip()}"
        ) from error
    expected = vae.first_stage_model.state_dict()
    _check_keys({key: weights[key] for key in expected if key in weights}, expected, name, "VAE")
    if comfy.model_management.is_device_cpu(vae.device):
        # Core would decode as many images at once as memory holds; beyond its caches a CPU takes longer for
        # each.
        vae.memory_used_decode = lambda shape, dtype: (
            comfy.model_management.get_free_memory(vae.device) / 16.5
        )
    vae.throw_exception_if_invalid()
    return vae


def _original_keys(weights, name):
    """Translate diffusers' U-Net keys; ComfyUI's own loader silently drops those that it does not know."""
    resnets, depths = unet_depths(weights.keys(), name)
    channels = [
        weights[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(len(resnets))
    ]
    mapping = comfy.utils.unet_to_diffusers(
        {
            "num_res_blocks": resnets,
            "channel_mult": [width // channels[0] for width in channels],
            "transformer_depth": [depth for depth, count in zip(depths, resnets) for _ in range(count)],
            "transformer_depth_output": [
                depth for depth, count in zip(depths, resnets) for _ in range(count + 1)
            ],
            "transformer_depth_middle": 1,
        }
    )
    unknown = [key for key in weights if key not in mapping]
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} keys of the U-Net are not those of Stable Diffusion; the first: "
            f"{unknown[:3]}."
        )
    return {mapping[key]: value for key, value in weights.items()}


def _check_keys(weights, expected, name, what):
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    shapes = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if missing or unknown or shapes:
        fault = sorted(missing or unknown or shapes)[:3]
        kind = "missing" if missing else "unknown" if unknown else "of another shape"
        raise ValueError(
            f"{name}: the {what} does not fit Stable Diffusion; keys {kind}, the first: {fault}."
        )
