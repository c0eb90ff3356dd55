"""Sampling of the demo model without ComfyUI: traversal by prompt swap in plain torch, batched over patients, on a CPU or a GPU.

DDIM with the paper's settings on the plan of `medtraverse.traversal`: a row runs through the U-Net only where it differs from the rows
that it shares a past with. Synthetic images. Not for clinical use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from demo.training.architecture import SCALING, build_scheduler
from medtraverse.checkpoint import read_unet
from medtraverse.traversal import Plan, ddim_timesteps


@dataclass
class Model:
    """A model on one device; all stays in float32 unless `half` asks for bfloat16 autocast in the U-Net and in decoding."""

    unet: nn.Module
    vae: nn.Module
    text: nn.Module
    tokenizer: object
    half: bool = False
    rows_per_call: int = 64

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def latent_shape(self):
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @torch.inference_mode()
    def encode(self, prompts) -> Tensor:
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
    """Load a diffusers folder, its U-Net replaced by the file `unet` where one is given; `compiled` by torch.compile, which takes minutes once.

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
                f"unet: {Path(unet).name} does not fit the U-Net of {folder.name}; fine-tune it from that base ({error})"
            ) from error
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    parts = [part.eval().requires_grad_(False).to(device) for part in (network, vae, text)]
    rows = rows_per_call or (512 if torch.device(device).type == "cuda" else 16)
    if compiled:
        _require_compiler(device)
        parts[0].compile(options={"freezing": True})
        parts[1].decode = torch.compile(parts[1].decode, options={"freezing": True})
    return Model(*parts, CLIPTokenizer.from_pretrained(folder / "tokenizer"), half, rows)


def _require_compiler(device):
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--compile: torch.compile does not work here ({reason}); install a C++ compiler, such as g++, or leave it out"
        ) from error


def draw_noise(seeds, shape) -> Tensor:
    """Noise [patients, *shape] of each patient's own seed, drawn on the CPU, so that a patient is the same on every device."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def traverse(
    model: Model, neutral, attributes, noise: Tensor, swap_steps, steps: int = 50, guidance: float = 7.5
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
        wanted, plain = predicted[served.to(device)], predicted[(len(rows) + bare_served).to(device)]
        noise_part = plain + guidance * (wanted - plain)
        # The last step lands on the table's first entry, not on 1 (set_alpha_to_one False).
        now, after = alphas[time], alphas[times[step + 1] if step + 1 < steps else 0]
        clean = (latents - (1 - now) ** 0.5 * noise_part) / now**0.5
        latents = after**0.5 * clean + (1 - after) ** 0.5 * noise_part
    return latents.cpu()[plan.index()]


def _predict(model, latents, time, context):
    found, step = [], torch.tensor(time, device=model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.half):
        for piece, words in zip(latents.split(model.rows_per_call), context.split(model.rows_per_call)):
            found.append(model.unet(piece, step, words).sample.float())
    return torch.cat(found)
