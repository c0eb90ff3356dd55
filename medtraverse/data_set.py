"""A fine-tuning set in the folder layout that it is published in: its table, its images, their latents.

CheXpert and ISIC 2019, the sets of TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623, section 3. `captions`
reads the rows of the tables.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .captions import Captioned, Captions, image_file, read_chexpert, read_isic

BLOCK = 256


class Encoder(Protocol):
    """What turns images into latents, such as diffusers' ``AutoencoderKL``."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def encode(self, x: Tensor, /) -> Any:
        """Return an object whose ``latent_dist`` has ``mean`` and ``logvar``, of images in -1..1."""


def read_table(kind: str, data: str | os.PathLike[str]) -> tuple[Captions, Path]:
    """Read the captions of a folder in the layout of `kind`.

    CheXpert: ``train.csv`` in `data` or one folder below, frontal films only. ISIC:
    ``ISIC_2019_Training_GroundTruth.csv`` with artefact columns in `data` or one folder below, images beside
    it or in ``ISIC_2019_Training_Input``, once or twice below.

    Parameters
    ----------
    kind : str
        "isic"; any other is CheXpert's layout.
    data : path
        The folder of the data set, or the one above.

    Returns
    -------
    Captions
        One of each image.
    Path
        The folder for `image_file`.

    Raises
    ------
    ValueError
        There is no such table, `read_chexpert` or `read_isic` refuses it, or none of its rows is to be used.
    """
    name = "ISIC_2019_Training_GroundTruth.csv" if kind == "isic" else "train.csv"
    table = next((path for pattern in (name, f"*/{name}") for path in sorted(Path(data).glob(pattern))), None)
    if table is None:
        raise ValueError(
            f"data: {data} holds no {name}, nor does a folder in it; give the folder of the data set."
        )
    captions = read_isic(table) if kind == "isic" else read_chexpert(table, frontal_only=True)
    if not captions:
        raise ValueError(
            f"data: every row of {table} is left out, as {', '.join(captions.left_out)}; "
            "give a table with other rows."
        )
    roots = [table.parent]
    if kind == "isic":
        inner = table.parent / "ISIC_2019_Training_Input"
        roots = [root for root in (inner / inner.name, inner, table.parent) if root.is_dir()]
    elif Path(captions[0].image).parts[0] == table.parent.name:
        roots = [table.parent.parent]
    for root in roots[:-1]:
        try:
            image_file(root, captions[0].image)
            return captions, root
        except ValueError:
            pass
    return captions, roots[-1]


def read_image(path: str | os.PathLike[str], size: int) -> np.ndarray:
    """Read an image as the paper's training does: resized without keeping the aspect.

    Parameters
    ----------
    path : path
        A file that Pillow reads.
    size : int
        Side, in pixels.

    Returns
    -------
    ndarray
        RGB uint8 [size, size, 3].

    Raises
    ------
    ValueError
        The file is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise ValueError(
            f"data: {path} cannot be read as an image ({error}); replace it or leave its row out."
        ) from error
    return np.asarray(
        picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BICUBIC)
    )


def encode_images(
    vae: Encoder,
    captions: Sequence[Captioned],
    root: str | os.PathLike[str],
    size: int,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> np.ndarray:
    """Encode all images of a set into a file, block by block; a run that was stopped goes on where it was.

    Parameters
    ----------
    vae : Encoder
        On a GPU it computes in bfloat16.
    captions : sequence of Captioned
        N images, of `read_table`.
    root : path
        The folder for `image_file`.
    size : int
        Side of the images, in pixels, a multiple of 8.
    path : Path
        Of the ``.npy`` file. One that is there is taken as it is. Until it is whole, it is named ``.part``,
        and ``.done`` beside it holds the number of images encoded.
    progress : callable
        Gets the images encoded and N, after each block of `BLOCK`.

    Returns
    -------
    ndarray
        Mean and log variance of each image's latent, unscaled: a memory map, fp16 [N, 8, size/8, size/8].

    Raises
    ------
    ValueError
        An image is not there, or is none.
    """
    if path.exists():
        return _mapped(path)
    device, part, note = vae.device, path.with_suffix(".part"), path.with_suffix(".done")
    shape = (len(captions), 8, size // 8, size // 8)
    done = int(note.read_text()) if note.exists() and part.exists() else 0
    moments = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float16, shape)
    for start in range(done, len(captions), BLOCK):
        images = np.stack(
            [read_image(image_file(root, row.image), size) for row in captions[start : start + BLOCK]]
        )
        encoded = []
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        ):
            for piece in torch.from_numpy(images).split(32):
                posterior = vae.encode(piece.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
                encoded.append(torch.cat([posterior.mean, posterior.logvar], 1).half().cpu())
        moments[start : start + len(images)] = torch.cat(encoded).numpy()
        moments.flush()
        note.write_text(str(start + len(images)))
        progress(start + len(images), len(captions))
    del moments
    os.replace(part, path)
    note.unlink()
    return _mapped(path)


def _mapped(path: Path) -> np.ndarray:
    moments: np.ndarray = np.load(path, mmap_mode="r")
    return moments
