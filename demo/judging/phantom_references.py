"""What `demo.judging.evaluate` compares generated patients with.

Phantoms that no training saw, and every image that a training did see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from demo.judging.measurements import Readers
from demo.judging.scores import nearest, repeat_distance, thumbnails
from demo.phantoms import chest, dermoscopy, layouts
from demo.phantoms.phantom_set import FIRST_SEED, SIZE
from demo.training.architecture import SCALING
from medtraverse.pixels import to_bytes
from medtraverse.whole_file import whole_file

if TYPE_CHECKING:
    from medtraverse.plain_traversal import Model

# First seed, count and correlation of a training's phantoms.
Trained = tuple[int, int, float]

# Apart from the base's patients (1,000,000 and up), the fine-tunes' (2,000,000), the oracle's (4,000,000) and
# the classifiers' (5,000,000 to 7,000,000).
UNSEEN_SEED = 7_000_000
UNSEEN = 300
NEUTRAL = {
    "chest": dict.fromkeys(chest.ATTRIBUTES, False),
    "dermoscopy": dict.fromkeys(dermoscopy.ARTEFACTS, False),
}
MODULES = {"chest": chest, "dermoscopy": dermoscopy}


def draw(domain: str, correlation: float, neutral: bool, seed: int) -> np.ndarray:
    """The patient's phantom as uint8 [H, W, 3]."""
    if neutral:
        factors = MODULES[domain].sample_factors(seed, **NEUTRAL[domain])
    else:
        factors = (
            layouts.chest_factors(seed, correlation) if domain == "chest" else dermoscopy.sample_factors(seed)
        )
    return to_bytes(MODULES[domain].render(factors, SIZE).image)


def _draw_thumbnail(domain: str, correlation: float, seed: int) -> np.ndarray:
    thumbnail: np.ndarray = thumbnails(draw(domain, correlation, False, seed)[None])[0]
    return thumbnail


def training_images(folder: Path, unet: Path | None, domain: str) -> list[Trained]:
    """Which phantoms the model was trained on, from the logs beside its weights.

    (first seed, count, correlation) of each set.

    Raises
    ------
    ValueError
        The base or the fine-tuned U-Net has no log, or was trained on other images than phantoms.
    """
    log = _log(folder / "training-log.json")
    sets = [(FIRST_SEED + 100_000 * log["seed"], log["phantoms_per_domain"], 0.0)]
    if unet is not None:
        made = _log(unet.with_suffix(".json"))["phantoms"]
        if made is None:
            raise ValueError(
                f"unet: {unet.name} was not trained on phantoms that can be drawn again; give one that was."
            )
        if (made["layout"] == "chexpert") == (domain == "chest"):
            sets.append(
                (layouts.FIRST_SEED + layouts.STRIDE * made["seed"], made["count"], made["correlation"])
            )
    return sets


def _log(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"model: {path} is missing, which says what the weights were trained on; put it beside them."
        )
    log: dict[str, Any] = json.loads(path.read_text())
    return log


def training_thumbnails(sets: Sequence[Trained], domain: str, cache: Path, readers: Readers) -> np.ndarray:
    """Thumbnails float32 [M, D] of all training images, kept below `cache`."""
    key = hashlib.sha256(f"{sets} {draw(domain, 0.0, False, UNSEEN_SEED).tobytes()!r}".encode()).hexdigest()[
        :12
    ]
    path = cache / f"training-{domain}-{key}.npy"
    if not path.exists():
        pieces = [
            readers.map(partial(_draw_thumbnail, domain, correlation), range(first, first + count), chunk=64)
            for first, count, correlation in sets
        ]
        with whole_file(path) as part:
            np.save(part, np.concatenate([np.stack(piece) for piece in pieces]).astype(np.float16))
    images: np.ndarray = np.load(path).astype(np.float32)
    return images


@torch.inference_mode()
def through_vae(model: Model, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """Images uint8 [N, H, W, 3] as the model's VAE gives them back."""
    decoded = []
    for piece in torch.from_numpy(images).split(batch):
        pixels = piece.to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded.append(to_bytes(model.decode(SCALING * model.vae.encode(pixels).latent_dist.mode())))
    return np.concatenate(decoded)


def unseen_neutrals(domain: str, count: int, readers: Readers) -> np.ndarray:
    """Phantoms without any attribute that no training saw: uint8 [N, H, W, 3]."""
    return np.stack(readers.map(partial(draw, domain, 0.0, True), range(UNSEEN_SEED, UNSEEN_SEED + count)))


def draw_with(domain: str, label: str, seed: int) -> np.ndarray:
    """The patient's phantom with one attribute, named as the classifier's label, and no other.

    With none for "". uint8 [H, W, 3].
    """
    flags = NEUTRAL[domain] | ({label.replace(" ", "_"): True} if label else {})
    return to_bytes(MODULES[domain].render(MODULES[domain].sample_factors(seed, **flags), SIZE).image)


def drawn_attributes(
    model: Model, domain: str, labels: Sequence[str], count: int, readers: Readers
) -> np.ndarray:
    """Anatomy [count, 1 + K, A] of unseen phantoms drawn without and with each of K attributes.

    All are read through the VAE. Nothing has moved between them: what the read-outs differ by is the oracle's
    own error.
    """
    seeds = range(UNSEEN_SEED, UNSEEN_SEED + count)
    drawn = [
        through_vae(model, np.stack(readers.map(partial(draw_with, domain, label), seeds)))
        for label in ("", *labels)
    ]
    return np.stack([readers.read(domain, (), images) for images in drawn], 1)


def memorisation(
    model: Model,
    neutrals: np.ndarray,
    sets: Sequence[Trained],
    domain: str,
    cache: Path,
    readers: Readers,
) -> dict[str, Any]:
    """Distances, at thumbnail size, of generated neutrals uint8 [N, H, W, 3] to the nearest training image.

    Returns
    -------
    dict
        "nearest" [N]; "threshold", how far two renderings of one patient lie apart: a training image, and the
        same as the VAE gives it back, which is what a memorised patient would look like (95th percentile of
        200); "unseen", the nearest training image of unseen neutral phantoms through the VAE, which cannot
        have been memorised; "training", how many images there are.
    """
    training = training_thumbnails(sets, domain, cache, readers)
    first, _, correlation = sets[-1]
    patients = np.stack(
        readers.map(partial(draw, domain, correlation, False), range(first, first + min(200, sets[-1][1])))
    )
    threshold = repeat_distance(thumbnails(patients), thumbnails(through_vae(model, patients)))
    unseen = thumbnails(through_vae(model, unseen_neutrals(domain, UNSEEN, readers)))
    return {
        "nearest": nearest(thumbnails(neutrals), training),
        "threshold": threshold,
        "unseen": nearest(unseen, training),
        "training": len(training),
    }
