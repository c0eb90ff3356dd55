"""Rough colours of latents, for previews: a linear map from latent to RGB, fitted to the VAE at hand.

ComfyUI has one such map for all of Stable Diffusion 1.x. On a medical VAE, whose latents mean something
else, it shows red and cyan noise.
"""

import copy
import hashlib
import logging
import math
import weakref
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F

_SIDE = 96
_MOST_FITS = 64
# Factors and bias by the digest of the VAE's weights and the model's scale, and that digest by the VAE.
_fits: dict[tuple[Any, ...], tuple[list[list[float]], list[float]]] = {}
_digests: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def fitted_format(latent_format: Any, vae: Any) -> Any:
    """Return a latent format like the one given, whose rough colours are fitted to a VAE.

    The map is a least-squares fit on what the VAE makes of a few soft pictures, once for the same weights
    however often they are loaded.
    """
    weights = getattr(vae, "first_stage_model", None)
    if weights is None:
        return latent_format
    try:
        if weights not in _digests:
            _digests[weights] = _digest(weights)
        probe = torch.arange(2.0)[:, None, None, None].expand(2, latent_format.latent_channels, 1, 1)
        key = _digests[weights], *latent_format.process_in(probe).flatten().tolist()
        if key not in _fits:
            if len(_fits) >= _MOST_FITS:
                del _fits[next(iter(_fits))]
            _fits[key] = _fit(latent_format, vae)
    except (RuntimeError, AttributeError, TypeError) as error:  # out of memory too, or a stranger's VAE
        logging.warning("MedTraverse: no rough colours could be fitted to this VAE (%s)", error)
        return latent_format
    factors, bias = _fits[key]
    # Some VAEs overflow in half precision; a preview is no reason to fail.
    if not all(map(math.isfinite, bias)):
        return latent_format
    fitted = copy.copy(latent_format)
    fitted.latent_rgb_factors, fitted.latent_rgb_factors_bias = factors, bias
    return fitted


def _digest(module: Any) -> str:
    """Return SHA-256 of a module's weights: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def colour_map(latent_format: Any) -> torch.Tensor | None:
    """Return the map from a LATENT to RGB in 0…1, [C + 1, 3], the constant last; None without one."""
    if latent_format.latent_rgb_factors is None:
        return None
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias or [0.0, 0.0, 0.0])
    channels = len(factors)
    # Factors are for the model's scale. What they do to zero and to each channel is what they do to a LATENT.
    points = torch.cat([torch.eye(channels), torch.zeros(1, channels)])[:, :, None, None]
    seen = (latent_format.process_in(points)[:, :, 0, 0] @ factors + bias + 1) / 2
    return torch.cat([seen[:-1] - seen[-1], seen[-1:]])


def coloured(latents: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Return rough pictures [N, h, w, 3] of a LATENT [N, C, h, w] by a ``colour_map``."""
    return torch.einsum("nchw,cd->nhwd", latents.float(), colours[:-1]) + colours[-1]


def _fit(latent_format: Any, vae: Any) -> tuple[list[list[float]], list[float]]:
    """Return factors [C][3] and bias [3] from the model's latents to RGB in -1…1."""
    latents, colours = [], []
    for picture in _soft_pictures().split(1):  # a full-size VAE on a CPU takes a second for each
        comfy.model_management.throw_exception_if_processing_interrupted()
        encoded = vae.encode(picture)
        seen = vae.decode(encoded).float().cpu().movedim(-1, 1)
        latents.append(latent_format.process_in(encoded.float().cpu()).movedim(1, -1).flatten(0, -2))
        colours.append(F.interpolate(seen, encoded.shape[-2:], mode="area").movedim(1, -1).flatten(0, -2))
    x, y = torch.cat(latents), torch.cat(colours)
    design = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    ridge = 1e-3 * len(x) * torch.eye(design.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    solved = torch.linalg.solve(design.T @ design + ridge, design.T @ (2 * y.double() - 1)).float()
    return solved[:-1].tolist(), solved[-1].tolist()


def _soft_pictures() -> torch.Tensor:
    """Return four pictures [4, H, W, 3] in 0…1 of soft blobs: two grey, as films are, and two in colour."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    coarse[:2] = coarse[:2, :1]
    soft = F.interpolate(coarse, (_SIDE, _SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    return soft.movedim(1, -1)
