"""Four ways to the images of trajectories, from the same noise, prompts and settings, decoding included.

Each takes a Host, the patients' seeds (one after the other), attributes and swap steps, and returns latents
in diffusers' scale, [patients, attributes, 1 + swap steps, C, h, w], on the CPU.
"""

import torch

STEPS, CFG, SCALE = 50, 7.5, 0.18215


def reference(host, seeds, attributes, swap_steps):
    """(a) The reference scripts: diffusers, one patient at a time, neutral run again for every λ.

    Every image decoded.
    """
    pipe = host.pipe
    negative, neutral = (
        pipe.encode_prompt(text, host.device, 1, False)[0] for text in ("", host.domain.neutral()[1])
    )
    patients = []
    for start in noise_of(host, seeds).to(host.device, host.dtype).split(1):
        rows = []
        for attribute in attributes:
            embedding = pipe.encode_prompt(attribute.prompt, host.device, 1, False)[0]
            row: list[torch.Tensor] = []
            for swap_step in swap_steps:

                def swap(pipe, step, timestep, tensors, swap_step=swap_step, embedding=embedding):
                    if step == swap_step:
                        tensors["prompt_embeds"] = torch.cat([negative, embedding])
                    return tensors

                pair = [
                    _pipeline(pipe, neutral, negative, start),
                    _pipeline(pipe, neutral, negative, start, swap),
                ]
                for latent in pair:
                    pipe.vae.decode(latent / SCALE)
                row = row or [pair[0]]
                row.append(pair[1])
            rows.append(torch.cat(row))
        patients.append(torch.stack(rows))
    return torch.stack(patients).float().cpu()


def _pipeline(pipe, prompt, negative, start, callback=None):
    return pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        latents=start.clone(),
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images


def stock(host, seeds, attributes, swap_steps):
    """(b) Stock nodes: one KSampler per attribute and λ, the prompts on timestep ranges.

    Patients as a batch.
    """
    import comfy.sample
    import node_helpers

    neutral, negative = _encode(host, host.domain.neutral()[1]), _encode(host, "")
    noise = noise_of(host, seeds)
    empty = torch.zeros_like(noise)

    def sample(positive):
        latent = comfy.sample.sample(
            host.model, noise, STEPS, CFG, "ddim", "ddim_uniform", positive, negative, empty, seed=0
        )
        host.vae.decode(latent)
        return latent * SCALE

    def swapped(attribute, swap_step):
        share = (swap_step + 1) / STEPS
        first = node_helpers.conditioning_set_values(neutral, {"start_percent": 0.0, "end_percent": share})
        return first + node_helpers.conditioning_set_values(
            _encode(host, attribute.prompt), {"start_percent": share, "end_percent": 1.0}
        )

    kept = sample(neutral)
    rows = [
        torch.stack([kept, *(sample(swapped(attribute, swap_step)) for swap_step in swap_steps)], 1)
        for attribute in attributes
    ]
    return torch.stack(rows, 1).float().cpu()


def chained(host, seeds, attributes, swap_steps):
    """(c) The best stock graph: KSamplerAdvanced segments of one neutral prefix, a branch off each.

    Patients as a batch.
    """
    import comfy.sample

    neutral, negative = _encode(host, host.domain.neutral()[1]), _encode(host, "")
    prompts = [_encode(host, attribute.prompt) for attribute in attributes]
    noise = noise_of(host, seeds)
    nothing = torch.zeros_like(noise)

    def segment(positive, latent, first, last, fresh=False):
        return comfy.sample.sample(
            host.model,
            noise if fresh else nothing,
            STEPS,
            CFG,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            latent,
            disable_noise=not fresh,
            start_step=first,
            last_step=last,
            force_full_denoise=last >= STEPS,
            seed=0,
        )

    branches, latent, begun = {}, nothing, 0
    for swap_step in sorted(swap_steps):
        latent = segment(neutral, latent, begun, swap_step + 1, fresh=begun == 0)
        begun = swap_step + 1
        for number, prompt in enumerate(prompts):
            branches[number, swap_step] = segment(prompt, latent, begun, STEPS)
    kept = segment(neutral, latent, begun, STEPS)
    for result in (kept, *branches.values()):
        host.vae.decode(result)
    rows = [
        torch.stack([kept, *(branches[number, swap_step] for swap_step in swap_steps)], 1)
        for number in range(len(prompts))
    ]
    return torch.stack(rows, 1).float().cpu() * SCALE


def medtraverse(host, seeds, attributes, swap_steps, **options):
    """(d) PromptSwapKSampler's traversal, and ComfyUI's VAE on all its latents."""
    from medtraverse_pack.medtraverse.traversal import TraversalSettings
    from medtraverse_pack.nodes.run_traversal import Conditionings, traverse
    from medtraverse_pack.nodes.samplers import DIFFUSERS_DDIM

    name, neutral = host.domain.neutral()
    settings = TraversalSettings(
        seed=seeds[0],
        patients=len(seeds),
        steps=STEPS,
        cfg=CFG,
        sampler="ddim",
        scheduler=DIFFUSERS_DDIM,
        swap_steps=tuple(swap_steps),
        noise="cpu",
        width=8 * host.latent[2],
        height=8 * host.latent[1],
        domain=host.domain.name,
        neutral=name,
        neutral_prompt=neutral,
        prompts=tuple((attribute.name, attribute.prompt) for attribute in attributes),
    )
    prompts = tuple(_encode(host, attribute.prompt) for attribute in attributes)
    conditionings = Conditionings(_encode(host, neutral), prompts, _encode(host, ""))
    latents, _ = traverse(host.model, conditionings, settings, **options)
    host.vae.decode(latents)
    return latents[settings.plan.index()] * SCALE


def noise_of(host, seeds):
    """Noise [patients, C, h, w] of each patient's seed, as `medtraverse` draws it."""
    return torch.stack(
        [torch.randn(host.latent, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def _encode(host, prompt):
    from medtraverse_pack.nodes.nodes_prompts import encode

    return encode(host.clip, prompt)


METHODS = {"reference": reference, "stock": stock, "chained": chained, "medtraverse": medtraverse}
