"""Contact sheets of the model card: phantoms, and patients that the model draws.

    python -m demo.judging.contact_sheet chexpert --out sheet.jpg

Patients are the first of `demo.judging.evaluate`, not chosen. Synthetic images. Not for clinical use.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from demo.judging.measurements import STUDIES, Study
from demo.judging.phantom_references import UNSEEN_SEED, draw_with
from demo.training.architecture import WEIGHTS
from medtraverse.domain import load_domains
from medtraverse.figures.grid import trajectory_grid
from medtraverse.figures.render import to_image
from medtraverse.notice import NOTICE
from medtraverse.pixels import to_bytes, write_jpeg
from medtraverse.plain_traversal import draw_noise, load_model, traverse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWAPS = (25, 20, 15, 10, 5)


def generated(study: Study, folder: Path, unet: Path | None, patients: int) -> Figure:
    """Grid of the model's first patients, neutral and swaps."""
    model = load_model(folder, unet)
    neutral, attributes = study.prompts(range(patients))
    seeds = [study.first_seed + number for number in range(patients)]
    latents = traverse(model, neutral, attributes, draw_noise(seeds, model.latent_shape), SWAPS)
    images = model.decode(latents.flatten(0, 2)).unflatten(0, latents.shape[:3])
    names, colours = _attributes(study)
    return trajectory_grid(
        images, names, colours, ["neutral", *map(str, SWAPS)], seeds, f"{study.name}: the model's patients"
    )


def phantoms(study: Study, patients: int) -> Figure:
    """Grid of unseen phantoms, the same patients drawn without and with each attribute."""
    names, _colours = _attributes(study)
    seeds = range(UNSEEN_SEED, UNSEEN_SEED + patients)
    shown = [[[draw_with(study.phantoms, label, seed) for seed in seeds]] for label in ("", *study.labels)]
    images = np.array(shown).transpose(2, 1, 0, 3, 4, 5) / 255
    points = ["neutral", *(name.replace(" ", "\n") for name in names)]
    return trajectory_grid(
        images, ["phantoms"], ["#808080"], points, list(seeds), f"{study.domain}: drawn phantoms"
    )


def _attributes(study: Study) -> tuple[list[str], list[str]]:
    chosen = load_domains()[study.domain].select()
    return [attribute.name for attribute in chosen], [attribute.colour for attribute in chosen]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.judging.contact_sheet", description=__doc__.splitlines()[0]
    )
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument(
        "--phantoms", action="store_true", help="drawn phantoms in place of the model's patients"
    )
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="diffusers folder of the base")
    parser.add_argument("--unet", type=Path, help="default: phantom-STUDY.safetensors beside the base")
    parser.add_argument("--out", type=Path, required=True, help="JPEG file")
    args = parser.parse_args(argv)
    if args.patients < 1:
        parser.error(f"--patients is {args.patients}; give 1 or more")
    if args.out.suffix.lower() not in (".jpg", ".jpeg") or not args.out.parent.is_dir():
        parser.error(f"--out is {args.out}; give a file that ends in .jpg, in a folder that is there")
    study = STUDIES[args.study]
    if args.phantoms:
        figure = phantoms(study, args.patients)
    else:
        unet = args.unet or args.model.parent / f"phantom-{args.study}.safetensors"
        try:
            figure = generated(study, args.model, unet, args.patients)
        except ValueError as error:
            parser.error(str(error))
    write_jpeg(Image.fromarray(to_bytes(to_image(figure))), args.out, 85)
    print(f"{args.out}\n{NOTICE}")


if __name__ == "__main__":
    main()
