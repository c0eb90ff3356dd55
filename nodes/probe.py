"""A model's error on images at a few noise levels, taken inside ComfyUI's own machinery."""

from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch

from ..medtraverse import familiarity
from ..medtraverse.traversal import TRAIN_STEPS
from . import samplers


def model_errors(
    model: Any, conditioning: Any, latents: torch.Tensor, seeds: Sequence[int]
) -> torch.Tensor | None:
    """Return the mean squared error of the noise that a model sees in images; None without σ of training.

    Parameters
    ----------
    model : ModelPatcher
    conditioning : CONDITIONING
        Of the images' prompt.
    latents : Tensor [N, C, h, w]
        In the model's scale.
    seeds : sequence of int
        Of each image's noise.

    Returns
    -------
    Tensor [N], float64
        ``medtraverse.familiarity.model_error``.
    """
    table = torch.as_tensor(getattr(model.get_model_object("model_sampling"), "sigmas", ())).float().cpu()
    if len(table) != TRAIN_STEPS:
        return None
    sigmas = table[list(familiarity.PROBES)]
    states, errors = familiarity.probes(latents, seeds, sigmas), []
    limit = samplers.rows_per_call(model, tuple(latents.shape[1:]), 0)
    for part in range(0, len(latents), limit):
        rows = slice(part, part + limit)
        denoised = _denoised(model, conditioning, states[rows], sigmas)
        errors.append(familiarity.model_error(denoised, latents[rows], sigmas))
    return torch.cat(errors)


def _denoised(model: Any, conditioning: Any, states: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Return predictions without guidance of states [N, probes, C, h, w], on the CPU."""
    predictions: list[torch.Tensor] = []

    def evaluate(
        network: Any, x: torch.Tensor, _: Any, extra_args: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        for probe, sigma in enumerate(sigmas.tolist()):
            noisy = states[:, probe].to(x)
            predictions.append(
                network(noisy, x.new_full([len(x)], sigma), **(extra_args or {})).float().cpu()
            )
        return x

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    empty = torch.zeros_like(states[:, 0])
    guider.sample(
        empty,
        empty,
        comfy.samplers.KSAMPLER(evaluate),
        torch.cat([sigmas, torch.zeros(1)]),
        disable_pbar=True,
        seed=0,
    )
    return torch.stack(predictions, dim=1)
