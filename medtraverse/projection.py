"""A trajectory that starts from a real image in place of noise.

TehraniNasab, Kumar, Arbel 2025 project an image onto the latent space before they traverse it (Fig. 1), and
do not say how. Here the image's latent z₀ gets a *path*: one noised state for each step. Every row is that
path and a difference d, which is 0 for as long as the row runs under the source's own prompt. Only what the
attribute's prompt predicts otherwise than the source's, at the same step, enters d. So the neutral row ends
at z₀ itself, and a swap to the source's own prompt changes nothing.

With x = z·sqrt(1 + σ²) for a latent z of variance-preserving scale, and D the denoised prediction:

    x_k  = z₀ + σ_k·n_k                               the path
    D_k  = D(x_k + d, σ_k, attribute's prompt)
    r    = σ_(k+1) / σ_k
    d    = r·d + (1 − r)·(D_k − D(x_k, σ_k, source's prompt))
    z    = z₀ + d / sqrt(1 + σ_S²)

That is z' = S_k(z, ε) + p_(k+1) − S_k(p_k, ε_source) with S_k the DDIM step (Song, Meng, Ermon 2021,
equation 12, η = 0). An own noise n_k at each step is the path of Huberman-Spiegelglas, Kulikov, Michaeli 2024
("An Edit Friendly DDPM Noise Space"), here without its stochastic step. One noise for all steps is the path
of Meng et al. 2022 (SDEdit). The third path is DDIM inversion.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from .traversal import Plan

OWN_NOISE, ONE_NOISE, INVERSION = "own noise at each step", "one noise", "DDIM inversion"
METHODS = (OWN_NOISE, ONE_NOISE, INVERSION)

# Root mean square change of a latent pixel, in diffusers' scale, from which on it counts as changed.
CHANGED = 0.5

Draw = Callable[[int, torch.Tensor, float], torch.Tensor]


def first_step(swap_steps: Sequence[int]) -> int:
    """Return the first step at which a row is not its patient's neutral one: the smallest λ, plus 1."""
    return min(swap_steps) + 1


def path_noise(seeds: Sequence[int], steps: int, shape: Sequence[int], device: str = "cpu") -> torch.Tensor:
    """Draw each patient's noise for every step, [patients, steps, *shape], float32 on the CPU.

    All steps are drawn, in order, from a generator of the patient's own seed: which λ are asked for, and who
    runs beside, does not matter. The first is the noise that a patient of that seed starts from elsewhere.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator(device).manual_seed(seed)
        drawn.append(
            torch.stack(
                [torch.randn(tuple(shape), generator=generator, device=device).cpu() for _ in range(steps)]
            )
        )
    return torch.stack(drawn)


def noised(latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor, method: str) -> torch.Tensor:
    """Return the path of each patient, z₀ + σ_k·n_k, [patients, steps, C, h, w].

    Parameters
    ----------
    latents : Tensor [patients, C, h, w]
        z₀, in diffusers' scale.
    noise : Tensor [patients, steps, C, h, w]
    sigmas : Tensor [steps + 1]
        Descending.
    method : str
        OWN_NOISE, or ONE_NOISE, which takes the first noise for all steps.
    """
    if method == ONE_NOISE:
        noise = noise[:, :1]
    return latents[:, None] + sigmas[:-1].reshape(1, -1, 1, 1, 1).to(latents) * noise.to(latents)


def inverted(
    denoised: Draw, latents: torch.Tensor, sigmas: torch.Tensor, first: int = 0
) -> dict[int, torch.Tensor]:
    """Return the path of DDIM inversion, by step, from the last step back to ``first``.

    Parameters
    ----------
    denoised : callable
        ``denoised(step, x, sigma)``: the prediction without guidance, under the source's prompt.
    latents : Tensor [patients, C, h, w]
        z₀, in diffusers' scale.
    sigmas : Tensor [steps + 1]

    Notes
    -----
    ε of a step is taken at the latent that the step would end at, because the one that it would begin at is
    not known yet: (z_(k+1), t_k), the last at t = 1.
    """
    levels: list[float] = sigmas.double().tolist()
    latent, path = latents, {}
    for step in reversed(range(first, len(levels) - 1)):
        sigma, after = levels[step], levels[step + 1]
        begun = latent * math.sqrt(1 + sigma**2)
        noise = (begun - denoised(step, begun, sigma)) / sigma
        path[step] = latent * math.sqrt(1 + after**2) + (sigma - after) * noise
        latent = path[step] / math.sqrt(1 + sigma**2)
    return path


def branched(
    denoised: Draw,
    path: Callable[[int], torch.Tensor],
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    plan: Plan,
    mask: torch.Tensor | None = None,
    told: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Run every row of a plan from its patient's path.

    Parameters
    ----------
    denoised : callable
        ``denoised(step, x, sigma)``: guided predictions of all rows, [rows, C, h, w], each under the prompt
        that it has at that step. A row that has not swapped yet is given its neutral row's.
    path : callable
        ``path(step)``: states [patients, C, h, w].
    latents : Tensor [patients, C, h, w]
        z₀, in diffusers' scale.
    sigmas : Tensor [steps + 1]
    plan : Plan
    mask : Tensor [patients, 1, h, w], optional
        In 0…1; where it is 0 a row stays its patient's path.
    told : callable, optional
        ``told(step, x, denoised)`` after each step.

    Returns
    -------
    Tensor [rows, C, h, w]
        z₀·sqrt(1 + σ_S²) + d: to be divided by sqrt(1 + σ_S²), as what a sampler returns.
    """
    patient, steps = plan.patient().to(latents.device), len(sigmas) - 1
    neutral = patient * plan.rows_per_patient
    levels: list[float] = sigmas.double().tolist()
    difference = torch.zeros_like(latents[patient])
    free = None if mask is None else mask.to(latents)[patient]
    for step in range(first_step(plan.swap_steps), steps):
        state = path(step).to(latents)[patient] + difference
        prediction = denoised(step, state, levels[step])
        ratio = levels[step + 1] / levels[step]
        difference = ratio * difference + (1 - ratio) * (prediction - prediction[neutral])
        if free is not None:
            difference = difference * free
        if told is not None:
            told(step, state, prediction)
    return latents[patient] * math.sqrt(1 + levels[-1] ** 2) + difference


def evaluations(
    steps: int, swap_steps: Sequence[int], attributes: int, method: str = OWN_NOISE, guided: bool = True
) -> int:
    """Return the U-Net rows of one patient: with guidance 2(S − 1 − λ_min) + K(2Σ(S − 1 − λ) − |Λ|).

    The nine λ of the paper and 50 steps: 88 + 423·K. Inversion takes S − 1 − λ_min more, without guidance.
    """
    source = steps - first_step(swap_steps)
    branches = sum(steps - 1 - step for step in swap_steps)
    half = 2 if guided else 1
    inversion = source if method == INVERSION else 0
    return half * source + inversion + attributes * (half * branches - (len(swap_steps) if guided else 0))


def latent_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return a mask [N, H, W] in 0…1 at the latents' size, [N, 1, h, w].

    A latent pixel is as free as the freest pixel under it, so that a thin stroke of the brush counts.
    """
    return F.adaptive_max_pool2d(mask.float()[:, None].clamp(0, 1), tuple(size))


def changed_region(difference: torch.Tensor) -> torch.Tensor:
    """Return where a latent has changed, [N, 1, h, w] of 0 and 1.

    Parameters
    ----------
    difference : Tensor [N, C, h, w]
        Latent less its neutral one, in diffusers' scale.

    Notes
    -----
    The root mean square over the channels, as a mean of 3×3, is above `CHANGED` there or beside there.
    """
    strength = difference.square().mean(dim=1, keepdim=True).sqrt()
    mean = F.avg_pool2d(strength, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d((mean > CHANGED).float(), 3, stride=1, padding=1)


def kept_outside(latents: torch.Tensor, neutrals: torch.Tensor) -> torch.Tensor:
    """Return latents [N, C, h, w] that are the neutral's own outside their `changed_region`.

    Both in diffusers' scale.
    """
    difference = latents - neutrals
    return neutrals + difference * changed_region(difference)


class Memory:
    """Stands for what is kept of a start, and goes with it and its parts."""


@dataclass(frozen=True, eq=False)
class Start:
    """Images as patients, from which trajectories start in place of noise.

    Attributes
    ----------
    latents : Tensor [patients, C, h, w]
        z₀ of each image, float32, in ComfyUI's scale.
    seeds : tuple of int
        Of each patient's path.
    method : str
        One of `METHODS`.
    mask : Tensor [1 or patients, 1, h, w], optional
        Where branches may differ from the image, 0…1.
    automatic : bool
        Whether each branch is, in the end, kept to its `changed_region`.
    prompt : str, optional
        Digest of the source's conditioning; None where it has more than a prompt.
    memory : Memory
        The same for all parts of a start.
    """

    latents: torch.Tensor
    seeds: tuple[int, ...]
    method: str = OWN_NOISE
    mask: torch.Tensor | None = None
    automatic: bool = False
    prompt: str | None = None
    memory: Memory = field(default_factory=Memory)

    def block(self, first: int, patients: int) -> "Start":
        """Return the start of ``patients`` patients, or as many as there are, from ``first`` on."""
        return self.part(range(len(self.seeds))[first : first + patients])

    def part(self, patients: Sequence[int]) -> "Start":
        """Return the start of some patients, by their places."""
        chosen = list(patients)
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[chosen]
        seeds = tuple(self.seeds[place] for place in chosen)
        return replace(self, latents=self.latents[chosen], seeds=seeds, mask=mask)

    def masks(self) -> torch.Tensor | None:
        """Return the mask of each patient, [patients, 1, h, w]."""
        return None if self.mask is None else self.mask.expand(len(self.latents), -1, -1, -1)

    def describe(self) -> dict[str, Any]:
        """Return what a trajectory's settings say of its start, JSON-serialisable."""
        region = None if self.mask is None else round(float(self.mask.mean()), 4)
        return {"method": self.method, "automatic_region": self.automatic, "mask_share": region}
