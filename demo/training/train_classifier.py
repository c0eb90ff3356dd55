"""Train and evaluate the demo's attribute classifiers on phantoms. Synthetic images. Not for clinical use.

    python -m demo.training.train_classifier train --domain isic --vae VAE_FOLDER --out isic.safetensors
    python -m demo.training.train_classifier evaluate --domain isic --weights isic.safetensors

Two stages: phantoms, then an equal mix of phantoms and of their VAE reconstructions, so that the classifier
judges decoded images by the same measure. No generated image is used, and no patient of the diffusion model's
training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from demo.phantoms import chest, dermoscopy
from demo.phantoms.phantom_set import CACHE
from demo.training.loop import Recipe, Run, write_json
from medtraverse.notice import NOTICE
from medtraverse.whole_file import whole_file

DOMAINS = {
    "chexpert": (chest, ("support devices", "pleural effusion"), False),
    "isic": (dermoscopy, ("hair", "gel bubble", "ruler", "ink"), True),
}
IMAGE_SIZE = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 16
TRAINING_SEEDS, EVALUATION_SEEDS = (5_000_000, 6_000_000), 6_000_000  # apart from the diffusion model's
# One slice: batch normalisation sees the whole batch, and dropout draws from the global random state.
_RECIPE = Recipe(2e-3, warm=100, floor=0.01, betas=(0.9, 0.999), weight_decay=1e-2, half=False, slices=1)
STAGES = {"phantoms": _RECIPE, "reconstructions": replace(_RECIPE, peak=5e-4)}


def build(labels: int, width: float, dropout: float = 0.3) -> torch.nn.Module:
    """EfficientNet-B0's topology at a width multiplier, with the paper's head."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    row = partial(MBConvConfig, width_mult=width, depth_mult=1.0)
    stages = [
        row(1, 3, 1, 32, 16, 1),
        row(6, 3, 2, 16, 24, 2),
        row(6, 5, 2, 24, 40, 2),
        row(6, 3, 2, 40, 80, 3),
        row(6, 5, 1, 80, 112, 3),
        row(6, 5, 2, 112, 192, 4),
        row(6, 3, 1, 192, 320, 1),
    ]
    network: torch.nn.Module = EfficientNet(
        stages, dropout, stochastic_depth_prob=0.05, num_classes=labels
    ).to(memory_format=torch.channels_last)
    return network


def draw(domain: str, seeds: np.ndarray, note: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Phantoms uint8 [N, 3, H, W] and their labels float32 [N, L]."""
    phantom, labels, _ = DOMAINS[domain]
    images = torch.empty(len(seeds), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    truth = torch.empty(len(seeds), len(labels))
    for index, seed in enumerate(seeds):
        factors = phantom.sample_factors(int(seed))
        image = phantom.render(factors, IMAGE_SIZE).image
        images[index] = torch.from_numpy((image * 255).round().astype(np.uint8)).permute(2, 0, 1)
        truth[index] = torch.tensor([float(getattr(factors, label.replace(" ", "_"))) for label in labels])
        if note and (index + 1) % 1000 == 0:
            print(f"{note}: {index + 1}/{len(seeds)} phantoms", flush=True)
    return images, truth


@torch.inference_mode()
def reconstruct(
    images: torch.Tensor, folder: str, wobble: float = 0.0, seed: int = 0, note: str = ""
) -> torch.Tensor:
    """Images uint8 [N, 3, H, W] through the VAE and back.

    `wobble` is latent noise in latent standard deviations.
    """
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty_like(images)
    for start in range(0, len(images), 16):
        latents = vae.encode(images[start : start + 16].float() / 127.5 - 1).latent_dist.mode()
        amount = wobble * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + amount * latents.std() * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents).sample
        out[start : start + 16] = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        if note and start // 16 % 10 == 9:
            print(f"{note}: {start + len(latents)}/{len(images)} reconstructions", flush=True)
    return out


def augment(images: torch.Tensor, vertical: bool, rng: torch.Generator) -> torch.Tensor:
    """Flips, small affine maps, exposure, and the blur and noise that a ×8 VAE adds.

    float [B, 3, H, W] in 0..1.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    angle, scale = uniform(-0.12, 0.12, count), uniform(0.94, 1.06, count)
    sign_x = torch.where(uniform(0, 1, count) < 0.5, -1.0, 1.0)
    sign_y = torch.where(uniform(0, 1, count) < 0.5, -1.0, 1.0) if vertical else torch.ones(count)
    cos, sin, shift = torch.cos(angle) * scale, torch.sin(angle) * scale, uniform(-0.05, 0.05, 2, count)
    affine = torch.stack([cos * sign_x, -sin * sign_y, shift[0], sin * sign_x, cos * sign_y, shift[1]], 1)
    grid = F.affine_grid(affine.view(count, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    parts = list(images.split(-(-count // 4)))
    for index, part in enumerate(parts):
        if uniform(0, 1, 1) < 0.3:
            smaller = int(IMAGE_SIZE * uniform(0.55, 1, 1))
            part = F.interpolate(part, size=(smaller, smaller), mode="bilinear", antialias=True)
            part = F.interpolate(part, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        if uniform(0, 1, 1) < 0.5:
            sigma = float(uniform(0.3, 1.3, 1))
            taps = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
            kernel = (taps / taps.sum()).expand(3, 1, 1, 9)
            part = F.conv2d(F.pad(part, (4, 4, 4, 4), mode="replicate"), kernel, groups=3)
            part = F.conv2d(part, kernel.mT, groups=3)
        parts[index] = part
    images = torch.cat(parts)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (
        (images - middle) * uniform(0.8, 1.2, count, 1, 1, 1) + middle + uniform(-0.08, 0.08, count, 1, 1, 1)
    )
    noise = uniform(0, 0.04, count, 1, 1, 1) * torch.randn(images.shape, generator=rng)
    return (images + noise).clamp(0, 1)


def save_weights(network: torch.nn.Module, domain: str, path: Path) -> None:
    """fp16 safetensors with the paper's `model.` prefix; labels and image size in the metadata."""
    from safetensors.torch import save_file

    state = {
        f"model.{key}": value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    metadata = {"labels": json.dumps(DOMAINS[domain][1]), "image_size": json.dumps(IMAGE_SIZE)}
    metadata |= {"domain": json.dumps(domain), "synthetic": json.dumps(NOTICE)}
    state = {key: value.contiguous() for key, value in state.items()}
    with whole_file(path) as part:
        save_file(state, str(part), metadata=metadata)


def settle(network: torch.nn.Module, step: int) -> None:
    """Set the global random state, which dropout draws from, to that of a step; a resumed run needs it."""
    torch.manual_seed(step)
    network.train()


def fit(run: Run, images: torch.Tensor, truth: torch.Tensor, domain: str, seed: int) -> None:
    """Train the network of `run` to its end.

    Parameters
    ----------
    run : Run
        Of one network, named "network".
    images : Tensor [N, 3, H, W]
        uint8.
    truth : Tensor [N, L]
        Labels, 0 or 1.
    domain : str
        Of `DOMAINS`.
    seed : int
        Of the batches.
    """
    network, vertical = run.networks["network"], DOMAINS[domain][2]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))

    def loss(batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(network((batch - mean) / std), labels)

    while not run.done:
        step = run.clock.step
        rng = torch.Generator().manual_seed(1 + 1_000_003 * seed + step)
        settle(network, step)
        chosen = torch.randint(len(images), (BATCH,), generator=rng)
        run.step(loss, augment(images[chosen].float() / 255, vertical, rng), truth[chosen])
    run.finish()


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Both stages; writes the weights and their log, and returns the log.

    Raises
    ------
    ValueError
        `--resume` finds the checkpoint of other settings.
    """
    torch.manual_seed(args.seed)
    network = build(len(DOMAINS[args.domain][1]), args.width)
    identity = {key: getattr(args, key) for key in ("domain", "seed", "width", "pool")}
    folder = args.cache / f"classifier-{args.domain}"
    seeds = np.random.default_rng(args.seed).integers(*TRAINING_SEEDS, args.pool)
    minutes = {"phantoms": args.minutes, "reconstructions": args.vae_minutes}
    steps = {"phantoms": args.steps, "reconstructions": args.vae_steps}
    stages: dict[str, dict[str, Any]] = {}
    earlier = None
    if not args.resume:
        # Else a later --resume would take up the second stage of an older training.
        for name in STAGES:
            (folder / f"{name}.pt").unlink(missing_ok=True)
    for name, recipe in STAGES.items():
        if name == "reconstructions" and not args.vae:
            continue
        images, truth = draw(args.domain, seeds if earlier is None else seeds[: args.reconstructions], "pool")
        if earlier is not None:
            decoded = reconstruct(images, args.vae, wobble=0.2, seed=args.seed, note="pool")
            images, truth = torch.cat([images, decoded]), truth.repeat(2, 1)
        run = Run(
            name,
            {"network": network},
            folder / f"{name}.pt",
            recipe,
            None if steps[name] else minutes[name],
            steps[name],
            "cpu",
            args.resume,
            identity,
        )
        if earlier is not None and not run.clock.step:
            run.optimizer.load_state_dict(earlier.optimizer.state_dict())
        fit(run, images, truth, args.domain, args.seed)
        stages[name], earlier = run.clock.log("cpu"), run
    save_weights(network, args.domain, args.out)
    log = {
        "notice": NOTICE,
        "domain": args.domain,
        "seed": args.seed,
        "width": args.width,
        "phantoms": args.pool,
        "reconstructions": args.reconstructions if "reconstructions" in stages else 0,
        "batch": BATCH,
        "stages": stages,
        "learning_rates": {name: recipe.peak for name, recipe in STAGES.items()},
        "minutes": round(sum(stage["minutes"] for stage in stages.values()), 2),
        "evaluation": measure(args.domain, args.out, args.vae, args.count),
    }
    write_json(log, args.out.with_suffix(".json"))
    return log


def calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of one label: mean |predicted − observed| over bins, by their share."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs((probability - truth)[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(truth))


def measure(domain: str, weights: Path | str, vae: str | None, count: int) -> dict[str, Any]:
    """AUC and calibration per label on phantoms never trained on.

    With a VAE, on their reconstructions too.
    """
    from sklearn.metrics import roc_auc_score

    from medtraverse.classifier import load_classifier

    classifier = load_classifier(weights)
    images, truth = draw(domain, EVALUATION_SEEDS + np.arange(count))
    sets = {"phantoms": images} | ({"reconstructions": reconstruct(images, vae)} if vae else {})
    report: dict[str, Any] = {"images": count, "sha256": classifier.sha256}
    for name, group in sets.items():
        probability = classifier.predict(group.permute(0, 2, 3, 1).float() / 255).numpy()
        report[name] = {
            label: {
                "auc": round(float(roc_auc_score(truth[:, i], probability[:, i])), 5),
                "ece": round(calibration_error(probability[:, i], truth[:, i].numpy()), 4),
            }
            for i, label in enumerate(classifier.labels)
        }
    return report


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.training.train_classifier", description=__doc__.splitlines()[0]
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    fitting, judging = verbs.add_parser("train"), verbs.add_parser("evaluate")
    for verb in (fitting, judging):
        verb.add_argument("--domain", choices=sorted(DOMAINS), required=True)
        verb.add_argument("--vae", help="VAE folder in diffusers format")
        verb.add_argument("--count", type=int, default=1000, help="phantoms to evaluate on")
        verb.add_argument("--threads", type=int, default=1)
    fitting.add_argument(
        "--out", type=Path, required=True, help="safetensors file; its log goes beside it as .json"
    )
    fitting.add_argument("--seed", type=int, default=0, help="of weights, phantoms and batches")
    fitting.add_argument("--minutes", type=float, default=8, help="of the first stage, on phantoms")
    fitting.add_argument("--steps", type=int, help="of the first stage, in place of minutes")
    fitting.add_argument("--vae-minutes", type=float, default=4, help="of the second, with --vae")
    fitting.add_argument("--vae-steps", type=int, help="of the second, in place of minutes")
    fitting.add_argument("--width", type=float, default=0.5, help="multiplier of EfficientNet-B0's channels")
    fitting.add_argument("--pool", type=int, default=4000, help="phantoms to train on")
    fitting.add_argument(
        "--reconstructions", type=int, default=800, help="of the phantoms, those that also go through the VAE"
    )
    fitting.add_argument("--cache", type=Path, default=CACHE, help="folder for checkpoints")
    fitting.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    judging.add_argument("--weights", required=True)
    args = parser.parse_args(argv)
    if args.verb == "train" and args.out.suffix != ".safetensors":
        parser.error(f"--out is {args.out}; its name must end in .safetensors")
    torch.set_num_threads(args.threads)
    try:
        if args.verb == "train":
            report = train(args)["evaluation"]
        else:
            report = measure(args.domain, args.weights, args.vae, args.count)
    except ValueError as error:
        raise SystemExit(f"demo.training.train_classifier: {error}") from error
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
