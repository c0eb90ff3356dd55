"""What is minimised: the squared error of predicted ε or v, weighted by noise level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def weights(
    alphas: Tensor, prediction: str = "epsilon", min_snr: float = 0.0, high_noise: float = 1.0
) -> Tensor:
    """Return the weight of the squared error at each noise level.

    Parameters
    ----------
    alphas : Tensor
        Cumulative alphas of the samples, in 0..1.
    prediction : str
        ``epsilon`` or ``v_prediction``.
    min_snr : float
        Limit γ of min-SNR (Hang et al. 2023, arXiv 2303.09556, section 3.4): min(SNR, γ)/SNR for ε,
        min(SNR, γ)/(SNR + 1) for v; 0 is none.
    high_noise : float
        Greatest further weight, SNR^-1/2 within 1 and this; 1 is none.
    """
    snr = alphas / (1 - alphas)
    weight = torch.ones_like(snr)
    if min_snr:
        weight = snr.clamp(max=min_snr) / (snr + 1 if prediction == "v_prediction" else snr)
    if high_noise > 1:
        weight = weight * snr.rsqrt().clamp(1.0, high_noise)
    return weight


class Objective:
    """The weighted error of each sample.

    Parameters
    ----------
    scheduler : DDPMScheduler
        It noises, and says what is predicted.
    min_snr, high_noise : float
        As for `weights`.
    """

    def __init__(self, scheduler: Any, device: torch.device, min_snr: float = 0.0, high_noise: float = 1.0):
        self.scheduler = scheduler
        self.prediction = str(scheduler.config.prediction_type)
        alphas = scheduler.alphas_cumprod.to(device)
        scheduler.alphas_cumprod = alphas
        self.table = weights(alphas, self.prediction, min_snr, high_noise)

    def __call__(
        self, network: Any, batch: dict[str, Tensor], context: Tensor, weighted: bool = True
    ) -> Tensor:
        """Return the error of each sample, float32 [B].

        Parameters
        ----------
        network : callable
            Noisy latents, timesteps and context to a prediction.
        batch : dict of str to Tensor
            Of `medtraverse.training.draws.Batches`, on the network's device.
        context : Tensor
            What the network takes of the captions.
        weighted : bool
            Whether noise levels weigh as in training.
        """
        latents, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        wanted = noise
        if self.prediction == "v_prediction":
            wanted = self.scheduler.get_velocity(latents, noise, timesteps)
        error = (network(noisy, timesteps, context).float() - wanted.float()).square().flatten(1).mean(1)
        weighed: Tensor = error * self.table[timesteps] if weighted else error
        return weighed
