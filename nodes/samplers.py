"""Which samplers and schedulers a traversal takes, its noise and its σ."""

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch

from ..medtraverse.traversal import ddim_timesteps

DIFFUSERS_DDIM = "diffusers_ddim"
ONE_EVALUATION = (
    "ddim",
    "euler",
    "euler_cfg_pp",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "ddpm",
    "lcm",
    "er_sde",
    "sa_solver",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
)
STEPWISE = (
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "seeds_2",
    "seeds_3",
)
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
DETERMINISTIC = ONE_EVALUATION[:13] + STEPWISE[:2]


def sampler_names():
    """Return the samplers of this ComfyUI that a traversal takes."""
    known = set(comfy.samplers.SAMPLER_NAMES)
    return [name for name in (*ONE_EVALUATION, *STEPWISE) if name in known]


def scheduler_names():
    """Return ``diffusers_ddim``, the paper's, and ComfyUI's own schedulers."""
    return [DIFFUSERS_DDIM, *comfy.samplers.SCHEDULER_NAMES]


def check_sampler(name):
    """Raises ValueError for a sampler that a traversal cannot share its steps in."""
    if name not in sampler_names():
        raise ValueError(
            f"sampler: {name!r} cannot be used for a traversal (adaptive step sizes, or evaluations that do not belong to one "
            f"step); the choices are {', '.join(sampler_names())}."
        )


def sigmas_of(model, sampler, scheduler, steps):
    """Return σ of every step and the last one, [steps + 1], float32. Raises ValueError when their number is another."""
    sampling = model.get_model_object("model_sampling")
    if scheduler == DIFFUSERS_DDIM:
        table = torch.as_tensor(sampling.sigmas).float().cpu()
        return torch.cat([table[ddim_timesteps(steps)], table[:1]])
    if scheduler not in comfy.samplers.SCHEDULER_NAMES:
        raise ValueError(
            f"scheduler: there is no {scheduler!r}; the choices are {', '.join(scheduler_names())}."
        )
    sigmas = (
        comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler, 1.0).sigmas.cpu().float()
    )
    if len(sigmas) != steps + 1:
        raise ValueError(
            f"steps: scheduler {scheduler!r} makes {len(sigmas) - 1} steps of {steps}, so swap steps would shift; choose another "
            f"number of steps, or the scheduler {DIFFUSERS_DDIM!r}, which takes any."
        )
    return sigmas


def patient_noise(seeds, shape, device):
    """Return float32 noise [patients, *shape], each patient's drawn by itself from its seed, on ``"cpu"`` or ``"gpu"``.

    ``gpu`` draws on CUDA as the paper's scripts do; its numbers are others than the CPU's. Raises ValueError without CUDA.
    """
    if device == "gpu":
        if not torch.cuda.is_available():
            raise ValueError(
                "noise: 'gpu' needs a CUDA device, and there is none; choose 'cpu' (other patients for the same seeds)."
            )
        place = "cuda"
    elif device == "cpu":
        place = "cpu"
    else:
        raise ValueError(f"noise: there is no {device!r}; the choices are 'cpu' and 'gpu'.")
    draws = [
        torch.randn(shape, generator=torch.Generator(place).manual_seed(seed), device=place) for seed in seeds
    ]
    return torch.stack(draws).float().cpu()


def noise_sampler(name, seeds, patient, shape, sigmas):
    """Return the noise of an ancestral or SDE sampler, one draw a patient for all its rows; None for a deterministic one.

    ``patient`` is long [rows]. Drawn on the CPU, so that the device does not matter; the seed is moved by one, else the first
    draw would repeat the initial noise.
    """
    if name in DETERMINISTIC:
        return None
    if name.removesuffix("_gpu").removesuffix("_heun") in BROWNIAN:
        like = torch.zeros(len(seeds), *shape)
        tree = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(
            like, sigmas[sigmas > 0].min(), sigmas.max(), seed=[seed + 1 for seed in seeds], cpu=True
        )

        def draw(sigma, sigma_next):
            return tree(sigma.cpu(), sigma_next.cpu())
    else:
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]

        def draw(sigma, sigma_next):
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    return lambda sigma, sigma_next: draw(sigma, sigma_next)[patient].to(sigma.device)


def rows_per_call(model, shape, asked):
    """Return how many rows go to the U-Net at once: ``asked``, or for 0 what free memory (CPU: the caches) allows."""
    if asked:
        return asked
    device = model.load_device
    if comfy.model_management.is_device_cpu(device):
        return max(4, 2048 // (shape[-1] * shape[-2]))
    # What other models hold will be freed for this one; what other programs hold will not.
    loaded = (
        held.model_loaded_memory()
        for held in comfy.model_management.current_loaded_models
        if held.device == device
    )
    free = (
        comfy.model_management.get_free_memory(device)
        + sum(loaded)
        - comfy.model_management.module_size(model.model)
    )
    one = max(1, model.memory_required([2, *shape]))
    return int(max(1, min(256, 0.6 * free / one)))
