"""Which files and versions a result depends on."""

import hashlib
import os
from functools import lru_cache
from typing import Any

from . import __version__


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces.

    A file whose time and size are unchanged is not read again.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        The file cannot be read.
    """
    stat = os.stat(path)
    return _sha256(os.path.abspath(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _sha256(path: str, mtime_ns: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def hashes(settings: Any) -> dict[str, str]:
    """Find every digest in nested settings.

    Parameters
    ----------
    settings : nested dicts and lists
        A `sha256` in them is a digest, or a mapping of file name to digest.

    Returns
    -------
    dict of str to str
        Where it stands to the digest, such as {"model/unet.safetensors": "9f86…"}.
    """
    digests: dict[str, str] = {}
    items = (
        settings.items()
        if isinstance(settings, dict)
        else enumerate(settings)
        if isinstance(settings, (list, tuple))
        else ()
    )
    for key, value in items:
        if key == "sha256":
            digests |= (
                {str(name): digest for name, digest in value.items()}
                if isinstance(value, dict)
                else {"": value}
            )
        else:
            digests |= {
                f"{key}/{name}" if name else str(key): digest for name, digest in hashes(value).items()
            }
    return digests


def versions() -> dict[str, str]:
    """Versions of MedTraverse and torch."""
    import torch

    return {"medtraverse": __version__, "torch": torch.__version__}
