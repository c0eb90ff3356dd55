"""PromptSwapKSampler: from a noise or an image to attributes, prompts swapped after step λ."""

import math
from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..medtraverse.digest import versions
from ..medtraverse.trajectory import Trajectory
from ..medtraverse.traversal import parse_swap_steps
from . import samplers
from .early_labels import asked_outputs, check_labels
from .early_size import check_size
from .evaluation_cache import fingerprint
from .graph import upstream
from .live import say
from .model_building import origin
from .provenance import doubts, files_of, loras_of
from .rough_colours import colour_map, fitted_format
from .run_traversal import Conditionings, traverse
from .schema import schema
from .sockets import CATEGORY, Start, checked_sockets
from .sockets import Trajectory as TrajectorySocket
from .traversal_inputs import attribute_set, part_inputs, sampling_inputs, size_inputs, traversal_settings
from .views import latent_view

# What reaches the latents; the VAE is for the viewer alone.
PARTS = ("model", "neutral", "negative", "attributes")


class PromptSwapKSampler(io.ComfyNode):
    """Traversal by prompt swap: section 3 of TehraniNasab, Kumar, Arbel 2025.

    Steps 0…λ run under the neutral prompt, the rest under the attribute's, for every attribute and λ.
    """

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="PromptSwapKSampler",
            display_name="Prompt Swap KSampler",
            category=CATEGORY,
            search_aliases=[
                "counterfactual",
                "latent traversal",
                "prompt switching",
                "chest X-ray",
                "dermoscopy",
            ],
            essentials_category="Medical",
            has_intermediate_output=True,
            description="Denoises each patient's noise under the neutral prompt, and again with the prompt "
            "swapped to an attribute after step λ. Common steps are computed once.",
            inputs=[
                *part_inputs(),
                *size_inputs(),
                io.Int.Input(
                    "seed",
                    default=1500,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF - 100000,
                    control_after_generate=True,
                    tooltip="Seed of the first patient; the next patients have the next seeds.",
                ),
                io.Int.Input(
                    "patients",
                    default=1,
                    min=1,
                    max=100000,
                    tooltip="Number of patients (seeds). Each has its own noise, whatever runs beside it.",
                ),
                *sampling_inputs(),
                io.Int.Input(
                    "rows_per_call",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Latents per U-Net call; 0 chooses by free memory. Results differ by rounding "
                    "only.",
                ),
                io.Int.Input(
                    "cache_mb",
                    default=-1,
                    min=-1,
                    max=1 << 20,
                    tooltip=(
                        "Memory for U-Net outputs, in MB, so that adding a λ or an attribute computes only "
                        "what is new. 0: off; -1: on where there are 32 GB or more."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The checkpoint's VAE, for the viewer alone: it then shows decoded images, not "
                    "rough colours.",
                ),
                Start.Input(
                    "start",
                    optional=True,
                    tooltip="Images from Project to Latent as patients, in place of noise. Width, height, "
                    "seed and patients are then theirs. Sampler: ddim or euler.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip=(
                        "All latents: per patient neutral, then each attribute's swap steps in the order "
                        "given."
                    ),
                ),
                TrajectorySocket.Output(
                    "trajectory",
                    display_name="trajectory",
                    tooltip="The same latents with seeds, attributes, swap steps and settings.",
                ),
            ],
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        model,
        neutral,
        negative,
        attributes,
        width,
        height,
        seed,
        patients,
        steps,
        cfg,
        sampler,
        scheduler,
        swap_steps,
        noise,
        rows_per_call,
        cache_mb,
        vae=None,
        start=None,
    ):
        attributes = attribute_set(attributes)
        if not attributes.attributes:
            raise ValueError("attributes: none is given; name at least one in Medical Attribute Prompts.")
        if not math.isfinite(cfg):
            raise ValueError(f"cfg: {cfg} is no weight of guidance; give a number such as 7.5.")
        if cls.hidden and (running := get_executing_context()):
            check_labels(cls.hidden.prompt or {}, running.node_id, attributes, asked_outputs())
        swaps = parse_swap_steps(swap_steps, steps)
        samplers.check_sampler(sampler)
        if start is not None:
            check_start(start, neutral, sampler, width, height)
            height, width = (8 * side for side in start.latents.shape[2:])
            seed, patients = start.seeds[0], len(start.seeds)
        settings = traversal_settings(
            attributes,
            width,
            height,
            seed=seed,
            patients=patients,
            steps=steps,
            cfg=cfg,
            sampler=sampler,
            scheduler=scheduler,
            swap_steps=swaps,
            noise=noise,
        )
        chosen = attributes.attributes
        conditionings = Conditionings(neutral, tuple(item.conditioning for item in chosen), negative)
        latent_format = model.get_model_object("latent_format")
        if vae is not None:
            channels = getattr(vae, "latent_channels", latent_format.latent_channels)
            if channels != latent_format.latent_channels:
                raise ValueError(
                    f"vae: its latents have {channels} channels, the model's "
                    f"{latent_format.latent_channels}; wire the VAE of this model, or none."
                )
            latent_format = fitted_format(latent_format, vae)
        graph, context = (cls.hidden.prompt if cls.hidden else None) or {}, get_executing_context()
        node_id = context.node_id if context else ""
        check_size(graph, node_id, settings, latent_format.latent_channels, asked_outputs())
        loras = loras_of(upstream(graph, node_id, ("model",)), model)
        files = files_of(
            upstream(graph, node_id, PARTS), (settings.neutral_prompt, *dict(settings.prompts).values())
        )
        notes = doubts(loras)
        if notes:
            say("\n".join(notes))
        latents, cost = traverse(
            model, conditionings, settings, rows_per_call, cache_mb, latent_format, start
        )
        trajectory = Trajectory(
            latents,
            settings.plan.index(),
            settings.seeds,
            settings.attributes,
            tuple(item.colour for item in chosen),
            tuple(item.labels for item in chosen),
            ("neutral", *map(str, swaps)),
            neutral=attributes.neutral,
            settings={
                **settings.report(),
                **({"start": start.describe()} if start is not None else {}),
                "unet": cost,
                "model": origin(model),
                **({"files": {"sha256": files}} if files else {}),
                **({"loras": loras} if loras else {}),
                "versions": versions(),
            },
            rough=colour_map(latent_format),
            aliases=attributes.aliases,
        )
        shown_text = {"text": ("\n".join(notes),)} if notes else {}
        return io.NodeOutput(
            {"samples": latents}, trajectory, ui={**latent_view(trajectory, vae), **shown_text}
        )


def check_start(start: Any, neutral: Any, sampler: str, width: int, height: int) -> None:
    """Raises ValueError for settings under which a start's images cannot be traversed."""
    samplers.check_start_sampler(sampler)
    prompt = fingerprint(neutral)
    if None not in (prompt, start.prompt) and prompt != start.prompt:
        raise ValueError(
            "neutral: it is another prompt than the one that Project to Latent had; wire the same "
            "conditioning to both."
        )
    own = tuple(8 * side for side in start.latents.shape[:1:-1])
    if any(given and given != side for given, side in zip((width, height), own)):
        raise ValueError(
            f"width, height: {width}×{height} is not the size of start's images, {own[0]}×{own[1]}; give 0 "
            "to take theirs."
        )
