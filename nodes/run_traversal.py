"""Runs a traversal: blocks of patients through the guider, with progress, previews and cancel."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..medtraverse import projection
from ..medtraverse.traversal import NEUTRAL, TraversalSettings
from . import samplers
from .call_size import CallSize
from .compilation import compiled, is_compiled
from .evaluation_cache import SourceCache, cache_for, fingerprint
from .guider import TraversalGuider, TraversalSampler, out_of_memory
from .live import Pace, progress_text, say, traversal_preview


@dataclass(frozen=True)
class Conditionings:
    """CONDITIONINGs of a traversal: of the neutral prompt, of each attribute, of the negative prompt."""

    neutral: Any
    attributes: tuple
    negative: Any


class ProjectedPatients:
    """A block of images as their latents in the model's scale, with the noise of their paths.

    ``keys`` of their neutral rows, and ``cache``, let an inverted path be kept; None where nothing can be.
    """

    def __init__(self, start, latent_format, steps, noise, cache=None, keys=None):
        self.method, self.cache, self.keys = start.method, cache, keys
        self.latents, self.mask = latent_format.process_in(start.latents), start.masks()
        shape = self.latents.shape[1:]
        self.noise = (
            None
            if self.method == projection.INVERSION
            else projection.path_noise(start.seeds, steps, shape, samplers.noise_device(noise))
        )

    def path(self, latents, sigmas, first, alone):
        """Return the states of each step from ``first`` on, {step: [patients, C, h, w]}.

        ``alone(step, states, sigma)`` predicts without guidance.
        """
        steps = range(first, len(sigmas) - 1)
        if self.noise is not None:
            states = projection.noised(latents, self.noise, sigmas, self.method)
            return {step: states[:, step] for step in steps}
        kept = {
            step: [self.cache.get((key, step, "path")) for key in self.keys] for step in steps if self.cache
        }
        if kept and not any(state is None for states in kept.values() for state in states):
            return {step: torch.stack(states).to(latents) for step, states in kept.items()}
        path = projection.inverted(alone, latents, sigmas, first)
        if self.cache:
            for step, states in path.items():
                for key, state in zip(self.keys, states):
                    self.cache.put((key, step, "path"), state)
        return path


def traverse(
    model: Any,
    conditionings: Conditionings,
    settings: TraversalSettings,
    rows_per_call: int = 0,
    cache_mb: int = 0,
    latent_format: Any = None,
    start: projection.Start | None = None,
    bar: Any = None,
    told: Callable[[str], None] = say,
    compile_unet: bool = False,
) -> tuple[torch.Tensor, dict[str, Any]]:
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
    start : medtraverse.projection.Start, optional
        Images that the patients are, in place of noise; as many as the settings' patients.
    bar : object with ``update_absolute``, optional
        In place of a progress bar of its own.
    told : callable
        Takes a line of text at each step.
    compile_unet : bool
        Whether PyTorch compiles the U-Net, which takes minutes once and makes every later call faster.

    Returns
    -------
    latents : Tensor [rows, C, h, w], float32 on the CPU
        In the order of the settings' ``plan``.
    cost : dict
        ``rows`` and ``calls`` of the U-Net, ``reused`` rows that the cache served, and what rounding depends
        on: ``rows_per_call``, the least there were, ``dtype``, ``device`` and ``compiled``.
    """
    sigmas = samplers.sigmas_of(model, settings.sampler, settings.scheduler, settings.steps)
    channels = model.get_model_object("latent_format").latent_channels
    shape = (channels, settings.height // 8, settings.width // 8)
    size = CallSize(samplers.rows_per_call(model, shape, rows_per_call))
    cache: Any = cache_for(model, cache_mb)
    wanted = cache is not None or start is not None
    context = _context(conditionings, settings, sigmas) if wanted else None
    branches = [fingerprint(attribute) for attribute in conditionings.attributes] if context else []
    if not context or None in branches:
        context = cache = None

    if compile_unet:
        model = compiled(model)
    kind = samplers.SAMPLERS[settings.sampler]
    exact_ends = settings.scheduler == samplers.DIFFUSERS_DDIM
    total = settings.plan.evaluations(settings.steps, settings.guided) * kind.evaluations
    if start is not None:
        swaps, attributes = settings.swap_steps, len(settings.attributes)
        total = settings.patients * projection.evaluations(
            settings.steps, swaps, attributes, start.method, settings.guided
        )
        cache = SourceCache(start, model, cache) if context else None
    bar = bar or comfy.utils.ProgressBar(total)
    done = {"rows": 0, "calls": 0, "reused": 0}
    pace = Pace(0.5)
    latent_format = latent_format or model.get_model_object("latent_format")
    previewer = latent_preview.get_previewer(model.load_device, latent_format)
    # One tensor for all, not parts that are then copied together.
    joined = torch.empty(settings.plan.rows, *shape)
    first, most = 0, settings.patients
    while first < settings.patients:
        together = samplers.patients_per_block(
            model, settings.plan.rows_per_patient, shape, min(most, size.now)
        )
        block = settings.block(first, together)
        plan = block.plan
        images = start and start.block(first, together)
        noise = torch.zeros(len(block.seeds), *shape)
        if start is None:
            noise = samplers.patient_noise(block.seeds, shape, settings.noise)
        keys = _row_keys(block, noise, branches, context, images) if cache is not None else None
        shown = done["rows"] + done["reused"]
        guider = TraversalGuider(
            model,
            block,
            size,
            lambda rows, shown=shown: bar.update_absolute(min(shown + rows, total), total),
            cache,
            keys,
        )
        guider.set_traversal(conditionings)
        guider.set_cfg(settings.cfg)
        draws = samplers.noise_sampler(settings.sampler, block.seeds, plan.patient(), shape, sigmas)
        projected = images and ProjectedPatients(
            images,
            latent_format,
            settings.steps,
            settings.noise,
            cache,
            keys and keys[:: plan.rows_per_patient],
        )
        stepper = TraversalSampler(
            comfy.samplers.sampler_object(settings.sampler),
            guider,
            kind.by_step,
            draws,
            exact_ends,
            projected,
        )
        rows = noise[plan.patient()]

        def preview(step, denoised, x, total_steps, guider=guider, block=block, shown=shown):
            told(progress_text(block, step))
            if previewer and pace.due():
                picture = traversal_preview(previewer, denoised, block.plan, step)
                bar.update_absolute(min(shown + guider.rows + guider.served, total), total, picture)

        # As core does: a patch may draw from the global generator.
        torch.manual_seed(block.seed)
        try:
            sampled = guider.sample(
                rows,
                torch.zeros_like(rows),
                stepper,
                sigmas,
                callback=preview,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=block.seed,
            )
        except Exception as error:
            if size.now == 1 or block.patients == 1 or not out_of_memory(error):
                raise
            sampled = None
        if sampled is None:
            # Not a call of the model, which the guider makes smaller, but the sampler's work on all rows.
            del guider, stepper, projected, preview, draws
            most = (block.patients + 1) // 2
            comfy.model_management.soft_empty_cache()
            continue
        begun = first * plan.rows_per_patient
        joined[begun : begun + len(sampled)] = sampled
        first += block.patients
        for name, number in (("rows", guider.rows), ("calls", guider.calls), ("reused", guider.served)):
            done[name] += number
    if exact_ends or start is not None:
        joined /= (1 + sigmas[-1] ** 2) ** 0.5
    if start is not None and start.automatic:
        scaled = latent_format.process_in(joined)
        neutral = settings.plan.patient() * settings.plan.rows_per_patient
        joined = latent_format.process_out(projection.kept_outside(scaled, scaled[neutral]))
    dtype = getattr(model.model, "manual_cast_dtype", None) or model.model.get_dtype()
    how = {
        "rows_per_call": size.least,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(model.load_device),
        **({"compiled": True} if is_compiled(model) else {}),
    }
    return joined, {**done, **how}


def _context(conditionings, settings, sigmas):
    """Return what every latent of a run depends on beside seed and branch; None when it cannot be told."""
    prompts = (fingerprint(conditionings.neutral), fingerprint(conditionings.negative))
    if None in prompts:
        return None
    return (*prompts, settings.cfg, settings.sampler, tuple(sigmas.tolist()))


def _row_keys(settings, noise, branches, context, images=None):
    """Return what tells each row's outputs from those of other runs.

    The noise is part of it, because a seed has other noise on a GPU, or at another size; of ``images``, a
    Start, the latents are, and the mask of a branch.
    """
    start = [(settings.noise, images.method)] if images else []
    told = noise if images is None else images.latents
    patients = [
        (seed, tuple(drawn.shape), _digest(drawn), *start)
        for seed, drawn in zip(settings.seeds if images is None else images.seeds, told)
    ]
    masks = images.masks() if images else None
    free = [None if masks is None else _digest(mask) for mask in (patients if masks is None else masks)]
    plan = settings.plan
    rows = zip(plan.patient().tolist(), plan.attribute().tolist(), plan.swap_step(settings.steps).tolist())
    return [
        (
            context,
            patients[patient],
            None if attribute == NEUTRAL else (branches[attribute], swap_step, free[patient]),
        )
        for patient, attribute, swap_step in rows
    ]


def _digest(values):
    return hashlib.sha256(values.contiguous().numpy().tobytes()).digest()
