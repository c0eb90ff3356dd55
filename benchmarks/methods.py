"""Five ways to the images of trajectories, from the same noise, prompts and settings, decoding included.

Each takes a `Host` and a `Task` and returns latents in diffusers' scale, float32
[patients, attributes, 1 + swap steps, C, h, w], on the CPU.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.host import Host
from medtraverse.domain import Attribute
from medtraverse.traversal import parse_swap_steps

CFG, SCALE = 7.5, 0.18215


@dataclass(frozen=True)
class Task:
    """Which trajectories are sampled: the patients' seeds, one after the other, attributes, λ, steps."""

    seeds: range
    attributes: tuple[Attribute, ...]
    swap_steps: tuple[int, ...]
    steps: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both commands have: steps, swap steps and the form of the report."""
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument(
        "--swap-steps",
        default="45,40,35,30,25,20,15,10,5",
        help="λ, separated by commas, as the node has them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def swap_steps_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> tuple[int, ...]:
    """Return the swap steps asked for; end the command with a message where one is out of range."""
    try:
        return parse_swap_steps(arguments.swap_steps, arguments.steps)
    except ValueError as error:
        parser.error(str(error))


def reference(host: Host, task: Task) -> Tensor:
    """(a) The reference scripts: diffusers, one patient at a time, neutral run again for every λ.

    Every image decoded.
    """
    pipe = host.pipe
    negative, neutral = (
        pipe.encode_prompt(text, host.device, 1, False)[0] for text in ("", host.domain.neutral()[1])
    )
    patients = []
    for start in noise_of(host, task.seeds).to(host.device, host.dtype).split(1):
        rows = []
        for attribute in task.attributes:
            embedding = pipe.encode_prompt(attribute.prompt, host.device, 1, False)[0]
            row: list[Tensor] = []
            for swap_step in task.swap_steps:
                swap = _swap_after(swap_step, torch.cat([negative, embedding]))
                pair = [
                    _pipeline(pipe, neutral, negative, start, task.steps),
                    _pipeline(pipe, neutral, negative, start, task.steps, swap),
                ]
                for latent in pair:
                    pipe.vae.decode(latent / SCALE)
                row = row or [pair[0]]
                row.append(pair[1])
            rows.append(torch.cat(row))
        patients.append(torch.stack(rows))
    return torch.stack(patients).float().cpu()


def _swap_after(swap_step: int, embeddings: Tensor) -> Callable[..., dict[str, Tensor]]:
    """Return a callback that puts the embeddings in place after a step."""

    def swap(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == swap_step:
            tensors["prompt_embeds"] = embeddings
        return tensors

    return swap


def _pipeline(
    pipe: Any,
    prompt: Tensor,
    negative: Tensor,
    start: Tensor,
    steps: int,
    callback: Callable[..., dict[str, Tensor]] | None = None,
) -> Tensor:
    latent: Tensor = pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        latents=start.clone(),
        num_inference_steps=steps,
        guidance_scale=CFG,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images
    return latent


def stock(host: Host, task: Task) -> Tensor:
    """(b) Stock nodes: one KSampler per attribute and λ, the prompts on timestep ranges.

    Patients as a batch.
    """
    import comfy.sample
    import node_helpers

    neutral, negative = encode(host, host.domain.neutral()[1]), encode(host, "")
    noise = noise_of(host, task.seeds)
    empty = torch.zeros_like(noise)

    def sample(positive: Any) -> Tensor:
        latent: Tensor = comfy.sample.sample(
            host.model,
            noise,
            task.steps,
            CFG,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            empty,
            seed=0,
            disable_pbar=True,
        )
        host.vae.decode(latent)
        return latent * SCALE

    def swapped(attribute: Attribute, swap_step: int) -> Any:
        share = (swap_step + 1) / task.steps
        first = node_helpers.conditioning_set_values(neutral, {"start_percent": 0.0, "end_percent": share})
        return first + node_helpers.conditioning_set_values(
            encode(host, attribute.prompt), {"start_percent": share, "end_percent": 1.0}
        )

    kept = sample(neutral)
    rows = [
        torch.stack([kept, *(sample(swapped(attribute, swap_step)) for swap_step in task.swap_steps)], 1)
        for attribute in task.attributes
    ]
    return torch.stack(rows, 1).float().cpu()


def chained(host: Host, task: Task) -> Tensor:
    """(c) The best stock graph: KSamplerAdvanced segments of one neutral prefix, a branch off each.

    Patients as a batch.
    """
    import comfy.sample

    neutral, negative = encode(host, host.domain.neutral()[1]), encode(host, "")
    prompts = [encode(host, attribute.prompt) for attribute in task.attributes]
    noise = noise_of(host, task.seeds)
    nothing = torch.zeros_like(noise)

    def segment(positive: Any, latent: Tensor, first: int, last: int, fresh: bool = False) -> Tensor:
        result: Tensor = comfy.sample.sample(
            host.model,
            noise if fresh else nothing,
            task.steps,
            CFG,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            latent,
            disable_noise=not fresh,
            start_step=first,
            last_step=last,
            force_full_denoise=last >= task.steps,
            disable_pbar=True,
            seed=0,
        )
        return result

    branches: dict[tuple[int, int], Tensor] = {}
    latent, begun = nothing, 0
    for swap_step in sorted(task.swap_steps):
        latent = segment(neutral, latent, begun, swap_step + 1, fresh=begun == 0)
        begun = swap_step + 1
        for number, prompt in enumerate(prompts):
            branches[number, swap_step] = segment(prompt, latent, begun, task.steps)
    kept = segment(neutral, latent, begun, task.steps)
    for result in (kept, *branches.values()):
        host.vae.decode(result)
    rows = [
        torch.stack([kept, *(branches[number, swap_step] for swap_step in task.swap_steps)], 1)
        for number in range(len(prompts))
    ]
    return torch.stack(rows, 1).float().cpu() * SCALE


def compiled(host: Host, task: Task) -> Tensor:
    """(e) The same with the U-Net compiled, which takes minutes the first time."""
    return medtraverse(host, task, compile_unet=True)


def medtraverse(host: Host, task: Task, compile_unet: bool = False) -> Tensor:
    """(d) PromptSwapKSampler's traversal, and ComfyUI's VAE on all its latents."""
    from medtraverse_pack.medtraverse.traversal import TraversalSettings
    from medtraverse_pack.nodes.run_traversal import Conditionings, traverse
    from medtraverse_pack.nodes.samplers import DIFFUSERS_DDIM

    name, neutral = host.domain.neutral()
    settings = TraversalSettings(
        seed=task.seeds[0],
        patients=len(task.seeds),
        steps=task.steps,
        cfg=CFG,
        sampler="ddim",
        scheduler=DIFFUSERS_DDIM,
        swap_steps=task.swap_steps,
        noise="cpu",
        width=8 * host.latent[2],
        height=8 * host.latent[1],
        domain=host.domain.name,
        neutral=name,
        neutral_prompt=neutral,
        prompts=tuple((attribute.name, attribute.prompt) for attribute in task.attributes),
    )
    prompts = tuple(encode(host, attribute.prompt) for attribute in task.attributes)
    conditionings = Conditionings(encode(host, neutral), prompts, encode(host, ""))
    latents: Tensor = traverse(host.model, conditionings, settings, compile_unet=compile_unet)[0]
    host.vae.decode(latents)
    return latents[settings.plan.index()] * SCALE


def noise_of(host: Host, seeds: Sequence[int]) -> Tensor:
    """Noise [patients, C, h, w] of each patient's seed, as `medtraverse` draws it."""
    return torch.stack(
        [torch.randn(host.latent, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def encode(host: Host, prompt: str) -> Any:
    """Return the CONDITIONING of a prompt, as the pack's nodes make it."""
    from medtraverse_pack.nodes import nodes_prompts

    return nodes_prompts.encode(host.clip, prompt)


METHODS: dict[str, Callable[[Host, Task], Tensor]] = {
    "reference": reference,
    "stock": stock,
    "chained": chained,
    "medtraverse": medtraverse,
    "compiled": compiled,
}
