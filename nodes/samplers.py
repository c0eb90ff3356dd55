"""Which samplers and schedulers a traversal takes, its noise and its σ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch

from ..medtraverse.traversal import TRAIN_STEPS, ddim_timesteps

DIFFUSERS_DDIM = "diffusers_ddim"
# Rows of one U-Net call: twice as many latents with guidance, which saturates any card.
MOST_ROWS = 64


class Noise(Enum):
    """What noise a sampler draws between its steps."""

    NONE = "none"
    DRAWS = "independent draws"
    BROWNIAN = "a Brownian path"


@dataclass(frozen=True)
class SamplerKind:
    """What a traversal must know of a sampler.

    Attributes
    ----------
    evaluations : int
        Evaluations of the model that belong to one step.
    history : bool
        Whether a step uses those before it, so that steps cannot be run one by one.
    noise : Noise
    refusal : str
        Why its evaluations cannot be shared; empty where they can.
    """

    evaluations: int = 1
    history: bool = False
    noise: Noise = Noise.NONE
    refusal: str = ""

    @property
    def by_step(self):
        """Whether it is called once for each step, so that an evaluation's step is known."""
        return self.evaluations > 1


# Samplers that one version of ComfyUI has and another has not are named all the same: see sampler_names.
SAMPLERS = {
    "ddim": SamplerKind(),
    "euler": SamplerKind(),
    "euler_cfg_pp": SamplerKind(),
    "lms": SamplerKind(history=True),
    "dpmpp_2m": SamplerKind(history=True),
    "dpmpp_2m_cfg_pp": SamplerKind(history=True),
    "ipndm": SamplerKind(history=True),
    "ipndm_v": SamplerKind(history=True),
    "deis": SamplerKind(history=True),
    "res_multistep": SamplerKind(history=True),
    "res_multistep_cfg_pp": SamplerKind(history=True),
    "gradient_estimation": SamplerKind(history=True),
    "gradient_estimation_cfg_pp": SamplerKind(history=True),
    "euler_ancestral": SamplerKind(noise=Noise.DRAWS),
    "euler_ancestral_cfg_pp": SamplerKind(noise=Noise.DRAWS),
    "res_multistep_ancestral": SamplerKind(history=True, noise=Noise.DRAWS),
    "res_multistep_ancestral_cfg_pp": SamplerKind(history=True, noise=Noise.DRAWS),
    "ddpm": SamplerKind(noise=Noise.DRAWS),
    "lcm": SamplerKind(noise=Noise.DRAWS),
    "er_sde": SamplerKind(history=True, noise=Noise.DRAWS),
    "sa_solver": SamplerKind(history=True, noise=Noise.DRAWS),
    "dpmpp_2m_sde": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "dpmpp_2m_sde_gpu": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "dpmpp_2m_sde_heun": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "dpmpp_2m_sde_heun_gpu": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "dpmpp_3m_sde": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "dpmpp_3m_sde_gpu": SamplerKind(history=True, noise=Noise.BROWNIAN),
    "heun": SamplerKind(2),
    "dpm_2": SamplerKind(2),
    "exp_heun_2_x0": SamplerKind(2),
    "exp_heun_2_x0_sde": SamplerKind(2, noise=Noise.DRAWS),
    "dpm_2_ancestral": SamplerKind(2, noise=Noise.DRAWS),
    "dpmpp_2s_ancestral": SamplerKind(2, noise=Noise.DRAWS),
    "dpmpp_2s_ancestral_cfg_pp": SamplerKind(2, noise=Noise.DRAWS),
    "dpmpp_sde": SamplerKind(2, noise=Noise.BROWNIAN),
    "dpmpp_sde_gpu": SamplerKind(2, noise=Noise.BROWNIAN),
    "seeds_2": SamplerKind(2, noise=Noise.DRAWS),
    "seeds_3": SamplerKind(3, noise=Noise.DRAWS),
    "dpm_fast": SamplerKind(refusal="it chooses its own steps"),
    "dpm_adaptive": SamplerKind(refusal="it adapts its step sizes to all latents at once"),
    "heunpp2": SamplerKind(refusal="a step also evaluates the σ of the two steps after it"),
    "uni_pc": SamplerKind(refusal="it corrects a step with the evaluation, and so the prompt, of the next"),
    "uni_pc_bh2": SamplerKind(
        refusal="it corrects a step with the evaluation, and so the prompt, of the next"
    ),
    "sa_solver_pece": SamplerKind(refusal="it has both a history and several evaluations in one step"),
}


# DDIM's step is Euler's; another sampler's would need the source's error at its own evaluations.
FROM_IMAGES = ("ddim", "euler")


def sampler_names() -> list[str]:
    """Return the samplers of this ComfyUI that a traversal takes."""
    known = set(comfy.samplers.SAMPLER_NAMES)
    return [name for name, kind in SAMPLERS.items() if name in known and not kind.refusal]


def scheduler_names() -> list[str]:
    """Return ``diffusers_ddim``, the paper's, and ComfyUI's own schedulers."""
    return [DIFFUSERS_DDIM, *comfy.samplers.SCHEDULER_NAMES]


def check_sampler(name: str) -> None:
    """Raises ValueError for a sampler that a traversal cannot share its steps in."""
    if name not in sampler_names():
        kind = SAMPLERS.get(name)
        reason = kind.refusal if kind and kind.refusal else "nothing is known of its evaluations"
        if name not in comfy.samplers.SAMPLER_NAMES:
            reason = "this ComfyUI has none of that name"
        raise ValueError(
            f"sampler: {name!r} cannot be used for a traversal, because {reason}; choose one of "
            f"{', '.join(sampler_names())}."
        )


def check_start_sampler(name):
    """Raises ValueError for a sampler whose steps cannot start from an image."""
    if name not in FROM_IMAGES:
        raise ValueError(
            f"sampler: {name!r} cannot start from an image, because the source's error is that of DDIM's "
            f"step; choose {' or '.join(FROM_IMAGES)}."
        )


def sigmas_of(model, sampler, scheduler, steps):
    """Return σ of every step and the last one, [steps + 1], float32.

    Raises ValueError when the scheduler makes another number of steps.
    """
    sampling = model.get_model_object("model_sampling")
    if scheduler == DIFFUSERS_DDIM:
        if isinstance(sampling, comfy.model_sampling.ModelSamplingDiscreteFlow):
            raise ValueError(
                f"scheduler: {DIFFUSERS_DDIM!r} is for Stable Diffusion 1, 2 and XL, and this model is of "
                "flow matching; choose another scheduler."
            )
        table = torch.as_tensor(getattr(sampling, "sigmas", ())).float().cpu()
        if len(table) != TRAIN_STEPS:
            raise ValueError(
                f"scheduler: {DIFFUSERS_DDIM!r} needs the {TRAIN_STEPS} σ of training, and a patch on the "
                "model "
                f"leaves {len(table)}; remove it, or choose another scheduler."
            )
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
            f"steps: scheduler {scheduler!r} makes {len(sigmas) - 1} steps of {steps}, so swap steps would "
            "shift; choose another "
            f"number of steps, or the scheduler {DIFFUSERS_DDIM!r}, which takes any."
        )
    return sigmas


def noise_device(device):
    """Return where noise is drawn, "cuda" or "cpu". Raises ValueError for "gpu" without CUDA."""
    if device == "gpu":
        if not torch.cuda.is_available():
            raise ValueError(
                "noise: 'gpu' needs a CUDA device, and there is none; choose 'cpu' (other patients for the "
                "same seeds)."
            )
        return "cuda"
    if device == "cpu":
        return "cpu"
    raise ValueError(f"noise: there is no {device!r}; the choices are 'cpu' and 'gpu'.")


def patient_noise(seeds, shape, device):
    """Return float32 noise [patients, *shape], each patient's drawn by itself from its seed.

    ``gpu`` draws on CUDA as the paper's scripts do; its numbers are others than the CPU's. Raises ValueError
    without CUDA.
    """
    place = noise_device(device)
    draws = [
        torch.randn(shape, generator=torch.Generator(place).manual_seed(seed), device=place) for seed in seeds
    ]
    return torch.stack(draws).float().cpu()


def noise_sampler(name, seeds, patient, shape, sigmas):
    """Return the noise of an ancestral or SDE sampler; None for a deterministic one.

    All rows of a patient share a draw.

    ``patient`` is long [rows]. Drawn on the CPU, so that the device does not matter; the seed is moved by
    one, else the first draw would repeat the initial noise.
    """
    kind = SAMPLERS[name]
    if kind.noise is Noise.NONE:
        return None
    if kind.noise is Noise.BROWNIAN:
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


def rows_per_call(model: Any, shape: Sequence[int], asked: int) -> int:
    """Return how many rows go to the U-Net at once: ``asked``, or for 0 what free memory allows.

    On a CPU its caches decide: beyond them a row takes longer.
    """
    if asked:
        return asked
    device = model.load_device
    if comfy.model_management.is_device_cpu(device):
        return max(4, 2048 // (shape[-1] * shape[-2]))
    # What other models hold will be freed for this one; what other programs hold will not.
    loaded = (
        held.model_loaded_memory()
        for held in comfy.model_management.current_loaded_models
        if held.device == device and held.model is not None
    )
    free = (
        comfy.model_management.get_free_memory(device)
        + sum(loaded)
        - comfy.model_management.module_size(model.model)
    )
    # Of the model, not of its patcher: a dynamic one adds a constant gigabyte.
    one = max(1, model.model.memory_required([2, *shape]))
    rows = int(max(1, min(MOST_ROWS, 0.6 * free / one)))
    # A power of two: sizes choose kernels, and so rounding, which free memory should not decide from run to
    # run.
    return 1 << (rows.bit_length() - 1)


def patients_per_block(model: Any, rows_per_patient: int, shape: Sequence[int], limit: int) -> int:
    """Return how many patients are sampled together: ``limit``, or fewer if their latents fill memory."""
    held = 12 * 4 * math.prod(shape) * rows_per_patient
    free = comfy.model_management.get_free_memory(model.load_device)
    return int(max(1, min(limit, 0.1 * free / held)))
