"""What `demo.judging.evaluate` measures on generated patients.

It is measured block by block, in files that a stopped run continues from.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from demo.judging import oracle
from medtraverse.curve import interpolate
from medtraverse.digest import sha256_of
from medtraverse.domain import load_domains
from medtraverse.pixels import to_bytes
from medtraverse.plain_traversal import draw_noise, traverse
from medtraverse.whole_file import whole_file, write_text

if TYPE_CHECKING:
    from medtraverse.classifier import Classifier
    from medtraverse.plain_traversal import Model

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
ALL_SWAPS = tuple(range(45, 0, -5))
FAR_SWAPS, FAR_FRAMES = (5, 10, 15), slice(30, 50)
CONTROLS = 100  # patients whose neutral is swapped to itself: no win in a hundred bounds the share at 4 %


@dataclass(frozen=True)
class Study:
    """A model that is judged: its domain, its patients, and what of the trajectory is needed.

    `curve` asks for Bézier frames, whose control points are all nine swaps, and for the neutral-to-neutral
    control.
    """

    name: str
    domain: str
    phantoms: str
    classifier: str
    first_seed: int
    swap_steps: tuple[int, ...] = ALL_SWAPS
    curve: bool = True

    def prompts(self, numbers: Iterable[int]) -> tuple[list[str], list[list[str]]]:
        """Neutral prompt of each patient, the neutrals in turn, and its attribute prompts."""
        domain = load_domains()[self.domain]
        names = [list(domain.neutrals)[number % len(domain.neutrals)] for number in numbers]
        attributes = domain.select()
        return [domain.neutrals[name] for name in names], [
            [domain.prompt(attribute, name) for attribute in attributes] for name in names
        ]

    @property
    def labels(self) -> tuple[str, ...]:
        """The label that each attribute should raise, in the attributes' order."""
        return tuple(attribute.labels[0] for attribute in load_domains()[self.domain].select())


# The confounded model draws the same patients as CheXpert's, so that the two can be compared patient by
# patient.
STUDIES = {
    "chexpert": Study("chexpert", "CheXpert", "chest", "chexpert", 1500),
    "isic": Study("isic", "ISIC", "dermoscopy", "isic", 3000),
    "confounded": Study("confounded", "CheXpert", "chest", "chexpert", 1500, (15, 10, 5), False),
}


def read_one(domain: str, labels: Sequence[str], image: np.ndarray) -> np.ndarray:
    """Oracle's score of each label, then the anatomy, of an image uint8 [H, W, 3].

    NaN where it cannot be read.
    """
    readouts = oracle.read(image.astype(np.float32) / 255, domain)
    names = [label.replace(" ", "_") for label in labels]
    return np.array([readouts[name] for name in (*names, *oracle.DOMAINS[domain][1].ANATOMY)], np.float32)


class Readers:
    """The oracle on several processes, or on this one."""

    def __init__(self, workers: int):
        if workers > 1:
            os.environ.setdefault(
                "OMP_NUM_THREADS", "1"
            )  # for the processes started here; this one has its threads already
        # Not forked: a process that uses a GPU cannot be.
        self.pool = (
            ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers > 1 else None
        )

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], chunk: int = 16
    ) -> list[_Result]:
        """Return `function` of each item, in order; the processes get `chunk` items at a time."""
        return list(self.pool.map(function, items, chunksize=chunk) if self.pool else map(function, items))

    def read(self, domain: str, labels: Sequence[str], images: Iterable[np.ndarray]) -> np.ndarray:
        """`read_one` of images uint8 [N, H, W, 3]: float32 [N, labels + anatomy]."""
        return np.stack(self.map(partial(read_one, domain, labels), images))


def measure(
    study: Study,
    model: Model,
    classifier: Classifier,
    numbers: Sequence[int],
    readers: Readers,
    guidance: float = 7.5,
    steps: int = 50,
) -> dict[str, np.ndarray]:
    """Sample the patients `numbers` and measure them.

    Returns
    -------
    dict of ndarray
        "number" [P]; "neutral" uint8 [P, H, W, 3]; "classifier" and "oracle" [P, K, 1 + swaps, L] (point 0
        the neutral), "anatomy" [P, K, 1 + swaps, A]; with the study's `curve` also "curve_classifier",
        "curve_oracle" [P, K, 20, L] of the far frames, and "control" [P, 2, L], the classifier on a neutral
        and on its swap to the neutral prompt itself at λ = 5; NaN from patient `CONTROLS` on.
    """
    labels = study.labels
    columns = [classifier.labels.index(label) for label in labels]
    neutral, attributes = study.prompts(numbers)
    noise = draw_noise([study.first_seed + number for number in numbers], model.latent_shape)
    latents = traverse(model, neutral, attributes, noise, study.swap_steps, steps, guidance)
    patients, kinds, points = latents.shape[:3]

    def judge(rows: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        images = model.decode(rows)
        return (
            images,
            classifier.predict(images)[:, columns].numpy(),
            readers.read(study.phantoms, labels, to_bytes(images)),
        )

    # Point 0 is one image for all attributes.
    rows = torch.cat([latents[:, 0, 0], latents[:, :, 1:].flatten(0, 2)])
    images, scores, readouts = judge(rows)
    index = np.full((patients, kinds, points), 0)
    index[:, :, 0] = np.arange(patients)[:, None]
    index[:, :, 1:] = patients + np.arange(patients * kinds * (points - 1)).reshape(
        patients, kinds, points - 1
    )
    record = {
        "number": np.array(numbers),
        "neutral": to_bytes(images[:patients]),
        "classifier": scores[index],
        "oracle": readouts[index][..., : len(labels)],
        "anatomy": readouts[index][..., len(labels) :],
    }
    if study.curve:
        frames = interpolate(latents.movedim(2, 0))[FAR_FRAMES].movedim(0, 2)
        _, scores, readouts = judge(frames.flatten(0, 2))
        shape = (patients, kinds, frames.shape[2], -1)
        record |= {
            "curve_classifier": scores.reshape(shape),
            "curve_oracle": readouts[:, : len(labels)].reshape(shape),
        }
        record["control"] = np.full((patients, 2, len(labels)), np.nan, np.float32)
        some = [index for index, number in enumerate(numbers) if number < CONTROLS]
        if some:
            same = [neutral[index] for index in some]
            control = traverse(model, same, [[prompt] for prompt in same], noise[some], (5,), steps, guidance)
            scores = classifier.predict(model.decode(control.flatten(0, 2)))[:, columns].numpy()
            record["control"][some] = scores.reshape(len(some), 2, -1)
    return record


class Store:
    """Measurements of a study below a folder, one file a block of patients.

    Raises ValueError when `resume` finds measurements of other settings there; without it they are removed.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool):
        self.folder, note = folder, folder / "settings.json"
        text = json.dumps(settings, indent=2) + "\n"
        if resume and note.exists() and note.read_text() != text:
            raise ValueError(
                f"out: {folder} holds measurements of another model or other settings; "
                "give another folder, or leave out --resume."
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            for path in folder.iterdir():
                if path.suffix in (".npz", ".json"):
                    path.unlink()
        write_text(note, text)

    def done(self) -> set[int]:
        """Numbers of the patients that are measured."""
        return {
            int(number) for path in self.folder.glob("patients-*.npz") for number in np.load(path)["number"]
        }

    def save(self, record: dict[str, np.ndarray]) -> None:
        """Write the measurements of a block of patients, whole or not at all."""
        path = self.folder / f"patients-{record['number'][0]:05d}.npz"
        with whole_file(path) as part:
            arrays: dict[str, Any] = dict(record)
            np.savez_compressed(part, **arrays)

    def kept(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` returns, JSON-serialisable, computed once."""
        path = self.folder / name
        if not path.exists():
            write_text(path, json.dumps(compute()))
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept

    def load(self, count: int) -> dict[str, np.ndarray]:
        """All measurements of the patients 0 … `count` - 1, in order."""
        parts = [dict(np.load(path)) for path in sorted(self.folder.glob("patients-*.npz"))]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(whole["number"])
        order = order[whole["number"][order] < count]
        return {name: values[order] for name, values in whole.items()}


def collect(
    study: Study,
    store: Store,
    model: Model,
    classifier: Classifier,
    patients: int,
    block: int,
    readers: Readers,
    **sampling: Any,
) -> dict[str, np.ndarray]:
    """Measure those of `patients` patients that the store lacks, and return the measurements of all."""
    left = sorted(set(range(patients)) - store.done())
    begun = time.monotonic()
    for start in range(0, len(left), block):
        store.save(measure(study, model, classifier, left[start : start + block], readers, **sampling))
        finished = min(start + block, len(left))
        each = (time.monotonic() - begun) / finished
        print(
            f"{study.name}: {patients - len(left) + finished}/{patients} patients, {each:.1f} s each, "
            f"{each * (len(left) - finished) / 60:.0f} min left",
            flush=True,
        )
    return store.load(patients)


def settings_of(
    study: Study,
    folder: Path,
    unet: Path | None,
    classifier: Classifier,
    guidance: float,
    steps: int,
    half: bool,
    compiled: bool,
) -> dict[str, Any]:
    """All that the measurements depend on, for the store."""
    parts = [unet] if unet else sorted((folder / "unet").glob("*.safetensors"))
    parts += sorted(
        path for part in ("vae", "text_encoder") for path in (folder / part).glob("*.safetensors")
    )
    hashes = {path.parent.name + "/" + path.name: sha256_of(path) for path in parts}
    study_ = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(study).items()}
    readers = [oracle, oracle.DOMAINS[study.phantoms][1]]
    hashes |= {module.__name__: sha256_of(str(module.__file__)) for module in readers}
    sampling = {"guidance": guidance, "steps": steps, "bfloat16": half, "compiled": compiled}
    return {"study": study_, **sampling, "sha256": hashes | {"classifier": classifier.sha256}}
