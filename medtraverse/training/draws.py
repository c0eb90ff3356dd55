"""What an update is made of: which images, and what is drawn for each.

All of it is a function of the seed, the update and the place in the global batch. So a run can be continued
from the number of its last update alone, and it is the same however many processes share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .shards import Shards

# Parts the random numbers of an order, an update and a validation.
ORDER, UPDATE, VALIDATION = 1, 2, 3
Piece = tuple[int, int, int]


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of images in an epoch, a permutation, int [count]."""
    return np.random.default_rng([seed, ORDER, epoch]).permutation(count)


def chosen(seed: int, place: int, count: int) -> int:
    """Return the image at a place of the endless sequence of epochs."""
    epoch, within = divmod(place, count)
    return int(order(seed, epoch, count)[within])


@dataclass(frozen=True)
class Draw:
    """What a sample is drawn with.

    Attributes
    ----------
    seed : int
    timesteps : int
        Of the training's noise schedule.
    scaling : float
        By which latents are multiplied for the U-Net.
    caption_dropout : float
        Share of captions left empty.
    noise_offset : float
        Noise common to all of a channel.
    """

    seed: int
    timesteps: int
    scaling: float
    caption_dropout: float = 0.0
    noise_offset: float = 0.0

    def sample(self, moments: np.ndarray, *place: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
        """Draw a sample.

        Parameters
        ----------
        moments : ndarray [2C, h, w]
            Mean and log variance of the image's latent.
        place : int
            What the random numbers depend on beside the seed.

        Returns
        -------
        latent, noise : ndarray float32 [C, h, w]
        timestep : int
        empty : bool
            Whether its caption is left empty.
        """
        rng = np.random.default_rng([self.seed, *place])
        timestep, empty = int(rng.integers(self.timesteps)), bool(rng.random() < self.caption_dropout)
        mean, logvar = np.split(moments.astype(np.float32), 2)
        # diffusers' DiagonalGaussianDistribution has the same limits.
        spread = np.exp(0.5 * np.clip(logvar, -30, 20))
        latent = self.scaling * (mean + spread * rng.standard_normal(mean.shape, np.float32))
        noise = rng.standard_normal(mean.shape, np.float32)
        if self.noise_offset:
            noise = noise + self.noise_offset * rng.standard_normal((len(mean), 1, 1), np.float32)
        return latent, noise, timestep, empty


class Batches(Dataset[dict[str, Tensor]]):
    """Pieces of updates, by ``(update, first place, end)`` in the global batch.

    Parameters
    ----------
    latents : Shards
        Moments of all images.
    rows : ndarray, int [images]
        The rows of those that are trained on.
    words : ndarray, int [images]
        The caption of each.
    empty : int
        The caption that is empty.
    draw : Draw
    images_per_update : int
    texts : Shards, optional
        Embeddings of the captions, where they are too many for a GPU's memory.
    """

    def __init__(
        self,
        latents: Shards,
        rows: np.ndarray,
        words: np.ndarray,
        empty: int,
        draw: Draw,
        images_per_update: int,
        texts: Shards | None = None,
    ):
        self.latents, self.rows, self.words, self.empty, self.draw = latents, rows, words, empty, draw
        self.images_per_update, self.texts = images_per_update, texts

    def __getitem__(self, piece: Piece) -> dict[str, Tensor]:
        """Return latents and noise float32 [B, C, h, w], timesteps and words long [B].

        With `texts` also context [B, 77, C].
        """
        update, first, end = piece
        samples, words = [], []
        for place in range(first, end):
            image = chosen(self.draw.seed, update * self.images_per_update + place, len(self.rows))
            moments = self.latents[int(self.rows[image])]
            latent, noise, timestep, empty = self.draw.sample(moments, UPDATE, update, place)
            samples.append((latent, noise, timestep))
            words.append(self.empty if empty else int(self.words[image]))
        latents, noises, timesteps = zip(*samples, strict=True)
        batch = {
            "latents": torch.from_numpy(np.stack(latents)),
            "noise": torch.from_numpy(np.stack(noises)),
            "timesteps": torch.tensor(timesteps),
            "words": torch.tensor(words),
        }
        if self.texts is not None:
            batch["context"] = torch.from_numpy(self.texts.take(words))
        return batch


class Pieces(Sampler[Piece]):
    """The pieces of one process, in order.

    Parameters
    ----------
    first, end : int
        Updates.
    share : range
        The process's places in the global batch.
    batch : int
        Images at a time.
    """

    def __init__(self, first: int, end: int, share: range, batch: int):
        self.first, self.end, self.share, self.batch = first, end, share, batch

    @property
    def per_update(self) -> int:
        """Pieces of an update."""
        return -(-len(self.share) // self.batch)

    def __len__(self) -> int:
        return (self.end - self.first) * self.per_update

    def __iter__(self) -> Iterator[Piece]:
        for update in range(self.first, self.end):
            for first in range(self.share.start, self.share.stop, self.batch):
                yield update, first, min(first + self.batch, self.share.stop)


def share_of(process: int, processes: int, images_per_update: int) -> range:
    """Return a process's places in the global batch.

    Raises ValueError where the processes cannot share it evenly: each would weigh its images otherwise.
    """
    if images_per_update % processes:
        raise ValueError(
            f"batch: an update of {images_per_update} images cannot be shared evenly by {processes} "
            "processes; give a batch or an accumulation that can."
        )
    size = images_per_update // processes
    return range(process * size, (process + 1) * size)
