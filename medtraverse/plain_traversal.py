"""Traversal by prompt swap without ComfyUI: DDIM in plain torch on diffusers' modules, on a CPU or a GPU.

It has the paper's settings and the plan of `medtraverse.traversal`: a row runs through the U-Net only where
it differs from the rows that it shares a past with. Training judges its model by it, and so does the demo.
Synthetic images. Not for clinical use.

The step follows Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502):

    x_t      latent at timestep t
    alpha_t  cumulative product of 1 - beta up to t, which DDPM and diffusers write as alpha-bar
    e        predicted noise e_theta(x_t, t), here with guidance; of a network that predicts
             v = alpha_t^0.5 e - (1 - alpha_t)^0.5 x_0 (Salimans, Ho 2022, arXiv 2202.00512) it is computed
    x_0      predicted latent without noise
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import projection
from .checkpoint import read_unet, sampling_settings
from .traversal import TRAIN_STEPS, Plan, ddim_timesteps


@dataclass
class Model:
    """A model on one device.

    All stays in float32 unless `half` asks for bfloat16 autocast in the U-Net and in decoding.

    Attributes
    ----------
    unet, vae, text, tokenizer
        Modules of diffusers and transformers.
    alphas : Tensor [1000]
        Cumulative, float64, on the CPU; of `cumulative_alphas`.
    prediction : str
        One of `medtraverse.checkpoint.PREDICTIONS`.
    half : bool
    rows_per_call : int
    """

    unet: Any
    vae: Any
    text: Any
    tokenizer: Any
    alphas: Tensor
    prediction: str = "epsilon"
    half: bool = False
    rows_per_call: int = 64

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def scaling(self) -> float:
        """By which the VAE's latents are multiplied for the U-Net."""
        return float(self.vae.config.scaling_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @torch.inference_mode()
    def encode(self, prompts: Iterable[str]) -> Tensor:
        """Embeddings [N, 77, C] of N prompts."""
        ids = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        embeddings: Tensor = self.text(ids.to(self.device)).last_hidden_state
        return embeddings

    @torch.inference_mode()
    def project(self, images: Tensor, batch: int = 16) -> Tensor:
        """Latents [N, 4, h, w] in diffusers' scale, on the CPU, of images [N, H, W, 3] in 0..1: the mode."""
        pieces = [
            self.vae.encode(piece.to(self.device).permute(0, 3, 1, 2).float() * 2 - 1).latent_dist.mode()
            for piece in images.split(batch)
        ]
        return self.scaling * torch.cat(pieces).cpu()

    @torch.inference_mode()
    def noise(self, latents: Tensor, time: int | Tensor, context: Tensor) -> Tensor:
        """Predicted noise of latents [N, 4, h, w], in calls of `rows_per_call`.

        `time` is one timestep, or one for each row; `context` is [N, 77, C].
        """
        times = torch.as_tensor(time, device=self.device).expand(len(latents))
        predicted, size = [], self.rows_per_call
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            for piece, moment, words in zip(latents.split(size), times.split(size), context.split(size)):
                predicted.append(self.unet(piece, moment, words).sample.float())
        noise = torch.cat(predicted)
        if self.prediction == "v_prediction":
            signal = self.alphas[times.cpu()].float().to(self.device).reshape(-1, 1, 1, 1)
            noise = signal.sqrt() * noise + (1 - signal).sqrt() * latents
        return noise

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images float32 [N, H, W, 3] in 0..1, on the CPU, of latents [N, 4, h, w] in diffusers' scale."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            pieces = [
                self.vae.decode(piece.to(self.device).float() / self.scaling).sample
                for piece in latents.split(batch)
            ]
        return torch.cat(
            [(piece.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu() for piece in pieces]
        )


def cumulative_alphas(scheduler: Mapping[str, Any] | None) -> Tensor:
    """Return alpha of each training timestep, float64 [1000], of a ``scheduler_config.json``.

    Raises ValueError for a schedule that the nodes would refuse too.
    """
    _, start, end, schedule = sampling_settings(scheduler)
    # In float32 and then widened, as diffusers and ComfyUI compute them.
    if schedule == "linear":
        betas = torch.linspace(start, end, TRAIN_STEPS)
    else:
        betas = torch.linspace(start**0.5, end**0.5, TRAIN_STEPS).square()
    return torch.cumprod(1 - betas, 0).double()


def load_model(
    folder: Path,
    unet: Path | None = None,
    device: str | torch.device = "cpu",
    half: bool = False,
    rows_per_call: int | None = None,
    compiled: bool = False,
) -> Model:
    """Load a diffusers folder, its U-Net replaced by the file `unet` where one is given.

    Parameters
    ----------
    folder : Path
        Diffusers folder of the base.
    unet : Path, optional
        U-Net alone, as `medtraverse.training` and the paper's script write it.
    device : str or torch.device
    half : bool
        bfloat16 autocast.
    rows_per_call : int, optional
        Rows of one U-Net call; default 16, on a GPU 512. No effect on the result.
    compiled : bool
        Compile with torch.compile, which takes minutes once.

    Raises
    ------
    ValueError
        The file is no U-Net of the folder's shape, or torch.compile finds no compiler.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    network = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    if unet is not None:
        weights, _ = read_unet(unet)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"unet: {Path(unet).name} does not fit the U-Net of {folder.name} ({error}); "
                "fine-tune it from that base"
            ) from error
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    parts: list[Any] = [part.eval().requires_grad_(False).to(device) for part in (network, vae, text)]
    rows = rows_per_call or (512 if torch.device(device).type == "cuda" else 16)
    if compiled:
        _require_compiler(device)
        parts[0].compile(options={"freezing": True})
        parts[1].decode = torch.compile(parts[1].decode, options={"freezing": True})
    network, vae, text = parts
    config = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
    return Model(
        network,
        vae,
        text,
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        cumulative_alphas(scheduler),
        sampling_settings(scheduler)[0],
        half,
        rows,
    )


def _require_compiler(device: str | torch.device) -> None:
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--compile: torch.compile does not work here ({reason}); "
            "install a C++ compiler, such as g++, or leave it out"
        ) from error


def draw_noise(seeds: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Noise [patients, *shape] of each patient's own seed.

    Drawn on the CPU, so that a patient is the same on every device.
    """
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def traverse(
    model: Model,
    neutral: Sequence[str],
    attributes: Sequence[Sequence[str]],
    noise: Tensor,
    swap_steps: Sequence[int],
    steps: int = 50,
    guidance: float = 7.5,
) -> Tensor:
    """Sample the neutral and every swap of a block of patients.

    Parameters
    ----------
    model : Model
    neutral : sequence of str
        Neutral prompt of each patient.
    attributes : sequence of sequences of str
        Attribute prompts of each patient, the same number for all.
    noise : Tensor [patients, 4, h, w]
        Standard normal, which is where diffusers' DDIM begins.
    swap_steps : sequence of int
        λ: steps 0…λ run under the neutral prompt.

    Returns
    -------
    Tensor [patients, attributes, 1 + swap steps, 4, h, w]
        float32 on the CPU, in diffusers' scale; point 0 is the neutral.
    """
    device = model.device
    plan = Plan(len(neutral), len(attributes[0]), tuple(swap_steps))
    prompts = [
        prompt for first, others in zip(neutral, attributes, strict=True) for prompt in (first, *others)
    ]
    known = {prompt: index for index, prompt in enumerate(dict.fromkeys(["", *prompts]))}
    embeddings = model.encode(known)
    spoken = torch.tensor([known[prompt] for prompt in prompts]).reshape(plan.patients, -1)[
        plan.patient(), plan.attribute() + 1
    ]
    alphas = model.alphas.tolist()
    latents = noise.to(device)[plan.patient().to(device)]
    times = ddim_timesteps(steps)
    for step, time in enumerate(times):
        (rows, served), (bare, bare_served) = (
            source.unique(return_inverse=True) for source in plan.sources(step, steps)
        )
        context = torch.cat([spoken[rows], torch.zeros_like(bare)]).to(device)
        predicted = model.noise(latents[torch.cat([rows, bare]).to(device)], time, embeddings[context])
        e = guided_noise(
            predicted[served.to(device)], predicted[(len(rows) + bare_served).to(device)], guidance
        )
        # The last step lands on the table's first entry, not on 1 (set_alpha_to_one False).
        previous = times[step + 1] if step + 1 < steps else 0
        latents = ddim_step(latents, e, alphas[time], alphas[previous])
    return latents.cpu()[plan.index()]


@torch.inference_mode()
def traverse_images(
    model: Model,
    source: Sequence[str],
    targets: Sequence[Sequence[str]],
    latents: Tensor,
    seeds: Sequence[int],
    swap_steps: Sequence[int],
    steps: int = 50,
    guidance: float = 7.5,
    method: str = projection.OWN_NOISE,
    mask: Tensor | None = None,
) -> Tensor:
    """Sample the swaps of patients that are images: `medtraverse.projection`, on the plan of `traverse`.

    Parameters
    ----------
    source : sequence of str
        Prompt of each image as it is.
    targets : sequence of sequences of str
        Prompts that each image is swapped to, the same number for all.
    latents : Tensor [patients, 4, h, w]
        Of the images, as `Model.project` gives them.
    seeds : sequence of int
        Of each patient's path.
    method : str
        One of `medtraverse.projection.METHODS`.
    mask : Tensor [patients, 1, h, w], optional
        Where the image may change.

    Returns
    -------
    Tensor [patients, targets, 1 + swap steps, 4, h, w]
        float32 on the CPU, in diffusers' scale; point 0 is the image's own latent.
    """
    device, plan = model.device, Plan(len(source), len(targets[0]), tuple(swap_steps))
    prompts = [prompt for first, others in zip(source, targets, strict=True) for prompt in (first, *others)]
    known = {prompt: index for index, prompt in enumerate(dict.fromkeys(["", *prompts]))}
    embeddings = model.encode(known)
    spoken = torch.tensor([known[prompt] for prompt in prompts]).reshape(plan.patients, -1)
    own = spoken[plan.patient(), plan.attribute() + 1]
    alphas = model.alphas
    times = torch.tensor(ddim_timesteps(steps))
    reached = torch.cat([alphas[times], alphas[:1]])
    sigmas = ((1 - reached) / reached).sqrt().float()
    z0, first = latents.to(device), projection.first_step(swap_steps)

    def noise(states: Tensor, time: int | Tensor, context: Tensor) -> Tensor:
        # The U-Net takes the variance-preserving latent, x / sqrt(1 + σ²).
        scale = alphas[time].sqrt().float().to(device).reshape(-1, 1, 1, 1)
        return model.noise(states * scale, time, embeddings[context])

    def unguided(step: int, states: Tensor, sigma: float) -> Tensor:
        return states - sigma * noise(states, times[step], spoken[:, 0].to(device))

    if method == projection.INVERSION:
        path = projection.inverted(unguided, z0, sigmas, first)
    else:
        drawn = projection.path_noise(seeds, steps, z0.shape[1:])
        states = projection.noised(z0, drawn.to(device), sigmas, method)
        path = {step: states[:, step] for step in range(first, steps)}

    # The source's predictions are known before any branch: all steps in one batch.
    count = len(path)
    states = torch.stack([path[step] for step in range(first, steps)], 1).flatten(0, 1)
    moments = times[first:].repeat(plan.patients)
    words = spoken[:, :1].expand(-1, count).flatten()
    predicted = noise(
        states.repeat(2, 1, 1, 1),
        moments.repeat(2),
        torch.cat([words, torch.zeros_like(words)]).to(device),
    ).reshape(2, plan.patients, count, *z0.shape[1:])
    patient, neutral = plan.patient(), plan.patient() * plan.rows_per_patient

    def denoised(step: int, states: Tensor, sigma: float) -> Tensor:
        conditional, unconditional = plan.sources(step, steps)
        e, bare = (part[:, step - first][patient.to(device)] for part in predicted)
        spoken_to, alone = (
            (served != neutral).nonzero().flatten() for served in (conditional, unconditional)
        )
        if len(spoken_to):
            rows = torch.cat([spoken_to, alone]).to(device)
            context = torch.cat([own[spoken_to], torch.zeros_like(alone)]).to(device)
            new = noise(states[rows], times[step], context)
            e[spoken_to.to(device)] = new[: len(spoken_to)]
            bare[alone.to(device)] = new[len(spoken_to) :]
        return states - sigma * guided_noise(e, bare, guidance)

    ended = projection.branched(denoised, path.__getitem__, z0, sigmas, plan, mask)
    final: Tensor = ended / float(1 + sigmas[-1] ** 2) ** 0.5
    return final.cpu()[plan.index()]


def guided_noise(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: e = e(x_t) + s (e(x_t, c) - e(x_t)).

    Ho, Salimans 2022 (arXiv 2207.12598), equation 6, with s = 1 + w as Stable Diffusion counts `guidance`.
    """
    return unconditional + guidance * (conditional - unconditional)


def ddim_step(x_t: Tensor, e: Tensor, alpha_t: float, alpha_previous: float) -> Tensor:
    """One deterministic DDIM step, x_t to x_{t-1}: Song et al. 2021, equation 12 with sigma_t = 0.

    Parameters
    ----------
    x_t, e : Tensor
        Latent and predicted noise, of one shape.
    alpha_t, alpha_previous : float
        alpha at the timestep of `x_t` and at the one that follows it in sampling, in 0..1.
    """
    x_0 = (x_t - (1 - alpha_t) ** 0.5 * e) / alpha_t**0.5  # "predicted x_0", also equation 9
    direction = (1 - alpha_previous) ** 0.5 * e  # "direction pointing to x_t"
    x_previous: Tensor = alpha_previous**0.5 * x_0 + direction
    return x_previous
