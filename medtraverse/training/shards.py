"""Rows of numbers on disk, memory-mapped: made once, in parallel, and taken up where a run was stopped.

A shard is a file of its own that is written whole. So neither a killed process nor several hosts on one
file system leave half of one, and what is there already is not made again.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..whole_file import whole_file

if TYPE_CHECKING:
    from accelerate import Accelerator

# At 512 pixels a shard of moments is 17 MB, and its images are 200 MB while they are encoded.
ROWS = 256
_HEADER = 128


class Shards:
    """An array [count, *shape] in files of `rows` rows.

    Parameters
    ----------
    folder : Path
    count : int
    shape : sequence of int
        Of a row.
    dtype : numpy dtype
    rows : int
        Of a file.
    """

    def __init__(
        self, folder: Path, count: int, shape: Sequence[int], dtype: Any = np.float16, rows: int = ROWS
    ):
        self.folder, self.count, self.shape, self.rows = Path(folder), count, tuple(shape), rows
        self.dtype = np.dtype(dtype)
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        # A worker process opens the files itself: pickling a memory map would copy it.
        return {**self.__dict__, "_open": {}}

    def path(self, number: int) -> Path:
        """Return the place of a file."""
        return self.folder / f"{number:06d}.npy"

    def span(self, number: int) -> range:
        """Return the rows that a file holds."""
        return range(number * self.rows, min((number + 1) * self.rows, self.count))

    def bytes_of(self, number: int) -> int:
        """Return the size of a file."""
        return _HEADER + len(self.span(number)) * math.prod(self.shape) * int(self.dtype.itemsize)

    def missing(self) -> list[int]:
        """Return the numbers of the files that are not there, or not whole."""
        numbers = range(-(-self.count // self.rows))
        return [number for number in numbers if _size(self.path(number)) != self.bytes_of(number)]

    def write(self, number: int, values: np.ndarray) -> None:
        """Write a file, whole or not at all. Raises ValueError where the disk is full."""
        try:
            with whole_file(self.path(number)) as part:
                np.save(part, np.ascontiguousarray(values, self.dtype))
        except OSError as error:
            raise ValueError(
                f"cache: {self.folder} cannot be written ({error.strerror or error}); free some space, or "
                "give another folder with --cache."
            ) from error

    def __getitem__(self, row: int) -> np.ndarray:
        """Return a row; its file stays open."""
        number, place = divmod(int(row), self.rows)
        if number not in self._open:
            self._open[number] = np.load(self.path(number), mmap_mode="r")
        return np.asarray(self._open[number][place])

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return several rows, a copy [len(rows), *shape]."""
        return np.stack([self[int(row)] for row in rows]) if len(rows) else np.empty((0, *self.shape))


def check_room(shards: Shards, name: str, further: int = 0) -> None:
    """Raise ValueError where the disk has no room for the files that are missing, and `further` bytes."""
    needed = sum(map(shards.bytes_of, shards.missing())) + further
    shards.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(shards.folder).free
    if needed > free:
        raise ValueError(
            f"{name}: {shards.folder} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "free some, or give another folder with --cache."
        )


def fill(shards: Shards, make: Callable[[list[int]], Any], accelerator: Accelerator) -> None:
    """Have the missing files made, shared by all processes.

    Parameters
    ----------
    shards : Shards
    make : callable
        Gets numbers of files, and writes them.
    accelerator : Accelerator
    """
    make(shards.missing()[accelerator.process_index :: accelerator.num_processes])
    accelerator.wait_for_everyone()
    # Hosts without a common file system have only a part of them so far.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    make(shards.missing()[accelerator.local_process_index :: local])
    accelerator.wait_for_everyone()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
