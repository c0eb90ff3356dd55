"""Training sets of phantoms, rendered once into memory maps under ``demo/cache``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from demo.phantoms import chest, dermoscopy
from medtraverse.whole_file import whole_files, write_text

DOMAINS = {"chest": chest, "dermoscopy": dermoscopy}
CACHE = Path(__file__).parents[1] / "cache"
SIZE = 128
# Patients with seeds from here on are for training; figures and tests draw theirs below.
FIRST_SEED = 1_000_000
_CHUNK = 200


class PhantomSet(NamedTuple):
    """Phantoms of one domain: memory maps, and the ``factors`` of each patient.

    ``images`` uint8 [N, H, W, 3]; ``thin`` uint8 [N, H, W], where thin structures lie.
    """

    domain: str
    images: np.ndarray
    thin: np.ndarray
    factors: list[chest.ChestFactors] | list[dermoscopy.DermoscopyFactors]


def held_out(count: int) -> int:
    """How many of `count` patients, the last ones, are kept out of training for the figures in its log."""
    return min(256, count // 2)


def phantom_set(domain: str, count: int, seed: int = 0, cache: Path = CACHE, workers: int = 2) -> PhantomSet:
    """Open the set of `count` patients, rendering it if the cache holds none that this source drew."""
    module = DOMAINS[domain]
    first = FIRST_SEED + seed * 100_000
    stamp = {
        "domain": domain,
        "count": count,
        "first": first,
        "size": SIZE,
        "drawing": _digest(module, first),
    }
    paths = [cache / f"{domain}-{part}.npy" for part in ("images", "thin")]
    note = cache / f"{domain}.json"
    if not note.exists() or json.loads(note.read_text()) != stamp:
        _render_all(domain, count, first, paths, workers)
        write_text(note, json.dumps(stamp))
    images, thin = (np.load(path, mmap_mode="r") for path in paths)
    return PhantomSet(domain, images, thin, [module.sample_factors(first + i) for i in range(count)])


def _digest(module: ModuleType, first: int) -> str:
    """Of the first eight phantoms: a change of any drawing shows, a change of the source alone does not."""
    drawn = (module.render(module.sample_factors(seed), SIZE).image for seed in range(first, first + 8))
    return hashlib.sha256(
        b"".join(np.round(image * 255).astype(np.uint8).tobytes() for image in drawn)
    ).hexdigest()


def _render_all(domain: str, count: int, first: int, paths: Sequence[Path], workers: int) -> None:
    with whole_files(paths[0].parent) as apart:
        parts = [apart / path.name for path in paths]
        for part, shape in zip(parts, ((count, SIZE, SIZE, 3), (count, SIZE, SIZE))):
            np.lib.format.open_memmap(part, "w+", np.uint8, shape).flush()
        jobs = [
            (domain, first, start, min(start + _CHUNK, count), parts) for start in range(0, count, _CHUNK)
        ]
        with ProcessPoolExecutor(workers) as pool:
            for done, stop in enumerate(pool.map(_render_chunk, jobs), 1):
                print(
                    f"\r{domain}: {stop}/{count} phantoms", end="\n" if done == len(jobs) else "", flush=True
                )


def _render_chunk(job: tuple[str, int, int, int, Sequence[Path]]) -> int:
    domain, first, start, stop, parts = job
    module = DOMAINS[domain]
    images, thin = (np.lib.format.open_memmap(part, "r+") for part in parts)
    for i in range(start, stop):
        drawn = module.render(module.sample_factors(first + i), SIZE)
        images[i] = np.round(drawn.image * 255)
        thin[i] = np.round(drawn.thin * 255)
    return stop
