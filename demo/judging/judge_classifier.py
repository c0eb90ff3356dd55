"""Judge the demo's attribute classifiers on unseen phantoms. Synthetic images. Not for clinical use.

    python -m demo.phantoms.layouts chexpert --count 4000 --seed 10 --out phantoms
    python -m medtraverse train classifier --data phantoms --out classifier-chexpert …
    python -m demo.judging.judge_classifier --domain chexpert --weights FILE.safetensors

The library's command trains them, on phantoms in the real layouts; `demo/MODEL_CARD.md` has all of it. Here
they judge phantoms that no training has seen, and with `--vae` the same as its reconstructions, since CFRT is
measured on decoded images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo.phantoms import chest, dermoscopy
from demo.phantoms.decoded import load_vae, reconstruct
from medtraverse.notice import NOTICE
from medtraverse.training.classifier_scores import auc, calibration_error

DOMAINS = {
    "chexpert": (chest, ("support devices", "pleural effusion")),
    "isic": (dermoscopy, ("hair", "gel bubble", "ruler", "ink")),
}
IMAGE_SIZE = 128
# Apart from all that is trained on: the shipped classifiers were drawn their phantoms from the first range.
TRAINING_SEEDS, EVALUATION_SEEDS = (5_000_000, 6_000_000), 6_000_000


def draw(domain: str, seeds: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Phantoms uint8 [N, 3, H, W] and their labels float32 [N, L]."""
    phantom, labels = DOMAINS[domain]
    images = torch.empty(len(seeds), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    truth = torch.empty(len(seeds), len(labels))
    for index, seed in enumerate(seeds):
        factors = phantom.sample_factors(int(seed))
        image = phantom.render(factors, IMAGE_SIZE).image
        images[index] = torch.from_numpy((image * 255).round().astype(np.uint8)).permute(2, 0, 1)
        truth[index] = torch.tensor([float(getattr(factors, label.replace(" ", "_"))) for label in labels])
    return images, truth


def measure(domain: str, weights: Path | str | Sequence[Path], vae: str | None, count: int) -> dict[str, Any]:
    """AUC and calibration per label on phantoms never trained on.

    With a VAE, on their reconstructions too.
    """
    from medtraverse.classifier import load_classifier
    from medtraverse.labels import position

    classifier = load_classifier(weights)
    places = [position(label, classifier.labels) for label in DOMAINS[domain][1]]
    columns = [place for place in places if place is not None]
    if len(columns) < len(places):
        raise ValueError(
            f"weights: they judge {', '.join(classifier.labels)}; {domain} needs "
            f"{', '.join(DOMAINS[domain][1])}."
        )
    images, truth = draw(domain, EVALUATION_SEEDS + np.arange(count))
    sets = {"phantoms": images}
    if vae:
        sets["reconstructions"] = reconstruct(images, load_vae(vae))
    report: dict[str, Any] = {"notice": NOTICE, "images": count, "sha256": classifier.sha256}
    for name, group in sets.items():
        probability = classifier.predict(group.permute(0, 2, 3, 1).float() / 255).numpy()[:, columns]
        report[name] = {
            label: {
                "auc": round(auc(probability[:, i], truth[:, i].numpy()), 5),
                "ece": round(calibration_error(probability[:, i], truth[:, i].numpy()), 4),
            }
            for i, label in enumerate(DOMAINS[domain][1])
        }
    return report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo.judging.judge_classifier", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--domain", choices=sorted(DOMAINS), required=True)
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="of one network, or of several"
    )
    parser.add_argument("--vae", help="VAE folder in diffusers format")
    parser.add_argument("--count", type=int, default=1000, help="phantoms (default: %(default)s)")
    given = parser.parse_args(argv)
    try:
        print(json.dumps(measure(given.domain, given.weights, given.vae, given.count), indent=2))
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
