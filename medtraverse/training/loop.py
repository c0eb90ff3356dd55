"""An update: gradients of the global batch, clipped, applied, averaged; and what stops a run that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .networks import Average
from .objective import Objective
from .settings import FP16, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

# GradScaler leaves out an update whose gradient overflowed, which happens now and then.
MOST_LEFT_OUT = 30


@dataclass
class Pending:
    """An update whose numbers have not been read: reading them makes a GPU wait."""

    step: int
    loss: Tensor
    norm: Tensor
    rate: float


class Updates:
    """Updates of a network.

    Parameters
    ----------
    accelerator : Accelerator
    network : Module
        Prepared by it.
    optimizer, schedule
        Prepared AdamW, and its learning rates.
    average : Average
    objective : Objective
    context : callable
        A batch to what the network takes of its captions.
    settings : Settings
    pieces : int
        Of each update, on this process.
    images : int
        Of each update, on this process.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: torch.nn.Module,
        optimizer: Any,
        schedule: Any,
        average: Average,
        objective: Objective,
        context: Callable[[dict[str, Tensor]], Tensor],
        settings: Settings,
        pieces: int,
        images: int,
    ):
        self.accelerator, self.network, self.optimizer = accelerator, network, optimizer
        self.schedule, self.average, self.objective, self.context = schedule, average, objective, context
        self.settings, self.pieces, self.images = settings, pieces, images
        self.parameters = [value for value in network.parameters() if value.requires_grad]
        self.left_out = 0
        self.norms: list[float] = []

    def __call__(self, step: int, batches: Iterator[dict[str, Tensor]]) -> Pending:
        """Do update number `step`, from 1, with the next batches."""
        accelerator, device = self.accelerator, self.accelerator.device
        # Only what is drawn inside a network, such as a dropout, depends on this.
        torch.manual_seed(hash((self.settings.seed, step, accelerator.process_index)) % 2**63)
        rate = float(self.optimizer.param_groups[0]["lr"])
        loss = torch.zeros((), device=device)
        for piece in range(self.pieces):
            batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
            last = piece == self.pieces - 1
            with nullcontext() if last else accelerator.no_sync(self.network):
                error = self.objective(self.network, batch, self.context(batch)).sum() / self.images
                accelerator.backward(error)
            loss += error.detach()
        norm = accelerator.clip_grad_norm_(self.parameters, self.settings.clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.left_out = self.left_out + 1 if accelerator.optimizer_step_was_skipped else 0
        self.schedule.step()
        self.average.update()
        return Pending(step, accelerator.reduce(loss, "mean"), torch.as_tensor(norm), rate)

    def read(self, pending: Pending) -> tuple[float, float]:
        """Return loss and gradient norm of an update.

        Raises
        ------
        ValueError
            The loss is no number; the message says at which update, and why as far as can be told.
        """
        loss, norm = float(pending.loss), float(pending.norm)
        finite = loss == loss and abs(loss) != float("inf")
        overflowed = norm != norm or abs(norm) == float("inf")
        # Under fp16 the scaler leaves out an update whose gradient overflowed: no harm, unless it goes on.
        harmful = overflowed and (self.settings.precision != FP16 or self.left_out >= MOST_LEFT_OUT)
        if finite and not harmful:
            if not overflowed:
                self.norms = [*self.norms[-9:], norm]
            return loss, norm
        what = "the gradient is" if finite else "the loss is"
        raise ValueError(f"loss: {what} not a number at update {pending.step}: {self._reason()}")

    def _reason(self) -> str:
        if self.settings.precision == FP16:
            return (
                "fp16 holds nothing above 65,504 and the network has passed that; give --precision bf16 or "
                "fp32."
            )
        if not self.norms:
            return (
                f"nothing was a number from the first update on; give a rate below {self.settings.rate:g}, "
                "or another base."
            )
        return (
            f"the gradient's norm was {min(self.norms):.3g} to {max(self.norms):.3g} in the updates before "
            f"and the training has diverged; give a rate below {self.settings.rate:g}."
        )
