"""Runs a traversal: blocks of patients through the guider, with progress, previews and cancel."""

import hashlib
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..medtraverse.traversal import NEUTRAL
from . import samplers
from .evaluation_cache import cache_for, fingerprint
from .guider import TraversalGuider, TraversalSampler
from .live import Pace, progress_text, say, traversal_preview


@dataclass(frozen=True)
class Conditionings:
    """CONDITIONINGs of a traversal: of the neutral prompt, of each attribute, of the negative prompt."""

    neutral: Any
    attributes: tuple
    negative: Any


def traverse(model, conditionings, settings, rows_per_call=0, cache_mb=0, latent_format=None):
    """Sample the latents of all rows of a traversal.

    Parameters
    ----------
    model : ModelPatcher
    conditionings : Conditionings
    settings : TraversalSettings
    rows_per_call : int
        Latents per U-Net call, 0 for what memory allows. Patients are sampled in blocks of this size, so that
        time per patient does not grow, and memory does not either, with their number.
    cache_mb : int
        See ``cache_for``.
    latent_format : LatentFormat, optional
        Whose rough colours previews have; the model's own if none is given.

    Returns
    -------
    latents : Tensor [rows, C, h, w], float32 on the CPU
        In the order of the settings' ``plan``.
    cost : dict
        ``rows`` and ``calls`` of the U-Net, ``reused`` rows that the cache served, and what rounding depends
        on: ``rows_per_call`` at the end, ``dtype`` and ``device``.
    """
    sigmas = samplers.sigmas_of(model, settings.sampler, settings.scheduler, settings.steps)
    channels = model.get_model_object("latent_format").latent_channels
    shape = (channels, settings.height // 8, settings.width // 8)
    limit = samplers.rows_per_call(model, shape, rows_per_call)
    cache = cache_for(model, cache_mb)
    context = _context(conditionings, settings, sigmas) if cache is not None else None
    branches = [fingerprint(attribute) for attribute in conditionings.attributes] if context else []
    if not context or None in branches:
        cache = None

    kind = samplers.SAMPLERS[settings.sampler]
    exact_ends = settings.scheduler == samplers.DIFFUSERS_DDIM
    total = settings.plan.evaluations(settings.steps, settings.guided) * kind.evaluations
    bar, done = comfy.utils.ProgressBar(total), {"rows": 0, "calls": 0, "reused": 0}
    pace = Pace(0.5)
    latent_format = latent_format or model.get_model_object("latent_format")
    previewer = latent_preview.get_previewer(model.load_device, latent_format)
    latents = []
    first = 0
    while first < settings.patients:
        together = samplers.patients_per_block(model, settings.plan.rows_per_patient, shape, limit)
        block = settings.block(first, together)
        plan = block.plan
        noise = samplers.patient_noise(block.seeds, shape, settings.noise)
        shown = done["rows"] + done["reused"]
        guider = TraversalGuider(
            model,
            block,
            limit,
            lambda rows, shown=shown: bar.update_absolute(min(shown + rows, total), total),
            cache,
            _row_keys(block, noise, branches, context) if cache is not None else None,
        )
        guider.set_traversal(conditionings)
        guider.set_cfg(settings.cfg)
        draws = samplers.noise_sampler(settings.sampler, block.seeds, plan.patient(), shape, sigmas)
        stepper = TraversalSampler(
            comfy.samplers.sampler_object(settings.sampler), guider, kind.by_step, draws, exact_ends
        )
        rows = noise[plan.patient()]

        def preview(step, denoised, x, total_steps, guider=guider, block=block, shown=shown):
            say(progress_text(block, step))
            if previewer and pace.due():
                picture = traversal_preview(previewer, denoised, block.plan, step)
                bar.update_absolute(min(shown + guider.rows + guider.served, total), total, picture)

        # As core does: a patch may draw from the global generator.
        torch.manual_seed(block.seed)
        sampled = guider.sample(
            rows,
            torch.zeros_like(rows),
            stepper,
            sigmas,
            callback=preview,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=block.seed,
        )
        latents.append(sampled.cpu().float())
        first, limit = first + block.patients, guider.rows_per_call
        for name, number in (("rows", guider.rows), ("calls", guider.calls), ("reused", guider.served)):
            done[name] += number
    joined = torch.cat(latents)
    if exact_ends:
        joined /= (1 + sigmas[-1] ** 2) ** 0.5
    dtype = getattr(model.model, "manual_cast_dtype", None) or model.model.get_dtype()
    how = {
        "rows_per_call": limit,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(model.load_device),
    }
    return joined, {**done, **how}


def _context(conditionings, settings, sigmas):
    """Return what every latent of a run depends on beside seed and branch; None when it cannot be told."""
    prompts = (fingerprint(conditionings.neutral), fingerprint(conditionings.negative))
    if None in prompts:
        return None
    return (*prompts, settings.cfg, settings.sampler, tuple(sigmas.tolist()))


def _row_keys(settings, noise, branches, context):
    """Return what tells each row's outputs from those of other runs.

    The noise is part of it, because a seed has other noise on a GPU, or at another size.
    """
    patients = [
        (seed, tuple(drawn.shape), hashlib.sha256(drawn.numpy().tobytes()).digest())
        for seed, drawn in zip(settings.seeds, noise)
    ]
    plan = settings.plan
    rows = zip(plan.patient().tolist(), plan.attribute().tolist(), plan.swap_step(settings.steps).tolist())
    return [
        (context, patients[patient], None if attribute == NEUTRAL else (branches[attribute], swap_step))
        for patient, attribute, swap_step in rows
    ]
