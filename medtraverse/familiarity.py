"""Whether an image lies in the world that a model knows: four measures, and how they are for images that do.

A projection takes any image. What comes out for one that the model has never seen the like of means little,
and nothing in the picture says so. So each image is measured, and the values stand beside the quantiles of
images that the model knows.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .whole_file import write_text

# Timesteps, of 1000 in training, at which the model's own error is taken.
PROBES = (801, 601, 401, 201)
QUANTILES = (0.005, 0.05, 0.5, 0.95, 0.995)
# An image is far when it lies beyond the outer quantiles by more than this share of the range between them.
MARGIN = 0.1
# Images below which the outer quantiles say nothing.
ENOUGH = 20


@dataclass(frozen=True)
class Measure:
    """One measure of an image: its name, what its value says, in which unit, and which side is far."""

    name: str
    says: str
    unit: str
    low: bool
    high: bool


MEASURES = {
    "round_trip": Measure("VAE round trip", "the VAE gives it back with", "dB", low=True, high=False),
    "latent_norm": Measure("latent norm", "its latent has a norm of", "", low=True, high=True),
    "model_error": Measure(
        "model's error", "the model mistakes the noise in it by", "", low=False, high=True
    ),
    "doubt": Measure("classifier's doubt", "the classifier's doubt is", "", low=False, high=True),
}


def psnr(images: torch.Tensor, references: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Peak signal-to-noise ratio of image pairs [N, H, W, C] in 0…1, in dB: [N], float64.

    ``where``, bool [N, H, W], says which pixels count; NaN for an image without any, ∞ for equal ones.
    """
    square = (images.double() - references.double()).square().mean(dim=-1)
    if where is None:
        return -10 * square.mean(dim=(1, 2)).log10()
    return -10 * ((square * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2))).log10()


def latent_norm(latents: torch.Tensor) -> torch.Tensor:
    """Root mean square of latents [N, C, h, w] in diffusers' scale: [N]; about 1."""
    return latents.double().square().mean(dim=(1, 2, 3)).sqrt()


def probes(latents: torch.Tensor, seeds: Sequence[int], sigmas: torch.Tensor) -> torch.Tensor:
    """Noise latents [N, C, h, w] in diffusers' scale at each of `PROBES`: x, [N, probes, C, h, w].

    ``sigmas`` [probes] are σ at those timesteps. An image's noise is of its own seed.
    """
    shape = (len(sigmas), *latents.shape[1:])
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return latents[:, None] + sigmas.reshape(1, -1, 1, 1, 1) * noise


def model_error(denoised: torch.Tensor, latents: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the predicted noise, over the probes: [N]; the loss of training.

    Parameters
    ----------
    denoised : Tensor [N, probes, C, h, w]
        The model's predictions for `probes`, without guidance.
    latents : Tensor [N, C, h, w]
    sigmas : Tensor [probes]
    """
    error = (denoised - latents[:, None]) / sigmas.reshape(1, -1, 1, 1, 1)
    return error.double().square().mean(dim=(1, 2, 3, 4))


def doubt(probabilities: torch.Tensor) -> torch.Tensor:
    """How undecided a classifier is, [N] in 0…1, from probabilities [N, labels].

    1 − |2p − 1| of the label that it is least sure of.
    """
    return (1 - (2 * probabilities.double() - 1).abs()).max(dim=1).values


def quantiles(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the `QUANTILES` of each measure over many images."""
    return {
        name: [round(float(value), 6) for value in np.quantile(np.asarray(rows, float), QUANTILES)]
        for name, rows in values.items()
    }


def write_known(
    path: str | os.PathLike[str], values: Mapping[str, Any], classifiers: Sequence[str], **made: Any
) -> None:
    """Write the quantiles of images that a model knows.

    Parameters
    ----------
    path : path
        Beside the weights: NAME.known.json for a file, known.json in a folder.
    values : mapping of str to sequence
        Each measure of many images.
    classifiers : sequence of str
        Digests of the classifiers whose doubt it is.
    made
        Where the images come from, for who reads the file.
    """
    record = {**made, "classifiers": list(classifiers), "quantiles": quantiles(values)}
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_reports(paths: Sequence[str | os.PathLike[str]]) -> tuple[dict[str, list[float]], list[str]]:
    """Read the measures of images from reports of `ProjectToLatent`, with which `write_known` is fed.

    Parameters
    ----------
    paths : sequence of path
        JSON files, the node's `report` each. Their images are of one world and one model.

    Returns
    -------
    values : dict of str to list of float
        Each measure that every report has, of all images.
    classifiers : list of str
        Digests of the classifiers whose doubt it is; empty where some image had none.

    Raises
    ------
    ValueError
        A file is no such report, the reports are of different models, or of fewer than `ENOUGH` images
        together.
    """
    images: list[dict[str, Any]] = []
    models, judges = set(), set()
    for path in paths:
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            images += [dict(image) for image in report["images"]]
            models.add(report["model"])
            judges.add(report["classifier"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: it is no report of Project to Latent ({error}); save that node's report as JSON."
            ) from error
    if len(models) > 1:
        raise ValueError(
            f"reports: they are of {len(models)} models ({', '.join(sorted(map(str, models)))}); "
            "give those of one."
        )
    if len(images) < ENOUGH:
        raise ValueError(
            f"reports: they hold {len(images)} images; quantiles want {ENOUGH} or more, "
            "so project more images that the model knows."
        )
    values = {
        name: [float(image[name]) for image in images]
        for name in MEASURES
        if all(image.get(name) is not None for image in images)
    }
    if None in judges:
        values.pop("doubt", None)
    return values, sorted(judges - {None}) if "doubt" in values else []


def read_known(path: str | os.PathLike[str]) -> tuple[dict[str, list[float]], tuple[str, ...]]:
    """Read the quantiles of images that a model knows, and the digests of the classifiers whose doubt it is.

    Raises ValueError for a file of another kind.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {name: [float(value) for value in values] for name, values in record["quantiles"].items()}
        if all(len(values) == len(QUANTILES) for values in known.values()):
            return known, tuple(map(str, record["classifiers"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: it holds no quantiles of known images ({error}); remove it, or write it anew."
        ) from error
    raise ValueError(f"{path}: its quantiles are not the five that are asked for; write it anew.")


def is_far(name: str, value: float, known: Sequence[float]) -> bool:
    """Say whether a value of a measure lies outside what known images have."""
    low, high = known[0], known[-1]
    margin = MARGIN * (high - low)
    measure = MEASURES[name]
    return (measure.low and value < low - margin) or (measure.high and value > high + margin)


def sentences(
    values: Mapping[str, Sequence[float]], known: Mapping[str, Sequence[float]] | None
) -> list[str]:
    """Say of each image that is far from what the model knows by how much, and of the rest nothing.

    Parameters
    ----------
    values : mapping of str to sequence
        Each measure of each image.
    known : mapping, optional
        Quantiles of known images; None where nothing is stored for the model.

    Returns
    -------
    list of str
        One sentence for each image; empty for one that is not far.
    """
    count = len(next(iter(values.values())))
    if known is None:
        return [""] * count
    said = []
    for number in range(count):
        far = [
            f"{measure.says} {told(values[name][number], measure.unit)} "
            f"(images that it knows: {told(known[name][0])} … {told(known[name][-1], measure.unit)})"
            for name, measure in MEASURES.items()
            if name in values and name in known and is_far(name, float(values[name][number]), known[name])
        ]
        said.append(f"image {number + 1} is far from what this model knows: {', '.join(far)}." if far else "")
    return said


def told(value: float, unit: str = "") -> str:
    """Return a value of a measure as text."""
    return f"{value:.3g} {unit}".rstrip()
