"""The error on held-out images by noise level, with noise that is the same each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .draws import VALIDATION, Draw
from .objective import Objective
from .shards import Shards

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

LEVELS = 10


def over_processes(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the sum of all processes' values, on the CPU; not every device of one process has float64."""
    if accelerator.num_processes == 1:
        return values
    total: Tensor = accelerator.reduce(values.to(accelerator.device), "sum").cpu()
    return total


class HeldOut:
    """Images that are not trained on, and the noise that they are always given.

    Parameters
    ----------
    latents : Shards
        Moments of all images.
    rows, words : ndarray, int [images]
        Rows of those that are held out, and the caption of each.
    draw : Draw
        Noise is a function of its seed, the image's place and the level.
    batch : int
        Images at a time.
    """

    def __init__(self, latents: Shards, rows: np.ndarray, words: np.ndarray, draw: Draw, batch: int):
        self.latents, self.rows, self.words, self.draw, self.batch = latents, rows, words, draw, batch

    @property
    def timesteps(self) -> list[int]:
        """The middle of each level, a tenth of the schedule."""
        return [int((level + 0.5) * self.draw.timesteps / LEVELS) for level in range(LEVELS)]

    @torch.no_grad()
    def losses(
        self,
        network: Any,
        objective: Objective,
        context: Callable[[Tensor], Tensor],
        accelerator: Accelerator,
    ) -> dict[int, float]:
        """Return the mean squared error, unweighted, at each timestep of `timesteps`; images are shared.

        Parameters
        ----------
        network : callable
            As for `Objective`.
        objective : Objective
        context : callable
            Captions, long [B], to what the network takes of them.
        accelerator : Accelerator
        """
        device = accelerator.device
        sums = torch.zeros(LEVELS, dtype=torch.float64)
        own = list(range(accelerator.process_index, len(self.rows), accelerator.num_processes))
        for level, timestep in enumerate(self.timesteps):
            for start in range(0, len(own), self.batch):
                places = own[start : start + self.batch]
                samples = [
                    self.draw.sample(self.latents[int(self.rows[place])], VALIDATION, place, level)
                    for place in places
                ]
                batch = {
                    "latents": torch.from_numpy(np.stack([sample[0] for sample in samples])).to(device),
                    "noise": torch.from_numpy(np.stack([sample[1] for sample in samples])).to(device),
                    "timesteps": torch.full((len(places),), timestep, device=device),
                }
                words = torch.from_numpy(self.words[places].astype(np.int64)).to(device)
                with accelerator.autocast():
                    errors = objective(network, batch, context(words), weighted=False)
                sums[level] += float(errors.sum())
        means = over_processes(sums, accelerator) / len(self.rows)
        return dict(zip(self.timesteps, means.tolist(), strict=True))
