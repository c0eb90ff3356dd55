"""Phantoms in the folder layouts of CheXpert and ISIC 2019; fine-tuning reads them as it reads the real sets.

    python -m demo.phantoms.layouts chexpert --count 2000 --out data [--correlation 0.8 --unmentioned 0.6]
    python -m demo.phantoms.layouts isic --count 2000 --out data

Synthetic images. Not for clinical use. A run that was stopped goes on where it was; the CSV file is written
last.

How CheXpert's labels are written: a finding that is drawn is 1. One that is not drawn is blank, 0 or -1
(uncertain) as `ABSENT` says, so that a caption, which counts only 1, always tells what the film shows. The
labels that phantoms do not draw are written as findings not drawn. `No Finding` is 1 on a share
(`NO_FINDING`) of the films on which no pathology is 1 or -1, as CheXpert's labeller has it: devices are no
pathology, so the two may stand together. It is blank otherwise, which leaves films for the paper's neutral
sentence. Sex, age and projection are drawn at random and show in nothing.

`unmentioned` breaks the rule that a caption tells what the film shows, as hospitals do: CheXpert's labels
come from reports, and one about a patient's fluid may say nothing of the drain and the leads. On that share
of the films that show both, the devices are left blank.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from demo.phantoms import chest, dermoscopy
from medtraverse.data_sets.chexpert import LABELS
from medtraverse.notice import NOTICE
from medtraverse.pixels import to_bytes, write_jpeg
from medtraverse.whole_file import write_text

ISIC_COLUMNS = (
    "MEL",
    "NV",
    "BCC",
    "AK",
    "BKL",
    "DF",
    "VASC",
    "SCC",
    "UNK",
    "dark_corner",
    "hair",
    "gel_border",
    "gel_bubble",
    "ruler",
    "ink",
    "patches",
)
ABSENT = {"": 0.62, "0.0": 0.35, "-1.0": 0.03}
# Share of the films without pathology, by whether they show devices.
NO_FINDING = {False: 0.5, True: 0.15}
DEVICES = 0.45  # their prevalence in `demo.phantoms.chest`
# Patients apart from those of the base training (1,000,000 and up) and of the oracle (4,000,000 and up).
FIRST_SEED, STRIDE = 2_000_000, 100_000
_LABELS, _DEVICES, _UNMENTIONED, _DECODED = 0x1AB, 0xDE1, 0x0FF, 0xDEC
WOBBLE = 0.2  # of a decoded image, in standard deviations of the latents
# An image's path, what is drawn in it, and its row of the table.
Row = tuple[Path, chest.ChestFactors | dermoscopy.DermoscopyFactors, Sequence[str | int]]


def write_chexpert(
    out: Path,
    count: int,
    seed: int = 0,
    correlation: float = 0.0,
    size: int = 128,
    unmentioned: float = 0.0,
    vae: str | None = None,
    decoded: float = 0.0,
) -> Path:
    """Write ``CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg`` ...

    and ``CheXpert-v1.0/train.csv``.

    Parameters
    ----------
    out : path
        Folder that gets, or has part of, the data set's folder.
    count, seed : int
        1..100,000 patients; set 0..19. Sets share no patient.
    correlation : float
        Pearson's correlation of the flags support devices and pleural effusion, 0..1. Their prevalences do
        not change.
    size : int
        Side of the images, 64 or more.
    unmentioned : float
        Share of the films with both devices and effusion whose devices are left blank, 0..1.
    vae, decoded : str, float
        Folder of a VAE, and the share of the images that are written as it gives them back, with some noise
        on their latents: a classifier that learns them too judges decoded latents by the same measure.

    Returns
    -------
    Path
        Of the CSV file; `medtraverse.data_sets.read` takes `out`.

    Raises
    ------
    ValueError
        A parameter out of range, or a folder that holds another set.
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation: {correlation} is out of range; give 0 to 1.")
    if not 0 <= unmentioned <= 1:
        raise ValueError(f"unmentioned: {unmentioned} is out of range; give 0 to 1.")
    root = Path(out) / "CheXpert-v1.0"

    def rows() -> Iterator[Row]:
        for number, patient in enumerate(_patients(count, seed), 1):
            factors = chest_factors(patient, correlation)
            image = f"train/patient{number:05d}/study1/view1_frontal.jpg"
            yield root / image, factors, [f"{root.name}/{image}", *_film(factors, unmentioned)]

    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
    made = {
        "layout": "CheXpert",
        "count": count,
        "seed": seed,
        "correlation": correlation,
        "unmentioned": unmentioned,
        "size": size,
    }
    return _write(root, root / "train.csv", made, header, rows(), chest, "L", vae, decoded)


def write_isic(
    out: Path, count: int, seed: int = 0, size: int = 128, vae: str | None = None, decoded: float = 0.0
) -> Path:
    """Write ``ISIC_2019_Training_Input/ISIC_0000001.jpg`` ...

    and ``ISIC_2019_Training_GroundTruth.csv`` with artefact columns.

    Parameters, result and errors as for `write_chexpert`; `out` is for `medtraverse.data_sets.read`.
    """
    root = Path(out) / "ISIC_2019_Training_Input"

    def rows() -> Iterator[Row]:
        for number, patient in enumerate(_patients(count, seed), 1):
            factors = dermoscopy.sample_factors(patient)
            present = {factors.diagnosis, *(name for name in dermoscopy.ARTEFACTS if getattr(factors, name))}
            cells = [
                f"{float(name in present)}" if name.isupper() else f"{int(name in present)}"
                for name in ISIC_COLUMNS
            ]
            yield root / f"ISIC_{number:07d}.jpg", factors, [f"ISIC_{number:07d}", *cells]

    made = {"layout": "ISIC 2019", "count": count, "seed": seed, "size": size}
    return _write(
        root,
        Path(out) / "ISIC_2019_Training_GroundTruth.csv",
        made,
        ["image", *ISIC_COLUMNS],
        rows(),
        dermoscopy,
        "RGB",
        vae,
        decoded,
    )


def chest_factors(patient: int, correlation: float = 0.0) -> chest.ChestFactors:
    """The patient, its support devices drawn given the effusion so that the flags have this correlation."""
    factors = chest.sample_factors(patient)
    if not correlation:
        return factors
    share = DEVICES + correlation * (1 - DEVICES) if factors.pleural_effusion else DEVICES * (1 - correlation)
    draw = np.random.default_rng((patient, _DEVICES)).random()
    return chest.sample_factors(patient, support_devices=bool(draw < share))


def _patients(count: int, seed: int) -> range:
    if not 1 <= count <= STRIDE:
        raise ValueError(f"count: {count} is out of range; a set has 1 to {STRIDE:,} patients.")
    if not 0 <= seed < 20:
        raise ValueError(f"seed: {seed} is out of range; sets are numbered 0 to 19.")
    return range(FIRST_SEED + seed * STRIDE, FIRST_SEED + seed * STRIDE + count)


def _film(factors: chest.ChestFactors, unmentioned: float = 0.0) -> list[str | int]:
    """Cells after `Path`."""
    rng = np.random.default_rng((factors.seed, _LABELS))
    sex, age, projection = (
        rng.choice(["Female", "Male"]),
        int(rng.integers(18, 91)),
        rng.choice(["AP", "PA"], p=[0.8, 0.2]),
    )
    drawn = {
        "Cardiomegaly": factors.cardiomegaly,
        "Pleural Effusion": factors.pleural_effusion,
        "Support Devices": factors.support_devices,
    }
    absent = rng.choice(list(ABSENT), size=len(LABELS), p=list(ABSENT.values()))
    cells = {name: "1.0" if drawn.get(name) else str(cell) for name, cell in zip(LABELS, absent)}
    healthy = all(cells[name] in ("", "0.0") for name in LABELS[1:-1])
    if (
        factors.support_devices
        and factors.pleural_effusion
        and np.random.default_rng((factors.seed, _UNMENTIONED)).random() < unmentioned
    ):
        cells["Support Devices"] = ""
    cells["No Finding"] = "1.0" if healthy and rng.random() < NO_FINDING[factors.support_devices] else ""
    return [sex, age, "Frontal", projection, *cells.values()]


def _write(
    root: Path,
    table: Path,
    made: dict[str, Any],
    header: Sequence[str],
    rows: Iterable[Row],
    module: ModuleType,
    mode: str,
    vae: str | None,
    decoded: float,
) -> Path:
    if bool(decoded) != (vae is not None) or not 0 <= decoded <= 1:
        raise ValueError(
            f"decoded: {decoded} with vae {vae}; give a VAE and a share above 0, to 1, or neither."
        )
    if decoded:
        made = made | {"decoded": decoded}
    model: Any = None
    note = table.with_suffix(".json")
    stamp = json.dumps(made | {"notice": NOTICE}, indent=2) + "\n"
    if note.exists():
        if note.read_text() != stamp:
            raise ValueError(
                f"{note.parent}: holds another set ({note.name} says which); give an empty folder."
            )
    elif table.exists() or (root.exists() and any(root.iterdir())):
        raise ValueError(f"{root}: holds files, but no {note.name} that says of what; give an empty folder.")
    lines: list[Sequence[str | int]] = []
    for image, factors, cells in rows:  # the first row checks the parameters, before anything is written
        if not lines:
            write_text(note, stamp)
        if not image.exists():
            picture = module.render(factors, made["size"]).image
            if decoded and np.random.default_rng((factors.seed, _DECODED)).random() < decoded:
                picture, model = _decoded(picture, vae, model, factors.seed)
            _write_image(picture, image, mode)
        lines.append(cells)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    write_text(table, text.getvalue())
    return table


def _decoded(picture: np.ndarray, vae: str | None, model: Any, seed: int) -> tuple[np.ndarray, Any]:
    """Return a picture as the VAE gives it back, and the VAE, read once."""
    import torch

    from demo.phantoms.decoded import load_vae, reconstruct

    model = model or load_vae(str(vae))
    pixels = torch.from_numpy(to_bytes(picture)).permute(2, 0, 1)[None]
    return reconstruct(pixels, model, WOBBLE, seed)[0].permute(1, 2, 0).numpy() / 255, model


def _write_image(image: np.ndarray, path: Path, mode: str) -> None:
    from PIL import Image

    # no chroma subsampling: it would halve the resolution of ink and coloured lesions
    options = {"subsampling": 0} if mode == "RGB" else {}
    write_jpeg(Image.fromarray(to_bytes(image)).convert(mode), path, 95, **options)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo.phantoms.layouts", description=__doc__.split("\n")[0]
    )
    parser.add_argument("layout", choices=("chexpert", "isic"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument(
        "--correlation",
        type=float,
        default=0.0,
        help="of support devices and pleural effusion, 0..1 (chexpert only)",
    )
    parser.add_argument(
        "--unmentioned",
        type=float,
        default=0.0,
        help="share of the devices beside effusions that are left blank, 0..1 (chexpert only)",
    )
    parser.add_argument("--vae", metavar="FOLDER", help="of the VAE for --decoded")
    parser.add_argument(
        "--decoded", type=float, default=0.0, help="share of the images that go through the VAE, 0..1"
    )
    given = parser.parse_args(argv)
    try:
        if given.layout == "isic":
            for name in ("correlation", "unmentioned"):
                if getattr(given, name):
                    raise ValueError(
                        f"{name}: {getattr(given, name)} is given, but isic has none; leave it out."
                    )
            table = write_isic(given.out, given.count, given.seed, given.size, given.vae, given.decoded)
        else:
            table = write_chexpert(
                given.out,
                given.count,
                given.seed,
                given.correlation,
                given.size,
                given.unmentioned,
                given.vae,
                given.decoded,
            )
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{given.count} phantoms; {table}\n{NOTICE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
