"""An oracle for the demo's phantoms: factors read back from an image by geometry and matched filters.

Synthetic images. Not for clinical use.

    python -m demo.judging.oracle --domain chest --count 300 [--blur 1 --noise 0.02] [--vae FOLDER]

It shares nothing with the classifiers: no weights, no labels, so that it can judge them, and it measures
identity: how far the anatomy moved along a trajectory, in units of the spread between patients. The command
draws phantoms and prints how well each factor is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo.judging import oracle_chest, oracle_dermoscopy
from demo.judging.oracle_chest import read_chest as _read_chest
from demo.judging.oracle_dermoscopy import read_dermoscopy as _read_dermoscopy
from demo.phantoms import chest, dermoscopy
from medtraverse.notice import NOTICE

SIZE = 128
DOMAINS = {"chest": (chest, oracle_chest), "dermoscopy": (dermoscopy, oracle_dermoscopy)}


def read_chest(image: np.ndarray) -> dict[str, float]:
    """Read a chest film, [H, W, 3] in 0..1, square.

    See `demo.judging.oracle_chest.read_chest` for what comes back.

    Raises
    ------
    ValueError
        Another shape or range.
    """
    return _read_chest(_checked(image).mean(-1))


def read_dermoscopy(image: np.ndarray) -> dict[str, float]:
    """Read a dermoscopic image, [H, W, 3] in 0..1, square.

    See `demo.judging.oracle_dermoscopy.read_dermoscopy` for what comes back.

    Raises
    ------
    ValueError
        Another shape or range.
    """
    return _read_dermoscopy(_checked(image))


def read(image: np.ndarray, domain: str) -> dict[str, float]:
    """`read_chest` or `read_dermoscopy`, by the name of the domain."""
    if domain not in DOMAINS:
        raise ValueError(f"domain: {domain!r} is unknown; choose one of {', '.join(DOMAINS)}.")
    return {"chest": read_chest, "dermoscopy": read_dermoscopy}[domain](image)


def anatomy(image: np.ndarray, domain: str) -> np.ndarray:
    """The patient in numbers, whatever the finding: float64 [A]; NaN where hidden.

    In the order of the domain module's ``ANATOMY``.
    """
    readouts = read(image, domain)
    return np.array([readouts[name] for name in DOMAINS[domain][1].ANATOMY])


def spread(vectors: np.ndarray) -> np.ndarray:
    """Between-patient spread [A] of anatomy vectors [N, A].

    Half the distance from their 16th to their 84th percentile.

    Raises
    ------
    ValueError
        Fewer than 20 patients, or an entry that does not vary.
    """
    vectors = np.asarray(vectors, float)
    if vectors.ndim != 2 or len(vectors) < 20:
        raise ValueError(
            f"vectors: they have shape {list(vectors.shape)}; give [N, A] of 20 patients or more."
        )
    low, high = np.nanpercentile(vectors, [16, 84], axis=0)
    if not (high > low).all():
        raise ValueError(
            f"vectors: entry {int(np.argmin(high - low))} does not vary between these patients; give others."
        )
    between: np.ndarray = (high - low) / 2
    return between


def moved(vectors: np.ndarray, reference: np.ndarray, between: np.ndarray) -> np.ndarray:
    """How far anatomy moved from a reference: 0 for the same, about 1 for another patient.

    Root mean square of the differences in units of `between` (from `spread`), over sqrt(2), which is what two
    unrelated patients are apart. Entries that either image hides do not count. Shapes [..., A], [..., A] and
    [A] give [...].
    """
    difference = (np.asarray(vectors, float) - np.asarray(reference, float)) / between
    distance: np.ndarray = np.sqrt(np.nanmean(difference**2, axis=-1) / 2)
    return distance


def attributes(factors: chest.ChestFactors | dermoscopy.DermoscopyFactors) -> dict[str, bool]:
    """What a phantom shows, under the names of the scores."""
    if isinstance(factors, chest.ChestFactors):
        parts = {
            name: factors.support_devices and getattr(factors, name) for name in ("pacemaker", "electrodes")
        }
        return {name: getattr(factors, name) for name in chest.ATTRIBUTES} | parts
    return {name: getattr(factors, name) for name in dermoscopy.ARTEFACTS} | {
        "melanoma": factors.diagnosis == "MEL"
    }


def truth(factors: chest.ChestFactors | dermoscopy.DermoscopyFactors) -> dict[str, float]:
    """What the geometric read-outs should follow, under their names; up to scale and offset."""
    f = factors
    if isinstance(f, chest.ChestFactors):
        heart = f.heart_ratio + f.enlargement * f.cardiomegaly
        dome = f.lung_bottom - f.dome
        height = f.lung_bottom - f.lung_top
        return {
            "midline": f.shift + f.lung_asymmetry,
            "rotation": f.rotation,
            "thorax_width": f.lung_width,
            "mediastinum_width": f.mediastinum,
            "tissue": f.tissue**f.gamma,
            "air": f.air**f.gamma,
            "rib_spacing": f.rib_spacing,
            "heart_width": heart,
            "heart_left": 1.3 * heart * f.lung_width,
            "heart_right": 0.7 * heart * f.lung_width,
            "diaphragm_left": f.lung_bottom,
            "diaphragm_right": dome - f.dome_difference,
            "lung_area_left": height * f.lung_width,
            "lung_area_right": height * f.lung_width,
        }
    light = {
        f"light_{axis}": f.light_strength * turn(f.light_angle)
        for axis, turn in (("x", np.cos), ("y", np.sin))
    }
    lean = {
        f"lesion_axis_{axis}": (f.lesion_elongation - 1) * turn(2 * f.lesion_angle)
        for axis, turn in (("x", np.cos), ("y", np.sin))
    }
    same = ("skin_tone", "skin_cast", "lesion_x", "lesion_y", "lesion_radius", "lesion_elongation")
    return light | lean | {name: getattr(f, name) for name in same} | {"lesion_grey": -f.lesion_pigment}


def evaluate(
    images: Sequence[np.ndarray],
    factors: Sequence[chest.ChestFactors | dermoscopy.DermoscopyFactors],
    domain: str,
) -> dict[str, dict[str, Any]]:
    """Scores and read-outs against the phantoms' factors.

    Returns
    -------
    dict
        "attributes": per name the AUC of the raw statistic, recall and false-positive rate at 0.5, and the
        number read;
        "readouts": per name Pearson's correlation with the factor over the images that show it.
    """
    readouts = [read(image, domain) for image in images]
    shown, true = [attributes(f) for f in factors], [truth(f) for f in factors]
    table: dict[str, dict[str, Any]] = {"attributes": {}, "readouts": {}}
    for name in DOMAINS[domain][1].THRESHOLDS:
        raw, score, present = (
            np.array([row[key] for row in rows], float)
            for rows, key in ((readouts, f"{name}_raw"), (readouts, name), (shown, name))
        )
        seen = np.isfinite(raw)
        raw, score, present = raw[seen], score[seen], present[seen] > 0
        table["attributes"][name] = {
            "auc": _auc(raw, present),
            "recall": float((score[present] > 0.5).mean()),
            "false_positives": float((score[~present] > 0.5).mean()),
            "read": int(seen.sum()),
        }
    for name in true[0]:
        value, target = np.array([row[name] for row in readouts]), np.array([row[name] for row in true])
        seen = np.isfinite(value)
        table["readouts"][name] = (
            float(np.corrcoef(value[seen], target[seen])[0, 1]) if seen.sum() > 2 else float("nan")
        )
    return table


def _auc(scores: np.ndarray, present: np.ndarray) -> float:
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    for value in np.unique(scores):
        ranks[scores == value] = ranks[scores == value].mean()
    positives = present.sum()
    return float(
        (ranks[present].sum() - positives * (positives + 1) / 2) / max(positives * (~present).sum(), 1)
    )


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image: it has shape {list(image.shape)}; give a square [H, W, 3].")
    if not (np.isfinite(image).all() and image.min() >= -0.01 and image.max() <= 1.01):
        raise ValueError(f"image: it runs from {image.min():.3g} to {image.max():.3g}; give values in 0…1.")
    if len(image) != SIZE:
        from PIL import Image

        filter_ = Image.Resampling.BOX if len(image) > SIZE else Image.Resampling.BICUBIC
        channels = (
            Image.fromarray(channel).resize((SIZE, SIZE), filter_) for channel in np.moveaxis(image, -1, 0)
        )
        image = np.clip(np.stack([np.asarray(channel) for channel in channels], -1), 0, 1)
    return image


def degraded(image: np.ndarray, blur: float, noise: float, seed: int) -> np.ndarray:
    """A stand-in for a VAE's output: Gaussian blur (pixels), then white noise (standard deviation)."""
    from scipy import ndimage

    grain = np.random.default_rng(seed).standard_normal(image.shape)
    blurred: np.ndarray = ndimage.gaussian_filter(image, (blur, blur, 0))
    return np.clip(blurred + noise * grain, 0, 1).astype(np.float32)


def reconstructed(images: Sequence[np.ndarray], folder: Path) -> list[np.ndarray]:
    """The images as a diffusers VAE in `folder` decodes their mean latents."""
    import torch
    from diffusers import AutoencoderKL

    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(folder).eval()
    decoded: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(images), 8):
            batch = torch.from_numpy(np.stack(images[start : start + 8])).permute(0, 3, 1, 2) * 2 - 1
            output = vae.decode(vae.encode(batch).latent_dist.mode()).sample
            decoded += list((output / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    return decoded


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.judging.oracle", description=__doc__.split("\n")[0])
    parser.add_argument("--domain", choices=tuple(DOMAINS), required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5_000_000, help="of the first phantom")
    parser.add_argument("--blur", type=float, default=0.0, help="sigma, pixels")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation")
    parser.add_argument("--vae", type=Path, help="read reconstructions by this diffusers VAE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    module = DOMAINS[given.domain][0]
    factors = [module.sample_factors(given.seed + index) for index in range(given.count)]
    images = [degraded(module.render(f, SIZE).image, given.blur, given.noise, f.seed) for f in factors]
    table = evaluate(reconstructed(images, given.vae) if given.vae else images, factors, given.domain)
    if given.json:
        print(json.dumps({"notice": NOTICE} | vars(given) | table, default=str, indent=2))
        return 0
    print(f"{'attribute':20}    AUC  recall  false+  read")
    for name, row in table["attributes"].items():
        print(
            f"{name:20} {row['auc']:6.3f}  {row['recall']:6.3f}  "
            f"{row['false_positives']:6.3f}  {row['read']:4d}"
        )
    print(f"\n{'read-out':20}      r")
    for name, value in table["readouts"].items():
        print(f"{name:20} {value:6.2f}")
    print(NOTICE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
