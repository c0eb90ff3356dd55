"""Sampling of the demo model without ComfyUI: traversal by prompt swap in plain torch, on a CPU or a GPU.

DDIM with the paper's settings, on the plan of `medtraverse.traversal`: a row runs through the U-Net only
where it differs from the rows that it shares a past with. Synthetic images. Not for clinical use.

The step follows Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502):

    x_t      latent at timestep t
    alpha_t  cumulative product of 1 - beta up to t, which DDPM and diffusers write as alpha-bar
    e        predicted noise e_theta(x_t, t), here with guidance
    x_0      predicted latent without noise
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo.training.architecture import SCALING, build_scheduler
from medtraverse.checkpoint import read_unet
from medtraverse.traversal import Plan, ddim_timesteps


@dataclass
class Model:
    """A model on one device.

    All stays in float32 unless `half` asks for bfloat16 autocast in the U-Net and in decoding.
    """

    unet: Any
    vae: Any
    text: Any
    tokenizer: Any
    half: bool = False
    rows_per_call: int = 64

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

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
        return self.text(ids.to(self.device)).last_hidden_state

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images float32 [N, H, W, 3] in 0..1, on the CPU, of latents [N, 4, h, w] in diffusers' scale."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            pieces = [
                self.vae.decode(piece.to(self.device).float() / SCALING).sample
                for piece in latents.split(batch)
            ]
        return torch.cat(
            [(piece.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu() for piece in pieces]
        )


def load_model(
    folder: Path,
    unet: Path | None = None,
    device="cpu",
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
        U-Net alone, as `demo.training.finetune` writes it.
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
    return Model(network, vae, text, CLIPTokenizer.from_pretrained(folder / "tokenizer"), half, rows)


def _require_compiler(device):
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
    alphas = build_scheduler().alphas_cumprod.double().tolist()
    latents = noise.to(device)[plan.patient().to(device)]
    times = ddim_timesteps(steps)
    for step, time in enumerate(times):
        (rows, served), (bare, bare_served) = (
            source.unique(return_inverse=True) for source in plan.sources(step, steps)
        )
        context = torch.cat([spoken[rows], torch.zeros_like(bare)]).to(device)
        predicted = _predict(model, latents[torch.cat([rows, bare]).to(device)], time, embeddings[context])
        e = guided_noise(
            predicted[served.to(device)], predicted[(len(rows) + bare_served).to(device)], guidance
        )
        # The last step lands on the table's first entry, not on 1 (set_alpha_to_one False).
        previous = times[step + 1] if step + 1 < steps else 0
        latents = ddim_step(latents, e, alphas[time], alphas[previous])
    return latents.cpu()[plan.index()]


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
    return alpha_previous**0.5 * x_0 + direction


def _predict(model: Model, latents: Tensor, time: int, context: Tensor) -> Tensor:
    """Noise of every row, in calls of `rows_per_call`; `context` is [rows, 77, C]."""
    timestep, noise = torch.tensor(time, device=model.device), []
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.half):
        for piece, words in zip(latents.split(model.rows_per_call), context.split(model.rows_per_call)):
            noise.append(model.unet(piece, timestep, words).sample.float())
    return torch.cat(noise)
