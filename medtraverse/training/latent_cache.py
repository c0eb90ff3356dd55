"""Latents of all images, encoded once: mean and log variance of each, fp16, on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data_sets import read_pixels
from ..whole_file import write_text
from .shards import Shards, check_room, fill

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .base_model import Base

PIECE = 16
BROKEN = ".broken.json"


def image_digest(root: Path, files: Sequence[str], further: Sequence[str] = ()) -> str:
    """Return the SHA-256 of images by name and size in bytes, and of further words on each.

    Contents are not read: a hundred thousand films would take minutes at every start.
    """
    digest = hashlib.sha256()
    words = further or [""] * len(files)
    for file, word in zip(files, words, strict=True):
        try:
            size = (root / file).stat().st_size
        except OSError:
            size = -1
        digest.update(json.dumps([file, size, word]).encode())
    return digest.hexdigest()


def latent_shards(cache: Path, images: str, count: int, size: int, fit: str, base: Base) -> Shards:
    """Return where the moments of a list of images lie: the key is all that they depend on.

    Parameters
    ----------
    cache : Path
    images : str
        `image_digest` of them.
    count : int
    size : int
        Side, in pixels.
    fit : str
        Of images that are not square.
    base : Base
        Its VAE encodes.
    """
    key = hashlib.sha256(f"{images} {size} {fit} {base.digest('vae')}".encode()).hexdigest()[:20]
    side = size // base.factor
    return Shards(cache / f"latents-{key}", count, (2 * base.latent_channels, side, side))


def encode_images(
    shards: Shards,
    root: Path,
    files: Sequence[str],
    size: int,
    fit: str,
    base: Base,
    accelerator: Accelerator,
    workers: int,
    progress: Callable[[int, int], None],
) -> dict[int, str]:
    """Encode the images that are not yet in the cache, shared by all processes.

    Parameters
    ----------
    shards : Shards
        Of `latent_shards`.
    root, files
        Images are ``root / file``.
    size, fit
        As for `medtraverse.data_sets.read_pixels`.
    base : Base
        Its VAE is loaded only where something is to be encoded. On a GPU it computes in bfloat16.
    accelerator : Accelerator
    workers : int
        Threads that read images meanwhile.
    progress : callable
        Gets the images encoded and the number that were to be, of this process.

    Returns
    -------
    dict of int to str
        Row and fault of each image that cannot be read; zeros stand in its place.

    Raises
    ------
    ValueError
        The disk has no room for them, or the VAE gives no number for an image.
    """
    if accelerator.is_local_main_process:
        check_room(shards, "cache")
    accelerator.wait_for_everyone()

    def make(numbers: list[int]) -> None:
        if not numbers:
            return
        vae = base.load("vae").eval().requires_grad_(False).to(accelerator.device)
        done, total = 0, sum(len(shards.span(number)) for number in numbers)
        with ThreadPoolExecutor(max(1, workers)) as pool:

            def read(number: int) -> list[Future[Any]]:
                return [pool.submit(_read, root / files[row], size, fit) for row in shards.span(number)]

            ahead = read(numbers[0])
            for place, number in enumerate(numbers):
                images = [future.result() for future in ahead]
                # The next shard's images are read while this one's are encoded.
                ahead = read(numbers[place + 1]) if place + 1 < len(numbers) else []
                _write(shards, number, images, vae, files)
                done += len(images)
                progress(done, total)

    fill(shards, make, accelerator)
    broken: dict[int, str] = {}
    for path in sorted(shards.folder.glob(f"*{BROKEN}")):
        broken |= {int(row): fault for row, fault in json.loads(path.read_text(encoding="utf-8")).items()}
    return broken


def _read(path: Path, size: int, fit: str) -> np.ndarray | str:
    try:
        return read_pixels(path, size, fit)
    except ValueError as error:
        return str(error)


@torch.inference_mode()
def _write(
    shards: Shards, number: int, images: Sequence[np.ndarray | str], vae: Any, files: Sequence[str]
) -> None:
    values = np.zeros((len(images), *shards.shape), shards.dtype)
    good = [place for place, image in enumerate(images) if not isinstance(image, str)]
    device = vae.device
    for start in range(0, len(good), PIECE):
        places = good[start : start + PIECE]
        pixels = torch.from_numpy(np.stack([np.asarray(images[place]) for place in places])).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
        values[places] = torch.cat([posterior.mean, posterior.logvar], 1).half().cpu().numpy()
    wrong = [place for place in good if not np.isfinite(values[place]).all()]
    if wrong:
        raise ValueError(
            f"base: its VAE gives no finite number for {files[shards.span(number)[wrong[0]]]}; "
            "give a base whose VAE is whole, or leave the image out."
        )
    faults = {
        str(shards.span(number)[place]): image for place, image in enumerate(images) if isinstance(image, str)
    }
    note = shards.path(number).with_suffix(BROKEN)
    if faults:
        write_text(note, json.dumps(faults, indent=2))
    else:
        note.unlink(missing_ok=True)
    # The shard comes last: where it is, its faults are written too.
    shards.write(number, values)
