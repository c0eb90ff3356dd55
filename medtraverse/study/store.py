"""A study's folder: ``study.json``, and one file a block.

Blocks are told from each other by their seeds, so it does not matter who made them, in which order, or how
the seeds were cut: what is there is done, and what is not is still to do.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..notice import NOTICE
from ..whole_file import write_text
from .block import LATENTS_PATTERN, PATTERN, Block, joined, read_block, read_latents, write_latents
from .lock import refuse_unwritable

FORM = 1
NAME = "study.json"


@dataclass(frozen=True)
class Identity:
    """What makes a study this one: two runs with other values may not share a folder.

    Attributes
    ----------
    settings : mapping
        Everything that the figures depend on beside seeds and weights, JSON-serialisable.
    weights : mapping of str to str
        SHA-256 by part: "model", "vae", "classifier", …
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, str]

    def differences(self, other: "Identity") -> list[str]:
        """Say in words in what another differs, a phrase each: "steps: 50 here, 30 there"."""
        own, theirs = _flat(self.settings), _flat(other.settings)
        said = [
            f"{name}: {_shown(own.get(name))} here, {_shown(theirs.get(name))} there"
            for name in dict.fromkeys([*own, *theirs])
            if own.get(name) != theirs.get(name)
        ]
        parts = dict.fromkeys([*self.weights, *other.weights])
        return said + [
            f"weights of the {part}: {str(self.weights.get(part))[:12]} here, "
            f"{str(other.weights.get(part))[:12]} there"
            for part in parts
            if self.weights.get(part) != other.weights.get(part)
        ]


class Store:
    """A study's folder.

    Parameters
    ----------
    folder : path
        Need not be there yet.

    Raises
    ------
    ValueError
        What is there is no study, or one of a later form.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.record = self._read()

    @property
    def exists(self) -> bool:
        """Whether there is a study in the folder."""
        return self.record is not None

    @property
    def identity(self) -> Identity:
        """What the study is; ValueError where there is none."""
        if self.record is None:
            raise ValueError(
                f"{self.folder}: holds no study ({NAME} is missing); give the folder of a study."
            )
        return Identity(self.record["settings"], self.record["weights"])

    def open(self, identity: Identity, versions: Mapping[str, str], graph: Any = None) -> None:
        """Begin the study, or go on with it.

        Parameters
        ----------
        identity : Identity
        versions : mapping
            Of what makes it, for the record.
        graph : object, optional
            The workflow in API format, for the record.

        Raises
        ------
        ValueError
            The folder holds a study of other settings or weights, or cannot be written to.
        """
        # as it will be read back: tuples are lists, keys are texts
        settings = json.loads(json.dumps(identity.settings))
        identity = Identity(settings, dict(identity.weights))
        if self.record is not None:
            refuse_others(self.folder, self.identity, identity)
            return
        record = {
            "form": FORM,
            "notice": NOTICE,
            "settings": settings,
            "weights": dict(identity.weights),
            "versions": dict(versions),
            **({"graph": graph} if graph is not None else {}),
        }
        try:
            write_text(self.folder / NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            refuse_unwritable(self.folder, error)
        self.record = record

    def add(self, block: Block) -> Path | None:
        """Write the patients of a block that the study does not have yet; return the file, None without any.

        Raises ValueError where the folder cannot be written to; nothing is left of the block then.
        """
        done = self.seeds()
        new = [place for place, seed in enumerate(block.seeds) if seed not in done]
        if not new:
            return None
        try:
            return block.take(new).write(self.folder)
        except OSError as error:
            refuse_unwritable(self.folder, error)

    def keep_latents(self, seeds: Sequence[int], latents: np.ndarray) -> None:
        """Keep the final latents [patients, rows, C, h, w] of some patients, for pictures and maps."""
        try:
            write_latents(self.folder, seeds, latents)
        except OSError as error:
            refuse_unwritable(self.folder, error)

    def latents(self, seeds: Iterable[int]) -> dict[int, np.ndarray]:
        """Return the latents that are kept of some seeds, by seed, as far as there are any."""
        wanted, kept = list(seeds), dict[int, np.ndarray]()
        for path in sorted(self.folder.glob(LATENTS_PATTERN)):
            first, last = map(int, path.stem.split("-")[1:])
            if any(first <= seed <= last and seed not in kept for seed in wanted):
                kept |= read_latents(path)
        return {seed: kept[seed] for seed in wanted if seed in kept}

    def files(self) -> list[Path]:
        """The blocks' files, by name."""
        return sorted(self.folder.glob(PATTERN))

    def seeds(self) -> set[int]:
        """The seeds of all patients that are done."""
        return {seed for path in self.files() for seed in _inside(path)}

    def blocks(self) -> list[Block]:
        """All blocks. ValueError names one that cannot be read."""
        return [read_block(path) for path in self.files()]

    def pooled(self, seeds: Iterable[int] | None = None) -> Block:
        """All patients, or those of some seeds, as one block; each seed once, rising.

        Raises ValueError where there is none.
        """
        wanted = None if seeds is None else set(seeds)
        blocks = []
        for block in self.blocks():
            places = [place for place, seed in enumerate(block.seeds) if wanted is None or seed in wanted]
            if places:
                blocks.append(block.take(places))
        return joined(blocks)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); give another folder.") from error
        form = record.get("form") if isinstance(record, dict) else None
        if not isinstance(form, int) or not {"settings", "weights"} <= set(record):
            raise ValueError(f"{path}: is no record of a study; give another folder.")
        if form > FORM:
            raise ValueError(
                f"{path}: its form is {form}, and this version of MedTraverse knows {FORM} and below; update "
                "MedTraverse."
            )
        return dict(record)


def refuse_others(place: object, own: Identity, other: Identity) -> None:
    """Raise ValueError that names what two studies differ in, if they do."""
    differences = own.differences(other)
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            f"folder: the study in {place} is another one ({'; '.join(differences[:3])}{more}); give another "
            "folder, or take those settings."
        )


_seeds: dict[tuple[str, int, int], tuple[int, ...]] = {}


def _inside(path: Path) -> tuple[int, ...]:
    """The seeds in a block's file. A file whose time and size are unchanged is not read again."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _seeds:
        if len(_seeds) > 100_000:
            _seeds.clear()
        _seeds[key] = read_block(path).seeds
    return _seeds[key]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; a list is one value."""
    if isinstance(value, Mapping):
        return {
            inner: one
            for key, part in value.items()
            for inner, one in _flat(part, f"{name}.{key}" if name else str(key)).items()
        } or {name: {}}
    return {name: value}


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
