"""Write which images each demo model knows: quantiles of four measures over phantoms that no training saw.

    python -m demo.judging.known_images [--count 200]

`ProjectToLatent` compares an image with them, and says when it is far. They lie beside the weights. Synthetic
images. Not for clinical use.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from demo.judging.measurements import STUDIES
from demo.judging.projection_measurements import draw, familiar
from demo.training.architecture import WEIGHTS
from medtraverse.classifier import load_classifier
from medtraverse.familiarity import MEASURES, write_known
from medtraverse.notice import NOTICE
from medtraverse.plain_traversal import load_model

# After the patients of `demo.judging.evaluate_projection`.
FIRST = 100_000
# The file of each model, and the phantoms that it was trained on.
KNOWN = {
    "phantom-chexpert.known.json": ("phantom-chexpert.safetensors", ("chexpert",)),
    "phantom-confounded.known.json": ("phantom-confounded.safetensors", ("confounded",)),
    "phantom-isic.known.json": ("phantom-isic.safetensors", ("isic",)),
    "phantom-sd/known.json": (None, ("chexpert", "isic")),
}


def measured(unet: str | None, name: str, count: int, block: int = 8) -> tuple[dict[str, np.ndarray], str]:
    """Measures [2 · count] of a study's phantoms without and with a finding, and the classifier's digest."""
    study = STUDIES[name]
    model = load_model(WEIGHTS, WEIGHTS.parent / unet if unet else None)
    classifier = load_classifier(WEIGHTS.parent / f"classifier-{study.classifier}.safetensors")
    rows: dict[str, list[np.ndarray]] = {measure: [] for measure in MEASURES}
    for first in range(FIRST, FIRST + count, block):
        numbers = range(first, min(first + block, FIRST + count))
        drawn = draw(study, numbers)
        for images, prompts in (
            (drawn.without, drawn.neutral),
            (drawn.having[:, 0], [each[0] for each in drawn.attributes]),
        ):
            pixels = torch.from_numpy(images).float() / 255
            found = familiar(model, classifier, pixels, model.project(pixels), prompts, list(numbers))
            for measure, values in found.items():
                rows[measure].append(values)
    return {measure: np.concatenate(values) for measure, values in rows.items()}, classifier.sha256


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.judging.known_images", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=200, help="phantoms of each domain, drawn twice")
    parser.add_argument("--only", nargs="+", choices=tuple(KNOWN), default=list(KNOWN), help="files to write")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count is {args.count}; give 1 or more")
    for file in args.only:
        unet, names = KNOWN[file]
        parts = [measured(unet, name, args.count) for name in names]
        values = {name: np.concatenate([rows[name] for rows, _ in parts]) for name in MEASURES}
        images = f"{2 * args.count * len(names)} phantoms without and with a finding, seen by no training"
        write_known(
            WEIGHTS.parent / file, values, [judge for _, judge in parts], images=images, notice=NOTICE
        )
        print(file, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
