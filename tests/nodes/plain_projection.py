"""The method of ProjectToLatent in diffusers' own terms, one evaluation after another."""

from functools import cache

import torch


def predictor(pipe):
    """``predict`` of a pipeline of Stable Diffusion 1 or 2; a prompt is encoded once."""
    words = cache(lambda text: pipe.encode_prompt(text, "cpu", 1, False)[0])
    return lambda z, time, text: pipe.unet(z, time, words(text)).sample


def plain(predict, scheduler, z0, source, target, swap_steps, seed, method, guidance=7.5, steps=20):
    """z' = S_k(z, ε_target) + p_(k+1) − S_k(p_k, ε_source), with diffusers' DDIM step for S_k.

    Latents are variance-preserving. ``predict(z, time, text)`` is what the U-Net gives, ε or v. Returns
    {λ: latent}, and λ None for the neutral.
    """
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    alphas = scheduler.alphas_cumprod.double()
    scale = [(alphas[time].sqrt().float(), (1 - alphas[time]).sqrt().float()) for time in times]
    scale.append((alphas[0].sqrt().float(), (1 - alphas[0]).sqrt().float()))

    def step(z, time, text):
        bare = predict(z, time, "")
        guided = bare + guidance * (predict(z, time, text) - bare)
        return scheduler.step(guided, time, z, eta=0.0).prev_sample

    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(z0.shape[1:], generator=generator)[None] for _ in range(steps)]
    path = [
        signal * z0 + noise * draws[0 if method == "one noise" else k]
        for k, (signal, noise) in enumerate(scale[:-1])
    ] + [z0]
    if method == "DDIM inversion":
        for k in reversed(range(steps)):
            (signal, noise), (later_signal, later_noise) = scale[k], scale[k + 1]
            e = predict(path[k + 1], times[k], source)
            if scheduler.config.prediction_type == "v_prediction":
                e = signal * e + noise * path[k + 1]
            path[k] = signal * (path[k + 1] - later_noise * e) / later_signal + noise * e
    ended = {None: z0}
    for swap_step in swap_steps:
        z = path[0]
        for k, time in enumerate(times):
            error = path[k + 1] - step(path[k], time, source)
            z = step(z, time, source if k <= swap_step else target) + error
        ended[swap_step] = z
    return ended
