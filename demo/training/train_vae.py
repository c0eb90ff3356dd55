"""Training of the demo model's VAE on the phantoms of both domains.

Plain L1 drops thin bright wires: the loss is weighted by the generator's own mask of thin structures and has
an edge and a coarse term.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.phantoms.phantom_set import PhantomSet, held_out
from demo.training.architecture import SCALING, build_vae
from demo.training.loop import Recipe, Run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

RECIPE = Recipe(1.2e-3, averaging=0.997)
BATCH, KL_WEIGHT = 4, 2e-6
# Images and thin masks of a set, in memory maps or on a GPU.
Part = tuple[np.ndarray, np.ndarray] | tuple[Tensor, Tensor]


class Phase(NamedTuple):
    """From the share `start` of the run on: rows of a batch from each set, weights of the loss's terms."""

    start: float
    rows: tuple[int, int]
    thin: float
    coarse: float
    colour: float


# Lines come first, then shade, then colour, which dermoscopy has more of.
PHASES = (
    Phase(0.0, (2, 2), 6.0, 0.5, 0.0),
    Phase(0.13, (2, 2), 4.0, 3.0, 0.0),
    Phase(0.24, (2, 2), 4.0, 3.0, 12.0),
    Phase(0.42, (1, 3), 3.0, 3.0, 15.0),
)


def reconstruction_loss(
    output: Tensor,
    image: Tensor,
    thin: Tensor,
    thin_weight: float,
    coarse_weight: float,
    colour_weight: float,
) -> Tensor:
    """Loss of images in -1..1, a scalar tensor.

    L1 and L2 weighted by ``1 + thin_weight * thin``, L1 of first differences likewise, and L1 at a quarter of
    the resolution, of all and of colour alone.
    """
    weight = 1 + thin_weight * thin
    error = output - image
    total = (weight * (error.abs() + 2 * error.square())).mean()
    across, down = error[..., :, 1:] - error[..., :, :-1], error[..., 1:, :] - error[..., :-1, :]
    total = total + 0.7 * (
        (weight[..., :, 1:] * across.abs()).mean() + (weight[..., 1:, :] * down.abs()).mean()
    )
    coarse = F.avg_pool2d(error, 4)
    colour = coarse - coarse.mean(1, keepdim=True)
    return total + coarse_weight * coarse.abs().mean() + colour_weight * colour.abs().mean()


def train_vae(
    sets: Sequence[PhantomSet],
    folder: Path,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    resume: bool,
    batch: int = BATCH,
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Train on the phantom sets, in shares of `batch` by `PHASES`.

    Returns (vae with averaged weights, log).
    """
    torch.manual_seed(seed)
    vae = build_vae().to(device)
    parts = _near(sets, device)
    run = Run("vae", {"model": vae}, folder / "vae.pt", RECIPE, minutes, steps, device, resume)

    def loss(image: Tensor, thin: Tensor, noise: Tensor) -> Tensor:
        phase = _phase(run.clock.fraction)
        weights = (phase.thin, phase.coarse, phase.colour)
        posterior = vae.encode(image).latent_dist
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence: Tensor = posterior.kl().mean()
        return reconstruction_loss(output, image, thin, *weights) + KL_WEIGHT * divergence

    while not run.done:
        rows = [count * batch // BATCH for count in _phase(run.clock.fraction).rows]
        run.step(loss, *_batch(parts, rows, seed, run.clock.step, device))
    run.finish()
    standardise_latents(vae, sets)
    return vae, run.clock.log(device) | {"batch": batch, "psnr": psnr(vae, sets)}


def _phase(fraction: float) -> Phase:
    return [phase for phase in PHASES if fraction >= phase.start][-1]


def _near(sets: Sequence[PhantomSet], device: str) -> list[Part]:
    """Images and thin masks of each set: the memory maps, or on a GPU copies in its memory."""
    parts: list[Part] = [(phantoms.images, phantoms.thin) for phantoms in sets]
    if torch.device(device).type != "cuda":
        return parts
    copies = [[torch.from_numpy(np.array(part)).to(device) for part in pair] for pair in parts]
    return [(images, thin) for images, thin in copies]


def _batch(
    parts: Sequence[Part],
    rows: Sequence[int],
    seed: int,
    step: int,
    device: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, thin masks and the noise of the posterior of one step.

    The noise is drawn here: drawn in the loss, from one generator on several threads, it would depend on
    their turns.
    """
    rng, drawn = np.random.default_rng([seed, step]), []
    for (images, thin), count in zip(parts, rows):
        chosen = rng.integers(len(images) - held_out(len(images)), size=count)
        drawn.append([torch.as_tensor(part[chosen]) for part in (images, thin)])
    image, mask = (torch.cat(part).to(device) for part in zip(*drawn))
    noise = rng.standard_normal((len(image), 4, image.shape[1] // 8, image.shape[2] // 8), dtype=np.float32)
    return (
        image.permute(0, 3, 1, 2).float() / 127.5 - 1,
        mask[:, None].float() / 255,
        torch.from_numpy(noise).to(device),
    )


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: np.ndarray, batch: int = 32) -> Tensor:
    """Posterior mean and log variance of every image, float32 [N, 8, h, w], unscaled."""
    device = next(vae.parameters()).device
    moments = []
    for start in range(0, len(images), batch):
        image = torch.from_numpy(np.array(images[start : start + batch])).to(device)
        posterior = vae.encode(image.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.logvar], 1).cpu())
    return torch.cat(moments)


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, sets: Sequence[PhantomSet], count: int = 256) -> None:
    """Fold a shift and scale of each latent channel into the 1x1 quant convolutions.

    Latents x 0.18215 have mean 0 and deviation 1 then.
    """
    mean = torch.cat([encode_all(vae, s.images[:count])[:, :4] for s in sets])
    shift = mean.mean((0, 2, 3)).to(vae.device)
    scale = (mean.std((0, 2, 3)) * SCALING).to(vae.device)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] /= scale[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - shift) / scale
    into.bias[4:] -= 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ shift
    out.weight *= scale[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, sets: Sequence[PhantomSet], count: int = 128) -> dict[str, float]:
    """Peak signal-to-noise ratio, in dB, of each domain's reconstructions, on patients held out.

    They are decoded from the posterior mean.
    """
    result = {}
    for phantoms in sets:
        errors = []
        last = len(phantoms.images)
        for start in range(last - min(count, held_out(last)), last, 32):
            images = np.array(phantoms.images[start : start + 32])
            target = torch.from_numpy(images).to(vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            output = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
            errors.append(((output - target) / 2).square().mean((1, 2, 3)))
        result[phantoms.domain] = round(float(-10 * torch.cat(errors).log10().mean()), 2)
    return result
