"""Fine-tune the demo model's U-Net on a set in the real CheXpert or ISIC 2019 layout.

Text encoder and VAE stay as they are.

    python -m demo.training.finetune chexpert --steps 1000 --out demo/weights/phantom-chexpert.safetensors
    python -m demo.training.finetune isic --data /data/ISIC_2019 --device cuda --out isic.safetensors

The second stage of the paper (TehraniNasab, Kumar, Arbel 2025, section 3). Images and captions come from the
files alone: without `--data`, phantoms are first written in that layout. `confounded` is CheXpert's layout
with support devices and pleural effusion correlated, and most devices beside effusions unmentioned. The
result is the U-Net alone, fp16 safetensors in diffusers keys, as the authors' checkpoints are; its log lies
beside it. Synthetic images. Not for clinical use.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from demo.phantoms.layouts import write_chexpert, write_isic
from demo.phantoms.phantom_set import CACHE
from demo.training.architecture import SCALING, WEIGHTS, build_scheduler, half_precision
from demo.training.loop import Recipe, Run, write_json
from demo.training.train_base import require_device
from demo.training.train_unet import denoising_loss
from medtraverse.captions import Captioned, image_file
from medtraverse.data_set import encode_images, read_table
from medtraverse.digest import sha256_of
from medtraverse.notice import NOTICE
from medtraverse.whole_file import whole_file

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# Set of `demo.phantoms.layouts` (they share no patient), correlation of devices and effusion, and share of
# the effusions beside devices that no label mentions. Correlation alone is no confounder: while every caption
# names both, the model learns them apart.
SETS = {"chexpert": (0, 0.0, 0.0), "isic": (0, 0.0, 0.0), "confounded": (1, 0.9, 0.6)}
RECIPE = Recipe(3e-4, averaging=0.998)
MINUTES, BATCH = 20.0, 16
# The paper has no caption dropout; guidance by the empty caption needs some.
DROPOUT = 0.05
# Of high noise, where an attribute's presence is decided; see demo/training/train_unet.py.
GREATEST_WEIGHT = 10.0


class Pairs(NamedTuple):
    """Moments of each image's latent, fp16 [N, 8, h, w], a memory map or on a GPU.

    Sentence of each, long [N]; embeddings [sentences + 1, 77, C], the empty one last.
    """

    moments: np.ndarray | Tensor
    sentence: Tensor
    embeddings: Tensor


@torch.no_grad()
def encode_captions(base: Path, captions: Sequence[Captioned], device: str) -> tuple[Tensor, Tensor]:
    """Sentence of every caption, long [N] on `device`, and the frozen encoder's embeddings.

    The empty caption's embedding comes last.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32).eval()
    sentences = sorted({row.caption for row in captions})
    ids = tokenizer(
        [*sentences, ""], padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    embeddings = torch.cat([text(piece).last_hidden_state for piece in ids.split(64)])
    place = {sentence: index for index, sentence in enumerate(sentences)}
    return torch.tensor([place[row.caption] for row in captions], device=device), embeddings.to(device)


def draw_batch(pairs: Pairs, count: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise, timesteps and contexts of one step, drawn on the device that the captions lie on.

    A function of seed and step.
    """
    device = pairs.sentence.device
    draw = torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)
    chosen = torch.randint(len(pairs.sentence), (count,), generator=draw, device=device)
    if isinstance(pairs.moments, Tensor):
        moments = pairs.moments[chosen]
    else:
        moments = torch.from_numpy(pairs.moments[chosen.cpu().numpy()]).to(device)
    mean, logvar = moments.float().chunk(2, 1)
    latent = SCALING * (mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=draw, device=device))
    dropped = torch.rand(count, generator=draw, device=device) < DROPOUT
    context = pairs.embeddings[torch.where(dropped, len(pairs.embeddings) - 1, pairs.sentence[chosen])]
    noise = torch.randn(latent.shape, generator=draw, device=device)
    return latent, noise, torch.randint(0, 1000, (count,), generator=draw, device=device), context


def finetune(
    base: Path,
    kind: str,
    data: Path,
    folder: Path,
    minutes: float | None,
    steps: int | None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    batch: int = BATCH,
    rate: float = RECIPE.peak,
) -> tuple[UNet2DConditionModel, dict[str, Any]]:
    """Train the U-Net of the diffusers folder `base` on `data`; returns (U-Net with averaged weights, log).

    `folder` keeps latents and checkpoint. Without `resume` the checkpoint is left aside; latents of the same
    images and VAE serve again.

    Raises
    ------
    ValueError
        See `medtraverse.data_set`.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).to(device).train()
    captions, root = read_table(kind, data)
    size = 8 * unet.config.sample_size
    digest = _digest(base, captions, root, size)
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).eval().to(device)
    moments = encode_images(vae, captions, root, size, folder / f"latents-{digest}.npy", _latents_done)
    del vae
    pairs = Pairs(_near(moments, device), *encode_captions(base, captions, device))
    alphas = build_scheduler().alphas_cumprod.to(device)
    recipe = replace(RECIPE, peak=rate)
    run = Run(kind, {"unet": unet}, folder / "unet.pt", recipe, minutes, steps, device, resume)

    def loss(latent: Tensor, noise: Tensor, step: Tensor, context: Tensor) -> Tensor:
        return denoising_loss(unet, alphas, latent, noise, step, context, GREATEST_WEIGHT)

    while not run.done:
        run.step(loss, *draw_batch(pairs, batch, seed, run.clock.step))
    run.finish()
    return unet, {"images": len(captions), "batch": batch, "rate": rate, "dropout": DROPOUT} | run.clock.log(
        device
    )


def _latents_done(done: int, count: int) -> None:
    print(f"latents {done}/{count}", flush=True)


def _near(moments: np.ndarray, device: str) -> np.ndarray | Tensor:
    """The moments in a GPU's memory if they take less than half of what is free there.

    Else the memory map.
    """
    if torch.device(device).type == "cuda" and 2 * moments.nbytes < torch.cuda.mem_get_info(device)[0]:
        return torch.from_numpy(np.array(moments)).to(device)
    return moments


def _digest(base: Path, captions: Sequence[Captioned], root: Path, size: int) -> str:
    """Of what the latents depend on: the VAE, the images' names and the first and last image."""
    digest = hashlib.sha256(f"{size} {[row.image for row in captions]}".encode())
    for path in sorted((base / "vae").glob("*.safetensors")):
        digest.update(path.read_bytes())
    for row in (captions[0], captions[-1]):
        digest.update(image_file(root, row.image).read_bytes())
    return digest.hexdigest()[:16]


def write_unet(unet: UNet2DConditionModel, path: Path, log: dict[str, Any]) -> None:
    """Save the U-Net alone in fp16, diffusers keys, and `log` beside it; neither is ever half written.

    Raises
    ------
    ValueError
        If a weight is not finite in fp16.
    """
    from safetensors.torch import save_file

    state = {
        key: value.cpu().contiguous() for key, value in half_precision("unet", unet).state_dict().items()
    }
    with whole_file(path) as part:
        save_file(state, str(part), metadata={"format": "pt", "notice": NOTICE})
        part.chmod(0o644)
    write_json(log, path.with_suffix(".json"))


def phantom_data(
    kind: str,
    count: int,
    folder: Path,
    seed: int | None = None,
    correlation: float | None = None,
    unmentioned: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write `count` phantoms in the layout of `kind` below `folder`; the folder, and the set for the log."""
    chosen, correlated, left_out = SETS[kind]
    made: dict[str, Any] = {
        "layout": "isic" if kind == "isic" else "chexpert",
        "count": count,
        "seed": chosen if seed is None else seed,
    }
    made["correlation"] = correlated if correlation is None else correlation
    made["unmentioned"] = left_out if unmentioned is None else unmentioned
    data = folder / "-".join(map(str, ("data", *made.values())))
    if made["layout"] == "isic":
        write_isic(data, count, made["seed"])
    else:
        write_chexpert(data, count, made["seed"], made["correlation"], unmentioned=made["unmentioned"])
    return data, made


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    folder = args.cache / f"finetune-{args.kind}"
    if args.device != "cpu":
        require_device(args.device)
    try:
        made = None
        data = args.data
        if data is None:
            data, made = phantom_data(
                args.kind, args.count, folder, args.set, args.correlation, args.unmentioned
            )
        minutes = None if args.steps else args.minutes or MINUTES
        unet, log = finetune(
            args.base,
            args.kind,
            data,
            folder,
            minutes,
            args.steps,
            args.seed,
            args.device,
            args.resume,
            args.batch,
            args.rate,
        )
        record = {
            "notice": NOTICE,
            "kind": args.kind,
            "seed": args.seed,
            "phantoms": made,
            "base_unet_sha256": _sha256(args.base),
        }
        write_unet(unet, args.out, record | log)
    except ValueError as error:
        raise SystemExit(f"demo.training.finetune: {error}") from error
    print(
        f"{args.kind}: {log['steps']} steps, {log['minutes']} min, loss {log['loss']}; "
        f"{args.out}, {args.out.stat().st_size / 1e6:.1f} MB\n{NOTICE}"
    )
    return 0


def _sha256(base: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted((base / "unet").glob("*.safetensors"))}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.training.finetune", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kind", choices=tuple(SETS))
    parser.add_argument("--base", type=Path, default=WEIGHTS, help="diffusers folder to start from")
    parser.add_argument(
        "--data", type=Path, help="folder of a set in the real layout (default: phantoms are written in it)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file; its log goes beside it as .json"
    )
    parser.add_argument(
        "--minutes", type=float, help=f"of training (default: {MINUTES}); the learning rate falls over them"
    )
    parser.add_argument("--steps", type=int, help="steps, in place of minutes: the same on every machine")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step, an even number")
    parser.add_argument("--rate", type=float, default=RECIPE.peak, help="peak learning rate")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the batches")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="folder for phantoms, latents and checkpoints"
    )
    parser.add_argument("--count", type=int, default=4000, help="phantoms, without --data")
    parser.add_argument(
        "--set",
        type=int,
        help="set of demo.phantoms.layouts, 0..19, without --data (default: 0, confounded 1)",
    )
    parser.add_argument(
        "--correlation",
        type=float,
        help="of devices and effusion, without --data (default: 0, confounded 0.9)",
    )
    parser.add_argument(
        "--unmentioned",
        type=float,
        help="share of the devices beside effusions without a label, without --data "
        "(default: 0, confounded 0.6)",
    )
    args = parser.parse_args(argv)
    if (args.minutes is not None and args.minutes <= 0) or (args.steps is not None and args.steps <= 0):
        parser.error("--minutes and --steps must be above 0")
    if args.batch < 2 or args.batch % 2:
        parser.error(f"--batch is {args.batch}; give an even number, 2 or more")
    if args.out.suffix != ".safetensors":
        parser.error(f"--out is {args.out}; its name must end in .safetensors")
    return args


if __name__ == "__main__":
    main()
