"""The training loop of classifiers: masked loss, schedule, state after every few steps, choice of the best.

It runs on accelerate: one process, several GPUs by ``accelerate launch``, fp32, bf16 or fp16. A run that was
killed goes on from its last state as if it had not been: order, augmentation and dropout depend on seed and
step alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..notice import NOTICE
from ..whole_file import whole_file, write_text
from .classifier_examples import Augmentation, Examples, Order, Pictures
from .classifier_scores import auc

# Not named .pt: ComfyUI would list it where a run lies in its models.
STATE, LOG = "training.state", "log.jsonl"
LOG_EVERY = 10  # steps
SAY_EVERY = 15.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """How the weights are updated.

    Attributes
    ----------
    epochs, batch : int
        Images a step, over all processes.
    rate, floor : float
        Learning rate of AdamW, and what a cosine over all steps ends at; equal ones make it constant.
    warmup : int
        Steps of linear warm-up.
    weight_decay : float
    clip : float
        Greatest norm of the gradient; 0 leaves it.
    patience : int
        Epochs without a better AUC after which the training ends; 0 never.
    pieces : int
        Parts that a process cuts its share of the batch into, for memory.
    augmentation : Augmentation
    """

    epochs: int = 10
    batch: int = 128
    rate: float = 2e-4
    floor: float = 1e-6
    warmup: int = 0
    weight_decay: float = 1e-2
    clip: float = 0.0
    patience: int = 0
    pieces: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of a step of so many."""
        low = min(self.floor, self.rate)
        cosine = low + (self.rate - low) * 0.5 * (1 + math.cos(math.pi * step / steps))
        return cosine * min(1.0, (step + 1) / self.warmup) if self.warmup else cosine


@dataclass(frozen=True)
class Plan:
    """What one network is trained with.

    Attributes
    ----------
    folder : Path
        Of `STATE` and `LOG`.
    recipe : Recipe
    labels : tuple of str
    size : int
    fit : str
        squash, pad or crop, of `data_sets.read_pixels`.
    mean, std : tuple of float
        Per channel, of RGB in 0..1.
    pos_weight : tuple of float
        Weight of each label's positives in the loss.
    seed : int
    workers : int
        Processes that read images.
    save_every : int
        Steps between states.
    identity : dict
        What makes this training another one.
    """

    folder: Path
    recipe: Recipe
    labels: tuple[str, ...]
    size: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pos_weight: tuple[float, ...]
    seed: int
    workers: int
    save_every: int
    identity: dict[str, Any]


class Training:
    """One network's training.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    network : torch.nn.Module
        Images [N, 3, size, size], normalised, to logits [N, L].
    plan : Plan
    learn, choose : Examples
        To train on; to choose the best weights by.
    save_best : callable
        Gets the network when it is better than before.
    say : callable
        Gets lines of progress; called in the main process alone.
    """

    def __init__(
        self,
        accelerator: Any,
        network: nn.Module,
        plan: Plan,
        learn: Examples,
        choose: Examples,
        save_best: Callable[[nn.Module], None],
        say: Callable[[str], None],
    ):
        self.accelerator, self.plan, self.learn, self.choose = accelerator, plan, learn, choose
        self.save_best, self.say, recipe = save_best, say, plan.recipe
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        batch = min(recipe.batch, len(learn))
        share = (accelerator.process_index, accelerator.num_processes)
        self.order = Order(len(learn), batch, recipe.epochs, plan.seed, 0, *share)
        device = accelerator.device
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (plan.mean, plan.std)
        )
        self.pos_weight = torch.tensor(plan.pos_weight, device=device)
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None
        self.best_epoch = self.bad_epochs = 0
        self.lines: list[str] = []
        self._said = 0.0

    @property
    def bare(self) -> nn.Module:
        """The network without what accelerate put around it."""
        network: nn.Module = self.accelerator.unwrap_model(self.network)
        return network

    # state

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "identity": json.dumps(self.plan.identity),
            "network": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
            "lines": self.lines,
        }
        with whole_file(self.plan.folder / STATE) as part:
            torch.save(state, part)

    def load(self) -> None:
        """Go on from the state in the folder.

        Raises
        ------
        ValueError
            It cannot be read, or belongs to a training with other settings or data.
        """
        path = self.plan.folder / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = json.loads(state["identity"])
        except Exception as error:  # torch.load has no single exception for a file that it cannot read
            raise ValueError(f"resume: {path} cannot be read; begin anew in another folder.") from error
        identity, own = _flat(identity), _flat(json.loads(json.dumps(self.plan.identity)))
        other = [key for key in {**identity, **own} if identity.get(key) != own.get(key)]
        if other:
            was, now = identity.get(other[0]), own.get(other[0])
            raise ValueError(
                f"resume: {self.plan.folder} holds a training with {other[0]} {was!r}, not {now!r}; give the "
                "same settings, or another folder."
            )
        self.bare.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.best_epoch, self.bad_epochs = state["best"], state["best_epoch"], state["bad_epochs"]
        self.lines = state["lines"]
        if self.accelerator.is_main_process:
            write_text(self.plan.folder / LOG, "".join(f"{line}\n" for line in self.lines))

    def log(self, **record: Any) -> None:
        """Add a line to the log."""
        if self.accelerator.is_main_process:
            self.lines.append(json.dumps(record))
            with (self.plan.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(self.lines[-1] + "\n")

    # training

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or no better weights are to be expected."""
        patience = self.plan.recipe.patience
        return self.step >= self.order.steps or bool(patience and self.bad_epochs >= patience)

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        ValueError
            An image cannot be read, or the loss is no number; the last good state stays.
        """
        if self.done:
            return
        if not self.lines:
            self.log(notice=NOTICE, labels=self.plan.labels, steps=self.order.steps)
        self.order.first = self.step
        loader = DataLoader(
            Pictures(self.learn, self.plan.size, self.plan.fit, self.plan.recipe.augmentation),
            batch_sampler=self.order,
            num_workers=self.plan.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            prefetch_factor=4 if self.plan.workers else None,
        )
        begun, before = time.monotonic(), self.seconds
        since, total, first_bad = (begun, self.step), torch.zeros((), device=self.mean.device), -1
        bad = torch.full((), first_bad, device=self.mean.device)
        for rows, images, messages in loader:
            self._stop_at(next(filter(None, messages), ""))
            loss = self._update(rows, images)
            bad = torch.where((bad < 0) & ~torch.isfinite(loss), self.step, bad)
            total, self.step = total + loss, self.step + 1
            ends_epoch = self.step % self.order.steps_per_epoch == 0
            saves = ends_epoch or self.step % self.plan.save_every == 0
            # reading the loss makes a GPU wait, so it is read only then
            if saves or self.step % LOG_EVERY == 0:
                self._check(int(bad), saves)
                now = time.monotonic()
                self.seconds = before + now - begun
                speed = (self.step - since[1]) * self.order.batch / max(now - since[0], 1e-9)
                mean = float(self.accelerator.reduce(total, "mean")) / (self.step - since[1])
                self._report(mean, speed, now)
                total = torch.zeros_like(total)
            if ends_epoch:
                self._choose()
            if saves:
                self.save()
            if saves or self.step % LOG_EVERY == 0:
                since = time.monotonic(), self.step
            if self.done:
                break

    def _update(self, rows: Tensor, images: Tensor) -> Tensor:
        """One step of AdamW; returns the mean loss over this process's share, detached."""
        accelerator, recipe = self.accelerator, self.plan.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step, self.order.steps)
        self.network.train()
        # dropout draws from the global random state
        torch.manual_seed(
            int(
                np.random.default_rng((self.plan.seed, 2, self.step, accelerator.process_index)).integers(
                    2**62
                )
            )
        )
        known = int(np.isfinite(self.learn.truth[self.order.whole(self.step)]).sum())
        # gradients are means over processes, the loss is one over the certain labels of the whole batch
        factor = accelerator.num_processes / max(known, 1)
        truth = torch.from_numpy(self.learn.truth[rows.numpy()])
        pieces = list(zip(images.chunk(recipe.pieces), truth.chunk(recipe.pieces)))
        total = torch.zeros((), device=accelerator.device)
        for index, (part, labels) in enumerate(pieces):
            last = index == len(pieces) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.network):
                logits = self.network(self._prepared(part)).float()
                loss = masked_loss(logits, labels.to(logits.device), self.pos_weight) * factor
                accelerator.backward(loss)
            total += loss.detach()
        if recipe.clip:
            accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _prepared(self, images: Tensor) -> Tensor:
        pixels = images.to(self.accelerator.device, non_blocking=True).float() / 255
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _stop_at(self, message: str) -> None:
        """Raise ValueError for an image that a worker could not read."""
        if message:
            raise ValueError(message)

    def _check(self, first_bad: int, weights: bool) -> None:
        """Raise ValueError where the loss of a step was no number, or the weights are not."""
        finite = first_bad < 0
        if finite and weights:
            finite = bool(torch.stack([torch.isfinite(p).all() for p in self.bare.parameters()]).all())
        if finite:
            return
        first_bad = first_bad if first_bad >= 0 else self.step
        half = " under fp16" if self.accelerator.mixed_precision == "fp16" else ""
        raise ValueError(
            f"loss: it is no number (NaN) at step {first_bad}{half}; the state of an earlier step is kept, "
            "go on "
            "from it by --resume with a lower --rate" + (" or --precision bf16." if half else ".")
        )

    def _report(self, loss: float, speed: float, now: float) -> None:
        rate = self.plan.recipe.rate_at(self.step - 1, self.order.steps)
        epoch = self.step / self.order.steps_per_epoch
        self.log(
            step=self.step, epoch=round(epoch, 4), loss=loss, rate=rate, images_per_second=round(speed, 1)
        )
        if now - self._said < SAY_EVERY and self.step < self.order.steps:
            return
        self._said = now
        left = (self.order.steps - self.step) * self.order.batch / max(speed, 1e-9)
        self.say(
            f"step {self.step}/{self.order.steps}  epoch {epoch:.2f}  loss {loss:.4f}  {speed:.1f} images/s  "
            f"{_clock(left)} left"
        )

    def _choose(self) -> None:
        """Score the held-out images; keep these weights where they are the best so far."""
        logits, epoch = self.logits(self.choose), self.step // self.order.steps_per_epoch
        aucs = [auc(logits[:, index], self.choose.truth[:, index]) for index in range(len(self.plan.labels))]
        loss = float(
            masked_loss(torch.from_numpy(logits), torch.from_numpy(self.choose.truth))
            / max(np.isfinite(self.choose.truth).sum(), 1)
        )
        known = [value for value in aucs if not math.isnan(value)]
        # the loss settles equal AUCs, and stands alone where no label has both classes
        score = (float(np.mean(known)) if known else 0.0) - 1e-6 * loss
        better = self.best is None or score > self.best
        if better:
            self.best, self.best_epoch, self.bad_epochs = score, epoch, 0
            if self.accelerator.is_main_process:
                self.save_best(self.bare)
        else:
            self.bad_epochs += 1
        named = {
            label: None if math.isnan(value) else round(value, 5)
            for label, value in zip(self.plan.labels, aucs)
        }
        self.log(epoch=epoch, held_out={"auc": named, "loss": loss, "best": better})
        text = ", ".join(
            f"{label} {'–' if value is None else f'{value:.4f}'}" for label, value in named.items()
        )
        self.say(f"epoch {epoch}  held-out AUC {text}  loss {loss:.4f}{'  (best so far)' if better else ''}")
        self.accelerator.wait_for_everyone()

    @torch.inference_mode()
    def logits(self, examples: Examples) -> np.ndarray:
        """Return logits float32 [N, L] of images as they are, computed by all processes together.

        Raises ValueError where an image cannot be read.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        # all processes take as many rows, the last ones perhaps a second time
        rows = np.resize(np.arange(len(examples)), -(-len(examples) // processes) * processes)[
            process::processes
        ]
        size = max(1, min(self.order.batch // (self.plan.recipe.pieces * processes), 64))
        loader = DataLoader(
            Pictures(examples, self.plan.size, self.plan.fit),
            batch_sampler=[[(int(row), None) for row in piece] for piece in _pieces(rows, size)],
            num_workers=self.plan.workers,
            collate_fn=_collated,
        )
        self.network.eval()
        made = []
        for images, message in loader:
            self._stop_at(message)
            made.append(self.network(self._prepared(images)).float())
        gathered = self.accelerator.gather(torch.cat(made)).cpu().numpy()
        by_row = gathered.reshape(processes, len(rows), -1).swapaxes(0, 1).reshape(-1, gathered.shape[-1])
        return np.ascontiguousarray(by_row[: len(examples)], np.float32)


def masked_loss(logits: Tensor, truth: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Return the sum of binary cross-entropies [N, L] over the labels that are certain.

    Parameters
    ----------
    logits, truth : Tensor [N, L]
        The truth is NaN where it is masked.
    pos_weight : Tensor [L], optional
    """
    certain = torch.isfinite(truth)
    return F.binary_cross_entropy_with_logits(
        logits, truth.nan_to_num(0.0), weight=certain.to(logits.dtype), pos_weight=pos_weight, reduction="sum"
    )


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings as one dict, by keys such as "recipe rate"."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key} ") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _collated(items: Sequence[tuple[int, Tensor, str]]) -> tuple[Tensor, str]:
    return torch.stack([image for _, image, _ in items]), next((text for _, _, text in items if text), "")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
