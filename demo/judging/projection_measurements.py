"""What `demo.judging.evaluate_projection` measures on phantoms that stand for real images.

A phantom is drawn from known factors, so its true counterfactual, the same patient with the finding, is drawn
too. Measured block by block, in files that a stopped run continues from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.judging.measurements import Readers, Store, Study
from demo.judging.phantom_references import MODULES, NEUTRAL, through_vae
from demo.phantoms.phantom_set import SIZE
from demo.training.architecture import build_scheduler
from medtraverse import familiarity
from medtraverse.classifier import Classifier
from medtraverse.pixels import to_bytes
from medtraverse.plain_traversal import Model, traverse_images
from medtraverse.projection import OWN_NOISE, kept_outside

# Apart from the patients of every training and of `demo.judging.evaluate`.
PATIENTS_SEED = 8_000_000
SWAPS, REMOVALS = (25, 15, 10, 5), (15, 10, 5)
# A patient's path has a seed of its own, not the one that the phantom was drawn from.
PATH_SEED = 1
TOGETHER = 2  # attributes of each patient, taken in turn
NULL_EVERY = 10
# Where a finding changes a phantom by more than this, or within so many pixels of it, it may change an image.
CHANGED, BESIDE = 0.02, 5


@dataclass(frozen=True)
class Phantoms:
    """Phantoms of a block of patients, uint8 [P, H, W, 3] each, and their prompts."""

    without: np.ndarray
    having: np.ndarray
    neutral: list[str]
    attributes: list[list[str]]
    chosen: np.ndarray


def draw(study: Study, numbers: Sequence[int]) -> Phantoms:
    """Draw each patient without a finding and with each of its attributes, [P, TOGETHER, H, W, 3]."""
    from medtraverse.domain import load_domains

    domain, module = load_domains()[study.domain], MODULES[study.phantoms]
    attributes, labels = domain.select(), study.labels
    without, having, neutral, prompts, chosen = [], [], [], [], []
    for number in numbers:
        seed, plain = PATIENTS_SEED + number, NEUTRAL[study.phantoms]
        factors = module.sample_factors(seed, **plain)
        name = getattr(factors, "diagnosis", next(iter(domain.neutrals)))
        columns = [(TOGETHER * number + shift) % len(labels) for shift in range(TOGETHER)]
        without.append(to_bytes(module.render(factors, SIZE).image))
        flags = [plain | {labels[column].replace(" ", "_"): True} for column in columns]
        having.append(
            [to_bytes(module.render(module.sample_factors(seed, **each), SIZE).image) for each in flags]
        )
        neutral.append(domain.neutrals[name])
        prompts.append([domain.prompt(attributes[column], name) for column in columns])
        chosen.append(columns)
    return Phantoms(np.stack(without), np.array(having), neutral, prompts, np.array(chosen))


def outside(without: np.ndarray, having: np.ndarray) -> torch.Tensor:
    """Where two phantoms of a patient agree, bool [N, H, W], for uint8 [N, H, W, 3]; a margin is left out."""
    change = torch.from_numpy(np.abs(without.astype(np.float32) - having).max(-1) / 255)[:, None]
    near = F.max_pool2d((change > CHANGED).float(), 2 * BESIDE + 1, stride=1, padding=BESIDE)
    return near[:, 0] < 0.5


@torch.inference_mode()
def measure(
    study: Study,
    model: Model,
    classifier: Classifier,
    numbers: Sequence[int],
    readers: Readers,
    guidance: float = 7.5,
    steps: int = 50,
    method: str = OWN_NOISE,
) -> dict[str, np.ndarray]:
    """Project the patients `numbers`, add each attribute and remove one, and measure.

    Returns
    -------
    dict of ndarray
        "number" [P]; "chosen" [P, K] columns of the labels. Of images without the finding, added at `SWAPS`,
        point 0 the image itself: "classifier", "oracle" [P, K, 1 + swaps, L], "anatomy" [P, K, 1 + swaps, A],
        "outside" and "truth" [P, K, 1 + swaps], dB, the PSNR to the image outside the true region, and to the
        true counterfactual; "other" [P, K], dB, of the next patient with the attribute to this one with it.
        The same with the prefix "region_", kept to the automatic region, and with the prefix "removed_"
        [P, 1, 1 + removals, …], of images with the first of the attributes, which is taken away. "null" [P],
        largest change of a latent swapped to the source's own prompt, NaN but in every tenth patient. The
        measures of `medtraverse.familiarity` [P, 2], of the image without and with the first attribute.
    """
    labels = study.labels
    columns = [classifier.labels.index(label) for label in labels]
    drawn, seeds = draw(study, numbers), [PATH_SEED + number for number in numbers]
    following = draw(study, [number + len(labels) // TOGETHER for number in numbers])
    sampled = partial(traverse_images, model, steps=steps, guidance=guidance, method=method)

    def judge(latents: Tensor, source: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """Measure latents [P, K, N, …] beside images uint8 [P, K, H, W, 3], as they were and shall be."""
        shape = latents.shape[:3]
        rows = torch.cat([latents[:, 0, 0], latents[:, :, 1:].flatten(0, 2)])
        images = model.decode(rows)
        scores = classifier.predict(images)[:, columns].numpy()
        found = readers.read(study.phantoms, labels, to_bytes(images))
        index = np.zeros(shape, int)
        index[:, :, 0] = np.arange(shape[0])[:, None]
        index[:, :, 1:] = shape[0] + np.arange(len(rows) - shape[0]).reshape(shape[0], shape[1], -1)
        points = images[torch.from_numpy(index)]
        spared = outside(source.reshape(-1, *source.shape[2:]), truth.reshape(-1, *truth.shape[2:]))
        real = torch.from_numpy(through_vae(model, truth.reshape(-1, *truth.shape[2:]))).float() / 255
        away = [
            familiarity.psnr(points[:, :, n].flatten(0, 1), points[:, :, 0].flatten(0, 1), spared)
            for n in range(shape[2])
        ]
        near = [familiarity.psnr(points[:, :, n].flatten(0, 1), real) for n in range(shape[2])]
        return {
            "classifier": scores[index],
            "oracle": found[index][..., : len(labels)],
            "anatomy": found[index][..., len(labels) :],
            "outside": torch.stack(away, -1).reshape(shape).numpy(),
            "truth": torch.stack(near, -1).reshape(shape).numpy(),
        }

    def prefixed(name: str, record: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {f"{name}_{key}": value for key, value in record.items()}

    pixels = torch.from_numpy(drawn.without).float() / 255
    latents = model.project(pixels)
    added = sampled(drawn.neutral, drawn.attributes, latents, seeds, SWAPS)
    own = latents[:, None, None].expand(added.shape).flatten(0, 2)
    region = kept_outside(added.flatten(0, 2), own).reshape(added.shape)
    source = np.repeat(drawn.without[:, None], TOGETHER, 1)
    record = {"number": np.array(numbers), "chosen": drawn.chosen}
    record |= judge(added, source, drawn.having) | prefixed("region", judge(region, source, drawn.having))
    others = torch.from_numpy(through_vae(model, following.having.reshape(-1, *pixels.shape[1:]))).float()
    truths = torch.from_numpy(through_vae(model, drawn.having.reshape(-1, *pixels.shape[1:]))).float()
    record["other"] = familiarity.psnr(others / 255, truths / 255).reshape(drawn.chosen.shape).numpy()

    with_first = torch.from_numpy(drawn.having[:, 0]).float() / 255
    found = model.project(with_first)
    first = [prompts[0] for prompts in drawn.attributes]
    removed = sampled(first, [[prompt] for prompt in drawn.neutral], found, seeds, REMOVALS)
    record |= prefixed("removed", judge(removed, drawn.having[:, :1], drawn.without[:, None]))

    record["null"] = np.full(len(numbers), np.nan)
    some = [index for index, number in enumerate(numbers) if number % NULL_EVERY == 0]
    if some:
        prompts = [drawn.neutral[index] for index in some]
        half, model.half = model.half, False  # in bfloat16 the batch's size shows in the third digit
        swapped = sampled(
            prompts,
            [[prompt] for prompt in prompts],
            latents[some],
            [seeds[i] for i in some],
            (5,),
        )
        model.half = half
        record["null"][some] = (swapped - swapped[:, :, :1]).abs().amax((1, 2, 3, 4, 5)).numpy()

    both = [
        familiar(model, classifier, images, z0, prompts, seeds)
        for images, z0, prompts in ((pixels, latents, drawn.neutral), (with_first, found, first))
    ]
    return record | {name: np.stack([values[name] for values in both], 1) for name in familiarity.MEASURES}


def familiar(
    model: Model,
    classifier: Classifier,
    images: Tensor,
    latents: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """The measures of `medtraverse.familiarity` of images [N, H, W, 3], under their prompts: [N] each."""
    alphas = build_scheduler().alphas_cumprod.double()[list(familiarity.PROBES)]
    sigmas = ((1 - alphas) / alphas).sqrt().float()
    states = familiarity.probes(latents, seeds, sigmas)
    times = torch.tensor(familiarity.PROBES).repeat(len(latents))
    words = model.encode(prompts).repeat_interleave(len(sigmas), 0)
    scale = alphas.sqrt().float().reshape(1, -1, 1, 1, 1)
    noise = model.noise((states * scale).flatten(0, 1).to(model.device), times, words).cpu()
    denoised = states - sigmas.reshape(1, -1, 1, 1, 1) * noise.reshape(states.shape)
    decoded = model.decode(latents)
    return {
        "round_trip": familiarity.psnr(decoded, images).numpy(),
        "latent_norm": familiarity.latent_norm(latents).numpy(),
        "model_error": familiarity.model_error(denoised, latents, sigmas).numpy(),
        "doubt": familiarity.doubt(classifier.predict(images)).numpy(),
    }


def collect(
    study: Study,
    store: Store,
    model: Model,
    classifier: Classifier,
    patients: int,
    block: int,
    readers: Readers,
    minutes: float = math.inf,
    **sampling: Any,
) -> dict[str, np.ndarray]:
    """Measure those of `patients` patients that the store lacks, and return the measurements of all.

    After `minutes` no further block is begun; `sampling` is for `measure`.
    """
    limit = time.monotonic() + 60 * minutes
    left = sorted(set(range(patients)) - store.done())
    for start in range(0, len(left), block):
        begun = time.monotonic()
        if begun > limit:
            break
        numbers = left[start : start + block]
        store.save(measure(study, model, classifier, numbers, readers, **sampling))
        print(
            f"{study.name}: patients {numbers[0]}–{numbers[-1]} of {patients}, "
            f"{(time.monotonic() - begun) / len(numbers):.1f} s each",
            flush=True,
        )
    kept: dict[str, np.ndarray] = store.load(patients)
    return kept
