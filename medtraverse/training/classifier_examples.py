"""The images that a classifier learns from and is judged on: labels, splits by patient, order, augmentation.

Whatever is random here depends on the seed and on the step alone, so a training that goes on after a kill
sees the images that it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..labels import position, repeated

if TYPE_CHECKING:
    import pandas as pd

    from ..data_sets import DataSet

TRAIN, CHOOSE, JUDGE = "train", "choose", "judge"
# Columns of a set's frame whose values are compared.
SUBGROUPS = ("sex", "age", "view", "projection")
FLIPS = ("none", "h", "v", "hv")
# Of a label's certain rows; above, a note says so.
ONE_SIDED = 0.9


@dataclass(frozen=True)
class Examples:
    """Images and their labels.

    Attributes
    ----------
    files : tuple of Path, N
    names : tuple of str, N
        The same as the table has them.
    truth : ndarray float32 [N, L]
        1, 0, or NaN where the label is uncertain or blank.
    patients : tuple of str, N
        "" where the table does not say.
    groups : DataFrame [N]
        The table's columns for subgroups.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    truth: np.ndarray
    patients: tuple[str, ...]
    groups: pd.DataFrame

    def __len__(self) -> int:
        return len(self.files)

    def only(self, rows: np.ndarray, columns: Sequence[int] | None = None) -> Examples:
        """Return some of the rows, a mask or indices, and of their labels those in `columns`."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        truth = self.truth[chosen]
        return Examples(
            tuple(self.files[row] for row in chosen),
            tuple(self.names[row] for row in chosen),
            truth if columns is None else truth[:, list(columns)],
            tuple(self.patients[row] for row in chosen),
            self.groups.iloc[chosen],
        )

    def with_a_label(self) -> Examples:
        """Return those of which at least one label is certain."""
        return self.only(np.isfinite(self.truth).any(1))


def choose_labels(given: Sequence[str] | None, usual: Sequence[str], data: DataSet) -> tuple[str, ...]:
    """Return the columns of a set's labels to be learnt.

    Parameters
    ----------
    given : sequence of str, optional
        The user's, in any spelling.
    usual : sequence of str
        Taken where the user says nothing and the set has them; else all that have a positive.
    data : DataSet

    Raises
    ------
    ValueError
        The set has no such label, it stands twice, or it has no positive or no negative to learn from.
    """
    columns = [str(name) for name in data.labels]
    training = data.labels[(data.frame["split"] == TRAIN).to_numpy()]
    taught = [name for name in columns if {0.0, 1.0} <= set(training[name].dropna().unique())]
    if given is None:
        known = [position(name, columns) for name in usual]
        wanted = [columns[place] for place in known if place is not None] if None not in known else []
        chosen = wanted or taught
        if not chosen:
            raise ValueError(
                f"data: no label of {data.root} has both positives and negatives among its "
                f"{len(training)} training images; give a larger set, or --blank negative."
            )
    else:
        if twice := repeated(given):
            raise ValueError(f"labels: {twice!r} stands twice; name each once.")
        places = [position(name, columns) for name in given]
        for name, place in zip(given, places):
            if place is None:
                raise ValueError(f"labels: the table has no {name!r}; it has {', '.join(columns)}.")
        chosen = [columns[place] for place in places if place is not None]
    for name in chosen:
        if name not in taught:
            missing = "positive" if not (training[name] == 1).any() else "negative"
            advice = (
                "take its blanks as negative by --blank negative, or leave it out"
                if missing == "negative"
                else "leave it out or give more images"
            )
            raise ValueError(
                f"labels: {name!r} has no {missing} among the {len(training)} training images; {advice}."
            )
    return tuple(chosen)


def examples_of(data: DataSet, labels: Sequence[str], seed: int) -> dict[str, Examples]:
    """Split a set by patient into images to learn from, to choose the best weights by, and to judge them by.

    A set's own test split judges. Where it has none, half of the validation's patients do, drawn by the seed:
    what the temperature was fitted to does not say how well it is calibrated.

    Parameters
    ----------
    data : DataSet
    labels : sequence of str
        Columns of its labels.
    seed : int

    Raises
    ------
    ValueError
        A part has no image.
    """
    frame = data.frame
    split = frame["split"].to_numpy(dtype=object)
    part = np.where(split == TRAIN, TRAIN, np.where(split == "test", JUDGE, CHOOSE)).astype(object)
    patients = [str(name) for name in frame["patient"]]
    if not (part == JUDGE).any():
        for row in np.flatnonzero(part == CHOOSE):
            name = patients[row] or str(frame["file"].iloc[row])
            if hashlib.sha256(f"{seed} {name}".encode()).digest()[0] % 2:
                part[row] = JUDGE
    every = Examples(
        tuple(Path(data.root, file) for file in frame["file"]),
        tuple(map(str, frame["file"])),
        data.labels[list(labels)].to_numpy(np.float32),
        tuple(patients),
        frame[[name for name in SUBGROUPS if name in frame]],
    )
    parts = {name: every.only(part == name).with_a_label() for name in (TRAIN, CHOOSE, JUDGE)}
    for name, words in ((TRAIN, "to train on"), (CHOOSE, "held out"), (JUDGE, "held out to judge by")):
        if not len(parts[name]):
            raise ValueError(
                f"data: {data.root} has no usable image {words} whose labels are certain; give more "
                "patients, "
                "or a larger --held-out."
            )
    return parts


def remarks(parts: dict[str, Examples], labels: Sequence[str]) -> list[str]:
    """Return a line a label on its counts, and what should be known of them before the training."""
    truth = parts[TRAIN].truth
    lines = []
    for index, label in enumerate(labels):
        column = truth[:, index]
        positives, negatives = int((column == 1).sum()), int((column == 0).sum())
        masked = len(column) - positives - negatives
        lines.append(f"{label}: {positives} positive, {negatives} negative, {masked} masked")
        if max(positives, negatives) > ONE_SIDED * (positives + negatives) and masked:
            word = "positive" if positives > negatives else "negative"
            lines.append(
                f"  {max(positives, negatives) / (positives + negatives):.0%} of its certain labels are "
                f"{word}; "
                "--blank negative takes blank ones as negative"
            )
    return lines


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes
    ----------
    flip : str
        "h" mirrors half of the images left to right, "hv" top to bottom too, "none" does not.
    degrees : float
        Rotation, to both sides.
    shift : float
        Share of the side, in both directions.
    jitter : float
        Of brightness and contrast.
    soften : bool
        Blur and noise as a latent diffusion model's ×8 decoder adds them.
    """

    flip: str = "h"
    degrees: float = 10.0
    shift: float = 0.1
    jitter: float = 0.2
    soften: bool = False

    def transform(self) -> Callable[[Tensor], Tensor]:
        """Return the function on an image uint8 [3, H, W]; it draws from torch's global random state."""
        from torchvision.transforms import v2

        steps: list[Any] = []
        if "h" in self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if "v" in self.flip:
            steps.append(v2.RandomVerticalFlip())
        if self.degrees or self.shift:
            steps.append(
                v2.RandomAffine(
                    self.degrees, (self.shift, self.shift), interpolation=v2.InterpolationMode.BILINEAR
                )
            )
        if self.jitter:
            steps.append(v2.ColorJitter(brightness=self.jitter, contrast=self.jitter))
        if self.soften:
            steps.append(_soften)
        return v2.Compose(steps) if steps else lambda image: image


def _soften(image: Tensor) -> Tensor:
    """Lose detail at random as decoded images do: coarser to 0.55, a blur up to σ = 1.3, noise up to 0.04."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(()))

    picture = image[None].float() / 255
    shape = picture.shape[-2:]
    if uniform(0, 1) < 0.3:
        scale = uniform(0.55, 1)
        coarse = [max(8, int(side * scale)) for side in shape]
        picture = F.interpolate(picture, size=coarse, mode="bilinear", antialias=True)
        picture = F.interpolate(picture, size=shape, mode="bilinear", antialias=True)
    if uniform(0, 1) < 0.5:
        taps = torch.exp(-0.5 * (torch.arange(-4, 5) / uniform(0.3, 1.3)) ** 2)
        kernel = (taps / taps.sum()).expand(3, 1, 1, 9)
        picture = F.conv2d(F.pad(picture, (4, 4, 4, 4), mode="replicate"), kernel, groups=3)
        picture = F.conv2d(picture, kernel.mT, groups=3)
    picture = picture + uniform(0, 0.04) * torch.randn(picture.shape)
    return (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)


class Pictures(Dataset[tuple[int, Tensor, str]]):
    """Images as uint8 [3, size, size], by (row, seed): the seed varies the image, None leaves it as it is.

    An image that cannot be read is a message in place of the picture: an exception would not come whole out
    of a worker.
    """

    def __init__(self, examples: Examples, size: int, fit: str, augmentation: Augmentation | None = None):
        self.files, self.size, self.fit = examples.files, size, fit
        self.augmentation = augmentation
        self._transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[int, Tensor, str]:
        from ..data_sets import read_pixels

        row, seed = key
        try:
            image = torch.from_numpy(np.array(read_pixels(self.files[row], self.size, self.fit)))
        except (ValueError, OSError) as error:
            return row, torch.zeros(3, self.size, self.size, dtype=torch.uint8), str(error)
        image = image.permute(2, 0, 1).contiguous()
        if seed is not None and self.augmentation is not None:
            if self._transform is None:
                self._transform = self.augmentation.transform()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image = self._transform(image)
        return row, image, ""


class Order:
    """Which images make up which step, of which this process takes its share.

    Parameters
    ----------
    count : int
        Images to train on.
    batch : int
        Images a step, over all processes; no more than `count`.
    epochs, seed : int
    first : int
        Step to begin with.
    process, processes : int
        This one, of so many.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        epochs: int,
        seed: int,
        first: int = 0,
        process: int = 0,
        processes: int = 1,
    ):
        self.count, self.batch, self.seed, self.first = count, batch, seed, first
        self.process, self.processes = process, processes
        self.steps_per_epoch = count // batch
        self.steps = epochs * self.steps_per_epoch
        self._drawn: tuple[int, np.ndarray] | None = None

    def whole(self, step: int) -> np.ndarray:
        """Return the rows of a step, over all processes; an epoch is a permutation, cut to whole batches."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(self.count)
        return self._drawn[1][place * self.batch : (place + 1) * self.batch]

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.steps):
            seeds = np.random.default_rng((self.seed, 1, step)).integers(2**62, size=self.batch)
            keys = list(zip(self.whole(step).tolist(), seeds.tolist()))
            yield keys[self.process :: self.processes]
