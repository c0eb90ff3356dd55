"""Weight files of other people's networks: looked for, never fetched."""

from collections.abc import Sequence
from pathlib import Path

import torch


def find_weights(name: str, folders: Sequence = ()) -> Path | None:
    """Path of the file `name` in one of `folders` or in torch's hub cache; None where it is in none of them."""
    found = [path for folder in places(folders) if (path := folder / name).is_file()]
    return found[0] if found else None


def places(folders: Sequence = ()) -> list[Path]:
    """The folders that `find_weights` looks in, in order."""
    return [*map(Path, folders), Path(torch.hub.get_dir()) / "checkpoints"]
