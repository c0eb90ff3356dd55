"""Rough colours of latents, for previews: a linear map from latent to RGB, fitted to the VAE at hand.

ComfyUI has one such map for all of Stable Diffusion 1.x. On a medical VAE, whose latents mean something
else, it shows red and cyan noise.
"""

import copy
import logging
import math
import threading
import weakref
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F

_SIDE = 96
_fits: weakref.WeakKeyDictionary[Any, tuple[list[list[float]], list[float]]] = weakref.WeakKeyDictionary()


def fitted_format(latent_format: Any, vae: Any) -> Any:
    """Return a latent format like the one given, whose rough colours are fitted to a VAE.

    The map is a least-squares fit, once for each loaded VAE, on what the VAE makes of a few soft pictures.
    """
    weights = getattr(vae, "first_stage_model", None)
    if weights is None:
        return latent_format
    if weights not in _fits:
        try:
            _fits[weights] = _fit(latent_format, vae)
        except RuntimeError as error:  # out of memory too
            logging.warning("MedTraverse: no rough colours could be fitted to this VAE (%s)", error)
            return latent_format
    factors, bias = _fits[weights]
    # Some VAEs overflow in half precision; a preview is no reason to fail.
    if not all(map(math.isfinite, bias)):
        return latent_format
    fitted = copy.copy(latent_format)
    fitted.latent_rgb_factors, fitted.latent_rgb_factors_bias = factors, bias
    return fitted


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


class Decoded:
    """Images [H, W, 3] of latents [rows, C, h, w], decoded a block at a time as rows are asked for."""

    def __init__(self, vae: Any, latents: torch.Tensor, at_once: int = 16) -> None:
        self.vae, self.latents, self.at_once = vae, latents, at_once
        self._blocks: dict[int, torch.Tensor] = {}
        self._lock = threading.Lock()
        height, width = self(0).shape[:2]
        self.size = [width, height]

    def __call__(self, row: int) -> torch.Tensor:
        number = row // self.at_once
        with self._lock:
            if number not in self._blocks:
                comfy.model_management.throw_exception_if_processing_interrupted()
                if len(self._blocks) > 1:
                    del self._blocks[min(self._blocks)]
                # What the node runs under holds for its own thread only.
                with torch.inference_mode():
                    start = number * self.at_once
                    self._blocks[number] = self.vae.decode(self.latents[start : start + self.at_once])
            return self._blocks[number][row - number * self.at_once]


def _fit(latent_format: Any, vae: Any) -> tuple[list[list[float]], list[float]]:
    """Return factors [C][3] and bias [3] from the model's latents to RGB in -1…1."""
    latents = vae.encode(_soft_pictures())
    pictures = vae.decode(latents)
    x = latent_format.process_in(latents.float().cpu()).movedim(1, -1).flatten(0, -2)
    size = latents.shape[-2:]
    seen = (
        F.interpolate(pictures.float().cpu().movedim(-1, 1), size, mode="area").movedim(1, -1).flatten(0, -2)
    )
    design = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    ridge = 1e-3 * len(x) * torch.eye(design.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    solved = torch.linalg.solve(design.T @ design + ridge, design.T @ (2 * seen.double() - 1)).float()
    return solved[:-1].tolist(), solved[-1].tolist()


def _soft_pictures() -> torch.Tensor:
    """Return four pictures [4, H, W, 3] in 0…1 of soft blobs: two grey, as films are, and two in colour."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    coarse[:2] = coarse[:2, :1]
    soft = F.interpolate(coarse, (_SIDE, _SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    return soft.movedim(1, -1)
