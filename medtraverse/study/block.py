"""A block: what a study keeps of some patients, and the file that holds it."""

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..notice import NOTICE
from ..whole_file import write_bytes

NAME = "block-{first}-{last}.npz"
PATTERN = "block-*.npz"
LATENTS, LATENTS_PATTERN = "latents-{first}-{last}.npz", "latents-*.npz"
_OWN, _OTHER = "identity own ", "identity other "


@dataclass(frozen=True, eq=False)
class Block:
    """What is kept of some patients.

    Attributes
    ----------
    seeds : tuple of int, P
        Rising.
    swap : ndarray [P, A, 1 + L, labels], float32
        The classifier's probabilities at the neutral image and at each swap step, in 0..1.
    curve : ndarray [P, A, 1 + F, labels], float32
        The same at the neutral image and the kept frames of the curve; F is 0 in a study without curves, and
        then there is no neutral either: [P, A, 0, labels].
    cosines : ndarray [P, A, L], float64
        Direction cosines, in -1..1; NaN where a swap did not move.
    own, other : mapping of measure to ndarray [P, A, 1 + L], float64
        Similarity to the own neutral, and to the controls' neutrals.
    made : mapping
        How it was made: versions, device, seconds; JSON-serialisable. No figure depends on it.
    """

    seeds: tuple[int, ...]
    swap: np.ndarray
    curve: np.ndarray
    cosines: np.ndarray
    own: Mapping[str, np.ndarray]
    other: Mapping[str, np.ndarray]
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the block's file."""
        return NAME.format(first=self.seeds[0], last=self.seeds[-1])

    def take(self, places: Sequence[int]) -> "Block":
        """Return the block of some of its patients, by their places in it, rising."""
        kept = list(places)
        return Block(
            tuple(self.seeds[place] for place in kept),
            self.swap[kept],
            self.curve[kept],
            self.cosines[kept],
            {name: values[kept] for name, values in self.own.items()},
            {name: values[kept] for name, values in self.other.items()},
            self.made,
        )

    def to_bytes(self) -> bytes:
        """The block as the bytes of an npz file; the same block gives the same bytes."""
        arrays = {
            "seeds": np.array(self.seeds, dtype=np.uint64),
            "swap": self.swap,
            "curve": self.curve,
            "cosines": self.cosines,
            **{f"{_OWN}{name}": values for name, values in self.own.items()},
            **{f"{_OTHER}{name}": values for name, values in self.other.items()},
            "made": np.array(json.dumps(self.made)),
            "notice": np.array(NOTICE),
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the block into a folder, whole or not at all; return its path."""
        path = Path(folder) / self.name
        write_bytes(path, self.to_bytes())
        return path


def read_block(source: str | os.PathLike[str] | bytes, name: str = "") -> Block:
    """Read a block.

    Parameters
    ----------
    source : path or bytes
        A file, or what is in one.
    name : str
        What to call bytes in a message.

    Raises
    ------
    ValueError
        It cannot be read, or is no block.
    """
    called = name or (source.decode("latin-1")[:20] if isinstance(source, bytes) else os.fspath(source))
    try:
        with np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
        return _block(held)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{called}: is no whole block of a study ({error}); delete the file, and the study makes its "
            "patients again."
        ) from error


def _block(held: dict[str, np.ndarray]) -> Block:
    seeds = tuple(map(int, held["seeds"]))
    block = Block(
        seeds,
        held["swap"],
        held["curve"],
        held["cosines"],
        {key.removeprefix(_OWN): values for key, values in held.items() if key.startswith(_OWN)},
        {key.removeprefix(_OTHER): values for key, values in held.items() if key.startswith(_OTHER)},
        json.loads(str(held["made"])),
    )
    rows = [block.swap, block.curve, block.cosines, *block.own.values(), *block.other.values()]
    if not seeds or list(seeds) != sorted(set(seeds)) or any(len(values) != len(seeds) for values in rows):
        raise ValueError("its seeds and its rows do not fit")
    return block


def joined(blocks: Sequence[Block]) -> Block:
    """Return blocks of one study as one, patients by rising seed; a seed that several hold is taken once.

    Raises
    ------
    ValueError
        There is no block.
    """
    if not blocks:
        raise ValueError("study: it holds no patient yet; run it first.")
    places = {
        seed: (number, place)
        for number in reversed(range(len(blocks)))
        for place, seed in enumerate(blocks[number].seeds)
    }
    seeds = sorted(places)

    def rows(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([values[number][place] for number, place in (places[seed] for seed in seeds)])

    first = blocks[0]
    return Block(
        tuple(seeds),
        rows([block.swap for block in blocks]),
        rows([block.curve for block in blocks]),
        rows([block.cosines for block in blocks]),
        {name: rows([block.own[name] for block in blocks]) for name in first.own},
        {name: rows([block.other[name] for block in blocks]) for name in first.other},
        first.made,
    )


def write_latents(folder: str | os.PathLike[str], seeds: Sequence[int], latents: np.ndarray) -> Path:
    """Write the final latents of some patients, whole or not at all.

    Parameters
    ----------
    folder : path
    seeds : sequence of int
    latents : ndarray [patients, rows, C, h, w]
        Kept as float16, which no eye tells from float32 once decoded.

    Returns
    -------
    Path
    """
    path = Path(folder) / LATENTS.format(first=seeds[0], last=seeds[-1])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        seeds=np.array(seeds, dtype=np.uint64),
        latents=latents.astype(np.float16),
        notice=np.array(NOTICE),
    )
    write_bytes(path, buffer.getvalue())
    return path


def read_latents(path: str | os.PathLike[str]) -> dict[int, np.ndarray]:
    """Return the latents [rows, C, h, w], float16, that a file holds, by seed.

    Raises ValueError where the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(zip(map(int, file["seeds"]), file["latents"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: holds no latents of a study ({error}); delete the file.") from error
