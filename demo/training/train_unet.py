"""Training of the demo model's U-Net, jointly with its text encoder, on the latents of both domains."""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from demo.phantoms.phantom_captions import training_caption
from demo.phantoms.phantom_set import PhantomSet, held_out
from demo.training.architecture import (
    SCALING,
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_tokenizer,
    write_folder,
)
from demo.training.loop import Recipe, Run, save_atomically, threads_of
from demo.training.train_vae import encode_all

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from demo.phantoms.chest import ChestFactors
    from demo.phantoms.dermoscopy import DermoscopyFactors

RECIPE = Recipe(1e-3, warm=100, averaging=0.998)
DROPOUT, SNR_LIMIT = 0.1, 5.0


class Phase(NamedTuple):
    """What holds from the share `start` of the run on.

    Rows of a batch from each set, the greatest weight of high noise, and a factor of the learning rate.
    """

    start: float
    rows: tuple[int, int]
    greatest: float
    factor: float


# Dermoscopy has more attributes. Presence of one is decided at high noise, where the error that it explains
# is small: an artefact that may lie at any edge, such as the ruler, is bound to its word only once high noise
# weighs more.
PHASES = (
    Phase(0.0, (8, 8), 1.0, 1.0),
    Phase(0.58, (4, 12), 1.0, 1.0),
    Phase(0.75, (6, 10), 10.0, 2.5),
)
SNAPSHOT_EVERY = 300.0
# Of each set on a CPU: encoding costs minutes there, and these are seen only a few times each. A GPU takes
# all.
PATIENTS = 3000
# That of `PHASES`; other sizes keep its shares.
BATCH = 16
HELD_OUT_BATCHES = 32


class Captioner:
    """Token ids of fresh captions, a tenth of them empty; the tokenizer sees each sentence once."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.tokenizer = tokenizer
        self.known: dict[str, Tensor] = {}

    def __call__(self, captions: Iterable[str]) -> Tensor:
        return torch.stack([self._ids(caption) for caption in captions])

    def _ids(self, caption: str) -> Tensor:
        if caption not in self.known:
            ids = self.tokenizer(
                caption, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids[0]
            self.known[caption] = ids
        return self.known[caption]

    def draw(self, factors: Sequence[ChestFactors | DermoscopyFactors], rng: random.Random) -> Tensor:
        return self("" if rng.random() < DROPOUT else training_caption(f, rng) for f in factors)


def noise_weight(signal: Tensor, greatest: float) -> Tensor:
    """Weight of the squared noise error at cumulative alphas `signal`: min-SNR (Hang et al.

    2023, limit 5) times SNR^-1/2, the latter within 1..greatest.
    """
    snr = signal / (1 - signal)
    return snr.clamp(max=SNR_LIMIT) / snr * snr.rsqrt().clamp(1.0, greatest)


def denoising_loss(
    unet: UNet2DConditionModel,
    alphas: Tensor,
    latent: Tensor,
    noise: Tensor,
    step: Tensor,
    context: Tensor,
    greatest: float,
) -> Tensor:
    """Weighted squared error of the predicted noise.

    `alphas` float [1000] are cumulative, `step` long [B], `context` [B, 77, C].
    """
    signal = alphas[step][:, None, None, None]
    noisy = signal.sqrt() * latent + (1 - signal).sqrt() * noise
    error: Tensor = unet(noisy, step, context).sample.float() - noise
    return (noise_weight(signal, greatest) * error.square()).mean()


def train_unet(
    vae: AutoencoderKL,
    sets: Sequence[PhantomSet],
    folder: Path,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    resume: bool,
    batch: int = BATCH,
) -> tuple[UNet2DConditionModel, CLIPTextModel, dict[str, Any]]:
    """Train both networks on the phantom sets, in shares by `PHASES`.

    Returns (unet, text encoder, log), with averaged weights.
    """
    torch.manual_seed(seed)
    unet, text = build_unet(), build_text_encoder()
    captioner = Captioner(load_tokenizer(folder))
    _clear_unused_tokens(text, captioner, sets)
    networks: dict[str, nn.Module] = {"unet": unet, "text": text}
    for network in networks.values():
        network.to(device)
    moments = _moments(vae, sets, folder, device, resume)
    if torch.device(device).type == "cuda":
        moments = [part.to(device) for part in moments]
    alphas = build_scheduler().alphas_cumprod.to(device)
    run = Run("unet", networks, folder / "unet.pt", RECIPE, minutes, steps, device, resume)

    def loss(latent: Tensor, noise: Tensor, step: Tensor, ids: Tensor, greatest: float = 1.0) -> Tensor:
        return denoising_loss(unet, alphas, latent, noise, step, text(ids).last_hidden_state, greatest)

    snapped = time.monotonic()
    while not run.done:
        phase = [phase for phase in PHASES if run.clock.fraction >= phase.start][-1]
        drawn = _batch(
            moments, sets, [count * batch // BATCH for count in phase.rows], captioner, seed, run.clock.step
        )
        on_device = (part.to(device) for part in drawn)
        run.step(partial(loss, greatest=phase.greatest), *on_device, factor=phase.factor)
        if time.monotonic() - snapped > SNAPSHOT_EVERY:
            with run.averaged():
                _snapshot(folder / "snapshot", vae, unet, text)
            snapped = time.monotonic()
    run.finish()
    held = [
        _batch(moments, sets, (8, 8), captioner, seed, -1 - i, unseen=True) for i in range(HELD_OUT_BATCHES)
    ]
    with torch.no_grad():
        losses = [
            float(loss(latent.to(device), noise.to(device), step.to(device), ids.to(device)))
            for latent, noise, step, ids in held
        ]
    held_loss = sum(losses) / len(losses)
    return unet, text, run.clock.log(device) | {"batch": batch, "held_out_loss": round(held_loss, 5)}


def _moments(
    vae: AutoencoderKL, sets: Sequence[PhantomSet], folder: Path, device: str, resume: bool
) -> list[Tensor]:
    """Latent moments of each set, kept for a resumed run."""
    path = folder / "latents.pt"
    if resume and path.exists():
        kept: list[Tensor] = torch.load(path, weights_only=True)
        return kept
    vae = vae.to(device)
    begun = time.monotonic()
    moments: list[Tensor] = []
    for phantoms in sets:
        images = phantoms.images if torch.device(device).type == "cuda" else phantoms.images[:PATIENTS]
        pieces = [images[i : i + 250] for i in range(0, len(images), 250)]

        def encode(piece: np.ndarray) -> Tensor:
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                return encode_all(vae, piece).float()

        with threads_of(device) as pool:
            moments.append(torch.cat(list(pool.map(encode, pieces))))
        print(
            f"{phantoms.domain}: {len(images)} latents, {(time.monotonic() - begun) / 60:.1f} min", flush=True
        )
    save_atomically(moments, path)
    return moments


def _batch(
    moments: Sequence[Tensor],
    sets: Sequence[PhantomSet],
    rows: Sequence[int],
    captioner: Captioner,
    seed: int,
    step: int,
    unseen: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = moments[0].device
    draw = torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)
    rng = random.Random(f"{seed} {step}")
    latents, ids = [], []
    for encoded, phantoms, count in zip(moments, sets, rows):
        seen = len(encoded) - held_out(len(encoded))
        first, last = (seen, len(encoded)) if unseen else (0, seen)
        chosen = torch.randint(first, last, (count,), generator=draw, device=device)
        mean, logvar = encoded[chosen].chunk(2, 1)
        latents.append(
            SCALING * (mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=draw, device=device))
        )
        ids.append(captioner.draw([phantoms.factors[i] for i in chosen.tolist()], rng))
    # Both halves hold both domains: each is one thread's slice.
    latent, tokens = (
        torch.cat([half for i in (0, 1) for half in (p.chunk(2)[i] for p in part)]) for part in (latents, ids)
    )
    noise = torch.randn(latent.shape, generator=draw, device=device)
    return latent, noise, torch.randint(0, 1000, (len(latent),), generator=draw, device=device), tokens


@torch.no_grad()
def _clear_unused_tokens(
    text: CLIPTextModel, captioner: Captioner, sets: Sequence[PhantomSet], draws: int = 4
) -> None:
    """Zero the embedding of every token that no caption holds.

    Rows that are never trained say nothing, and zeros compress.
    """
    rng, used = random.Random(0), {int(i) for i in captioner([""]).unique()}
    for phantoms in sets:
        for _ in range(draws):
            used |= set(captioner.draw(phantoms.factors, rng).unique().tolist())
    embedding = text.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    table = embedding.weight
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[sorted(used)] = False
    table[unused] = 0


def _snapshot(folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
    part, old = folder.with_suffix(".part"), folder.with_suffix(".old")
    shutil.rmtree(part, ignore_errors=True)
    write_folder(part, *(copy.deepcopy(network).cpu() for network in (vae, unet, text)))
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
