"""Phantoms through a VAE and back: what a classifier sees of decoded latents. Synthetic images."""

from __future__ import annotations

import os
from typing import Any

import torch


def load_vae(folder: str | os.PathLike[str]) -> Any:
    """Return the VAE of a folder in diffusers' format, in float32. ValueError where there is none."""
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"vae: {folder} holds no VAE; give a folder in diffusers' format, such as "
            "demo/weights/phantom-sd/vae."
        ) from error


@torch.inference_mode()
def reconstruct(images: torch.Tensor, vae: Any, wobble: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Encode and decode images.

    Parameters
    ----------
    images : Tensor [N, 3, H, W]
        uint8.
    vae
        By `load_vae`.
    wobble : float
        Latent noise, up to so many standard deviations of the latents.
    seed : int
        Of that noise.

    Returns
    -------
    Tensor [N, 3, H, W]
        uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty_like(images)
    for start in range(0, len(images), 16):
        latents = vae.encode(images[start : start + 16].float() / 127.5 - 1).latent_dist.mode()
        amount = wobble * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + amount * latents.std() * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents).sample
        out[start : start + 16] = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return out
