"""Thumbnails of the Templates browser and pictures of the README, from the figures that a run left.

``python -m workflows.pictures FOLDER``, where FOLDER holds what ``python run.py demo`` or
``python -m medtraverse run`` wrote. A workflow's figures are those named after it, or in a folder so named.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from medtraverse.pixels import write_jpeg
from workflows.graphs import SUFFIX, names

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "docs" / "images"
SHOWN = (
    "02-fig3-swap-grid-chexpert",
    "04-fig4-latent-tsne",
    "05-fig5-direction-cosine",
    "06-fig6-bezier-isic",
)
THUMBNAIL, README_WIDTH, TITLE = (512, 512), 1100, 0.5  # pixels, pixels, inches
# Height of what is shown of a figure, in widths of it.
TALLEST = 1.13


def thumbnail(figures):
    """Return the figures, one under the other without their titles, fitted to the thumbnail on white."""
    figures = [
        figure.crop((0, int(TITLE * figure.info.get("dpi", (100,))[0]), *figure.size)).convert("RGB")
        for figure in figures
    ]
    # of a tall figure the top, where it can still be seen
    figures = [
        figure.crop((0, 0, figure.width, min(figure.height, int(TALLEST * figure.width))))
        for figure in figures
    ]
    width = max(figure.width for figure in figures)
    sheet = Image.new("RGB", (width, sum(figure.height for figure in figures)), "white")
    top = 0
    for figure in figures:
        sheet.paste(figure, (0, top))
        top += figure.height
    sheet.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    whole = Image.new("RGB", THUMBNAIL, "white")
    whole.paste(sheet, ((THUMBNAIL[0] - sheet.width) // 2, (THUMBNAIL[1] - sheet.height) // 2))
    return whole


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m workflows.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    for name in names():
        stem = name.removesuffix(SUFFIX)
        found = sorted(folder.rglob(f"{stem}*.png")) or sorted(folder.glob(f"{stem}/*.png"))
        if found:
            write_jpeg(thumbnail([Image.open(path) for path in found[:2]]), FOLDER / f"{name}.jpg")
            print(f"{name}.jpg from {', '.join(path.name for path in found[:2])}")
    for stem in SHOWN:
        for path in folder.rglob(f"{stem}.png"):
            figure = Image.open(path).convert("RGB")
            write_jpeg(
                figure.resize(
                    (README_WIDTH, figure.height * README_WIDTH // figure.width), Image.Resampling.LANCZOS
                ),
                README / f"{stem}.jpg",
                88,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
