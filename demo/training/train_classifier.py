"""Train and evaluate the demo's attribute classifiers on phantoms. Synthetic images. Not for clinical use.

    python -m demo.training.train_classifier train --domain isic --minutes 8 --vae demo/cache/snapshot/vae --vae-minutes 4
    python -m demo.training.train_classifier evaluate --domain isic --weights demo/weights/classifier-isic.safetensors

Two stages: phantoms, then an equal mix of phantoms and of their VAE reconstructions, so that the classifier judges
decoded images by the same measure. No generated image is used, and no patient of the diffusion model's training.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from demo.phantoms import chest, dermoscopy
from medtraverse.notice import NOTICE
from medtraverse.whole_file import whole_file, write_text

DOMAINS = {
    "chexpert": (chest, ("support devices", "pleural effusion"), False),
    "isic": (dermoscopy, ("hair", "gel bubble", "ruler", "ink"), True),
}
IMAGE_SIZE = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 16
TRAINING_SEEDS, EVALUATION_SEEDS = (5_000_000, 6_000_000), 6_000_000  # apart from the diffusion model's
STAGES = {"phantoms": 2e-3, "reconstructions": 5e-4}  # name: peak learning rate


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
    return EfficientNet(stages, dropout, stochastic_depth_prob=0.05, num_classes=labels).to(
        memory_format=torch.channels_last
    )


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
    """Images uint8 [N, 3, H, W] through the VAE and back; `wobble` is latent noise in latent standard deviations."""
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
    """Flips, small affine maps, exposure, and the blur and noise that a ×8 VAE adds. float [B, 3, H, W] in 0..1."""
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


class Run:
    """A resumable training run: network, optimiser and how far each stage has come."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.args = args
        self.network = build(len(DOMAINS[args.domain][1]), args.width)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2)
        self.record = {"stages": {name: {"steps": 0, "seconds": 0.0, "loss": None} for name in STAGES}}
        self.checkpoint = Path(args.checkpoint or f"demo/cache/classifier-{args.domain}.pt")
        if self.checkpoint.exists() and not args.restart:
            state = torch.load(self.checkpoint, weights_only=True)
            if state["identity"] != self.identity():
                raise SystemExit(
                    f"{self.checkpoint} belongs to {state['identity']}; pass --restart or another --checkpoint"
                )
            for name in ("network", "optimiser"):
                getattr(self, name).load_state_dict(state[name])
            self.record = state["record"]

    def identity(self) -> dict:
        return {key: getattr(self.args, key) for key in ("domain", "seed", "width", "pool")}

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("network", "optimiser")}
        state |= {"record": self.record, "identity": self.identity()}
        with whole_file(self.checkpoint) as part:
            torch.save(state, part)
        save_weights(self.network, self.args.domain, Path(self.args.out))

    def pending(self, name: str, minutes: float) -> bool:
        return self.record["stages"][name]["seconds"] < 60 * minutes

    def stage(self, name: str, minutes: float, images: torch.Tensor, truth: torch.Tensor) -> None:
        """Train until the stage has had `minutes`, cosine-annealed over them."""
        vertical = DOMAINS[self.args.domain][2]
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        state, peak, saved = self.record["stages"][name], STAGES[name], time.monotonic()
        self.network.train()
        while self.pending(name, minutes):
            began = time.monotonic()
            done = state["seconds"] / (60 * minutes)
            rate = (
                peak
                * min(1, (state["steps"] + 1) / 100)
                * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            rng = torch.Generator().manual_seed(1 + 1_000_003 * self.args.seed + state["steps"])
            torch.manual_seed(state["steps"])
            chosen = torch.randint(len(images), (BATCH,), generator=rng)
            batch = augment(images[chosen].float() / 255, vertical, rng)
            loss = F.binary_cross_entropy_with_logits(self.network((batch - mean) / std), truth[chosen])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            state["steps"] += 1
            state["loss"] = (
                loss.item() if state["loss"] is None else 0.98 * state["loss"] + 0.02 * loss.item()
            )
            state["seconds"] += time.monotonic() - began
            if state["steps"] % 50 == 0:
                print(
                    f"{name}: step {state['steps']}  loss {state['loss']:.4f}  {state['seconds'] / 60:.1f}/{minutes} min",
                    flush=True,
                )
            if time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()
        self.save()


def train(args) -> None:
    run, seeds = Run(args), np.random.default_rng(args.seed).integers(*TRAINING_SEEDS, args.pool)
    if run.pending("phantoms", args.minutes):
        run.stage("phantoms", args.minutes, *draw(args.domain, seeds, "pool"))
    if args.vae and run.pending("reconstructions", args.vae_minutes):
        images, truth = draw(args.domain, seeds[: args.reconstructions], "pool")
        decoded = reconstruct(images, args.vae, wobble=0.2, seed=args.seed, note="pool")
        run.stage("reconstructions", args.vae_minutes, torch.cat([images, decoded]), truth.repeat(2, 1))
    log = {
        "notice": NOTICE,
        "domain": args.domain,
        "seed": args.seed,
        "width": args.width,
        "phantoms": args.pool,
    }
    log["reconstructions"] = args.reconstructions if run.record["stages"]["reconstructions"]["steps"] else 0
    log |= {"batch": BATCH, "stages": run.record["stages"], "learning_rates": STAGES, "hardware": hardware()}
    log["minutes"] = round(sum(stage["seconds"] for stage in run.record["stages"].values()) / 60, 2)
    log["evaluation"] = measure(args.domain, args.out, args.vae, args.count)
    write_text(Path(args.out).with_suffix(".json"), json.dumps(log, indent=2) + "\n")
    print(json.dumps(log["evaluation"], indent=2))


def hardware() -> str:
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__.split('+')[0]}"


def calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of one label: mean |predicted − observed| over bins, weighted by their share."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs((probability - truth)[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(truth))


def measure(domain: str, weights: str, vae: str | None, count: int) -> dict:
    """AUC and calibration per label on phantoms never trained on, and on their reconstructions where a VAE is given."""
    from sklearn.metrics import roc_auc_score

    from medtraverse.classifier import load_classifier

    classifier = load_classifier(weights)
    images, truth = draw(domain, EVALUATION_SEEDS + np.arange(count))
    sets = {"phantoms": images} | ({"reconstructions": reconstruct(images, vae)} if vae else {})
    report = {"images": count, "sha256": classifier.sha256}
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
    fit, judge = verbs.add_parser("train"), verbs.add_parser("evaluate")
    for verb in (fit, judge):
        verb.add_argument("--domain", choices=sorted(DOMAINS), required=True)
        verb.add_argument("--vae", help="VAE folder in diffusers format")
        verb.add_argument("--count", type=int, default=1000, help="phantoms to evaluate on")
        verb.add_argument("--threads", type=int, default=1)
    fit.add_argument("--out", required=True, help="safetensors to write; the log goes beside it as .json")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--minutes", type=float, default=8)
    fit.add_argument("--vae-minutes", type=float, default=4)
    fit.add_argument("--width", type=float, default=0.5)
    fit.add_argument("--pool", type=int, default=4000, help="phantoms to train on")
    fit.add_argument(
        "--reconstructions", type=int, default=800, help="of the phantoms, those that also go through the VAE"
    )
    fit.add_argument("--checkpoint", help="default: demo/cache/classifier-DOMAIN.pt")
    fit.add_argument("--restart", action="store_true", help="ignore the checkpoint")
    judge.add_argument("--weights", required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.verb == "train":
        train(args)
    else:
        print(json.dumps(measure(args.domain, args.weights, args.vae, args.count), indent=2))


if __name__ == "__main__":
    main()
