"""Runs a traversal: blocks of patients through the guider, with progress, previews and cancel."""

import hashlib

import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..medtraverse.traversal import NEUTRAL, Plan
from . import samplers
from .evaluation_cache import cache_for, fingerprint
from .guider import TraversalGuider, TraversalSampler
from .live import progress_text, say, traversal_preview


def traverse(
    model,
    neutral,
    attributes,
    negative,
    noise,
    seeds,
    swap_steps,
    steps,
    cfg,
    sampler,
    scheduler,
    rows_per_call=0,
    cache_mb=0,
    names=(),
):
    """Sample the latents of all rows of a traversal.

    Parameters
    ----------
    model : ModelPatcher
    neutral, negative : CONDITIONING
    attributes : list of CONDITIONING
    noise : Tensor [patients, C, h, w]
        Unit normal; one per seed.
    rows_per_call : int
        Latents per U-Net call, 0 for what memory allows. Patients are sampled in blocks of this size, so that time per
        patient does not grow, and memory does not either, with their number.
    cache_mb : int
        See ``cache_for``.
    names : sequence of str
        Attributes' names, for the progress text.

    Returns
    -------
    latents : Tensor [rows, C, h, w], float32 on the CPU
        In the order of ``Plan``.
    cost : dict
        ``rows`` and ``calls`` of the U-Net, ``reused`` rows that the cache served.
    """
    sigmas = samplers.sigmas_of(model, sampler, scheduler, steps)
    limit = samplers.rows_per_call(model, noise.shape[1:], rows_per_call)
    cache = cache_for(model, cache_mb)
    context = _context(neutral, negative, cfg, sampler, sigmas) if cache is not None else None
    branches = [fingerprint(attribute) for attribute in attributes] if context else []
    if not context or None in branches:
        cache = None

    total = Plan(len(seeds), len(attributes), swap_steps).evaluations(steps, cfg != 1.0) * (
        2 if sampler in samplers.STEPWISE else 1
    )
    bar, done = comfy.utils.ProgressBar(total), {"rows": 0, "calls": 0, "reused": 0}
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    latents = []
    start = 0
    while start < len(seeds):
        block = slice(start, start + limit)
        plan = Plan(len(seeds[block]), len(attributes), swap_steps)
        shown = done["rows"] + done["reused"]
        guider = TraversalGuider(
            model,
            plan,
            steps,
            limit,
            lambda rows, shown=shown: bar.update_absolute(min(shown + rows, total), total),
            cache,
            _row_keys(plan, steps, seeds[block], noise[block], branches, context)
            if cache is not None
            else None,
        )
        guider.set_traversal(neutral, attributes, negative)
        guider.set_cfg(cfg)
        draws = samplers.noise_sampler(sampler, seeds[block], plan.patient(), noise.shape[1:], sigmas)
        stepper = TraversalSampler(
            comfy.samplers.sampler_object(sampler),
            guider,
            sampler in samplers.STEPWISE,
            draws,
            scheduler == samplers.DIFFUSERS_DDIM,
        )
        rows = noise[block][plan.patient()]

        def preview(step, denoised, x, total_steps, guider=guider, plan=plan, shown=shown, block=block):
            say(progress_text(seeds[block], names, swap_steps, step, steps))
            if previewer:
                picture = traversal_preview(previewer, denoised, plan, step)
                bar.update_absolute(min(shown + guider.rows + guider.served, total), total, picture)

        sampled = (
            guider.sample(
                rows,
                torch.zeros_like(rows),
                stepper,
                sigmas,
                callback=preview,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seeds[start],
            )
            .cpu()
            .float()
        )
        latents.append(sampled)
        start, limit = block.stop, guider.rows_per_call
        for name, number in (("rows", guider.rows), ("calls", guider.calls), ("reused", guider.served)):
            done[name] += number
    latents = torch.cat(latents)
    if scheduler == samplers.DIFFUSERS_DDIM:
        latents = latents / (1 + sigmas[-1] ** 2) ** 0.5
    return latents, done


def _context(neutral, negative, cfg, sampler, sigmas):
    """Return what every latent of a run depends on beside seed and branch; None when it cannot be told."""
    prompts = (fingerprint(neutral), fingerprint(negative))
    return None if None in prompts else (*prompts, cfg, sampler, tuple(sigmas.tolist()))


def _row_keys(plan, steps, seeds, noise, branches, context):
    """Return what tells each row's outputs from those of other runs: a seed has other noise on a GPU, or at another size."""
    patients = [
        (seed, tuple(drawn.shape), hashlib.sha256(drawn.numpy().tobytes()).digest())
        for seed, drawn in zip(seeds, noise)
    ]
    rows = zip(plan.patient().tolist(), plan.attribute().tolist(), plan.swap_step(steps).tolist())
    return [
        (context, patients[patient], None if attribute == NEUTRAL else (branches[attribute], swap_step))
        for patient, attribute, swap_step in rows
    ]
