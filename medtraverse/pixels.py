"""Tensors as numpy arrays, images as bytes, and pictures as JPEG files that carry the notice."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .notice import NOTICE
from .whole_file import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image


def to_numpy(values: Any, precision: type[np.floating[Any]] = np.float32) -> np.ndarray:
    """Return a tensor as a numpy array, whatever its device and precision (numpy knows no bfloat16).

    Parameters
    ----------
    values : tensor, array or nested sequences of numbers
    precision : numpy float32 or float64
        Of what was a tensor; anything else keeps its own.

    Returns
    -------
    ndarray
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return np.asarray((values.double() if precision is np.float64 else values.float()).numpy())
    return np.asarray(values)


def to_bytes(images: Any) -> np.ndarray:
    """Return images as they are saved.

    Parameters
    ----------
    images : array or tensor of any shape
        In 0..1; what lies outside is cut off.

    Returns
    -------
    ndarray
        uint8 of the same shape, rounded.
    """
    pixels: np.ndarray = np.round(np.clip(to_numpy(images), 0, 1) * 255).astype(np.uint8)
    return pixels


def write_jpeg(picture: "Image", path: str | os.PathLike[str], quality: int = 82, **options: Any) -> None:
    """Write a PIL image as a JPEG with the notice as its comment, whole or not at all.

    Parameters
    ----------
    picture : PIL image
    path : path
        The folder is made if need be, a file in the way is replaced.
    quality : int
        Of the JPEG, 1 to 95.
    options
        Further options of PIL's JPEG writer, such as `subsampling`.
    """
    with whole_file(path) as part:
        picture.save(part, "JPEG", quality=quality, comment=NOTICE, **options)
