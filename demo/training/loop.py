"""The training loop of the base: schedule, averaged weights, checkpoints, progress, gradients by threads.

A `Recipe` says how weights are updated, a `Run` does it and can be broken off and continued. The base's VAE
and U-Net differ in their recipes and losses only; fine-tunes and classifiers are the library's to train.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medtraverse.whole_file import whole_file, write_text

SAVE_EVERY = 180.0


@dataclass(frozen=True)
class Recipe:
    """How a training updates its weights.

    Attributes
    ----------
    peak : float
        Greatest learning rate.
    warm : int
        Steps of linear warm-up.
    floor : float
        Share of the peak that the cosine ends at.
    betas, weight_decay
        AdamW's.
    averaging : float, optional
        Decay of the moving average of the weights; None trains without one.
    half : bool
        Compute the loss under bfloat16 autocast.
    slices : int
        Slices of a batch on a CPU, a thread each; a GPU has one. A loss that needs the whole batch (batch
        normalisation) or the global random state (dropout) has one slice.
    """

    peak: float
    warm: int = 50
    floor: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    averaging: float | None = None
    half: bool = True
    slices: int = 2


class Averaged:
    """Exponential moving average of parameters, warmed up so that early steps are forgotten."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.parameters, self.decay, self.count = parameters, decay, 0
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        self.count += 1
        weight = 1 - min(self.decay, self.count / (self.count + 10))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averages with the live weights; call again to restore them."""
        for p, s in zip(self.parameters, self.shadow):
            live = p.detach().clone()
            p.copy_(s)
            s.copy_(live)


def threads_of(device: str | torch.device, threads: int = 2) -> ThreadPoolExecutor:
    """Threads that each run operators alone: `threads` on a CPU, one for a GPU."""
    count = 1 if torch.device(device).type == "cuda" else threads
    return ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))


class Gradients:
    """Loss gradients of a batch cut into one slice a thread.

    One operator on two threads waits at a barrier for the slower one; whole slices on a thread each do not,
    which on a shared machine is 2 to 4 times faster. On a GPU there is one slice.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        device: str | torch.device,
        slices: int = 2,
        half: bool = True,
    ):
        self.parameters, self.device, self.half = parameters, torch.device(device), half
        self.slices = 1 if self.device.type == "cuda" else slices
        if self.slices > 1:
            torch.set_num_threads(1)
            self.pool = threads_of(device, self.slices)

    def __call__(self, loss: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """Set ``.grad`` to the mean over slices of ``loss(*slice)``, slices of equal length.

        Returns
        -------
        Tensor
            The mean loss. It stays a tensor, since reading it makes a GPU wait.
        """
        pieces = list(zip(*(part.chunk(self.slices) for part in batch)))
        each: Callable[..., Any] = map if self.slices == 1 else self.pool.map
        results = list(each(lambda piece: self._one(loss, piece), pieces))
        for index, p in enumerate(self.parameters):
            p.grad = sum(grads[index] for _, grads in results) / len(results)
        total: Tensor = sum(value for value, _ in results)
        return total / len(results)

    def _one(
        self, loss: Callable[..., Tensor], piece: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            value = loss(*piece)
        return value.detach(), torch.autograd.grad(value, self.parameters)


class Clock:
    """Progress of a run that ends after `minutes` or `steps`, whichever is given.

    Minutes of earlier runs that this one continues count.
    """

    def __init__(
        self, name: str, minutes: float | None, steps: int | None, spent: float = 0.0, step: int = 0
    ):
        self.name, self.minutes, self.steps, self.step = name, minutes, steps, step
        self.begun = time.monotonic() - 60 * spent
        self.saved = time.monotonic()
        self.mean: Tensor | float | None = None
        self.curve: list[list[float]] = []

    @property
    def spent(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self.begun) / 60

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        if self.steps:
            return self.step / self.steps
        return min(self.spent / self.minutes, 1.0) if self.minutes else 1.0

    def rate(self, recipe: Recipe) -> float:
        """Learning rate: linear warm-up, then a cosine to `recipe.floor` of the peak."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.fraction))
        ramp = min(1.0, (self.step + 1) / recipe.warm)
        return recipe.peak * ramp * (recipe.floor + (1 - recipe.floor) * cosine)

    def tick(self, loss: Tensor) -> None:
        """Count a step."""
        self.step += 1
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        if self.step % 20 == 0:
            print(
                f"{self.name} step {self.step} {self.fraction:5.1%} {self.spent:5.1f} min "
                f"loss {self.mean:.4f}",
                flush=True,
            )
        if self.step % 100 == 0:
            self.curve.append([self.step, round(self.spent, 2), round(float(self.mean), 5)])

    def due(self) -> bool:
        """True every few minutes: time for a checkpoint."""
        if time.monotonic() - self.saved < SAVE_EVERY:
            return False
        self.saved = time.monotonic()
        return True

    def log(self, device: str | torch.device) -> dict[str, Any]:
        """The record that is kept beside the weights."""
        return {
            "steps": self.step,
            "minutes": round(self.spent, 1),
            "loss": None if self.mean is None else round(float(self.mean), 5),
            "hardware": hardware(device),
            "curve": self.curve,
        }


def hardware(device: str | torch.device) -> str:
    """What a training ran on, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}"


class Run:
    """A training that can be broken off and continued.

    It holds networks, AdamW, averaged weights, clock and checkpoint. The clock starts here, so make the run
    last.

    Parameters
    ----------
    name : str
        For the lines of progress.
    networks : mapping of str to torch.nn.Module
        By the names that they have in the checkpoint.
    path : Path
        Of the checkpoint.
    recipe : Recipe
    minutes : float, optional
    steps : int, optional
        One of the two ends the run.
    device : str or torch.device
    resume : bool
        Continue from the checkpoint, if there is one.
    identity : dict, optional
        What makes this training another one. It is kept in the checkpoint.

    Raises
    ------
    ValueError
        The checkpoint to continue from has another identity.
    """

    def __init__(
        self,
        name: str,
        networks: Mapping[str, nn.Module],
        path: Path,
        recipe: Recipe,
        minutes: float | None,
        steps: int | None,
        device: str | torch.device,
        resume: bool,
        identity: dict[str, Any] | None = None,
    ):
        self.networks, self.path, self.recipe, self.identity = networks, path, recipe, identity or {}
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            recipe.peak,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=torch.device(device).type == "cuda",
        )
        self.average = None if recipe.averaging is None else Averaged(self.parameters, recipe.averaging)
        self.gradients = Gradients(self.parameters, device, recipe.slices, recipe.half)
        self.clock = Clock(name, minutes, steps)
        if resume and path.exists():
            self._load(torch.load(path, map_location=device, weights_only=True), minutes, steps)

    def _load(self, state: dict[str, Any], minutes: float | None, steps: int | None) -> None:
        # Checkpoints without an identity are of before there was one.
        if state.get("identity", self.identity) != self.identity:
            raise ValueError(
                f"checkpoint: {self.path} belongs to a training with {state['identity']}, "
                f"not {self.identity}; begin anew or give the same settings."
            )
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.shadow, self.average.count = state["shadow"], state["step"]
        self.clock = Clock(self.clock.name, minutes, steps, state["spent"], state["step"])
        self.clock.curve, self.clock.mean = state["curve"], state["loss"]

    @property
    def done(self) -> bool:
        """Whether the run has had its minutes or steps."""
        return self.clock.fraction >= 1

    def step(self, loss: Callable[..., Tensor], *batch: Tensor, factor: float = 1.0) -> None:
        """One update by the gradient of ``loss(*batch)`` at `factor` times the scheduled rate.

        Every few minutes a checkpoint is saved.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.clock.rate(self.recipe)
        value = self.gradients(loss, *batch)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.clock.tick(value)
        if self.clock.due():
            self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        clock = self.clock
        state: dict[str, Any] = {name: network.state_dict() for name, network in self.networks.items()}
        state |= {
            "identity": self.identity,
            "optimizer": self.optimizer.state_dict(),
            "step": clock.step,
            "spent": clock.spent,
            "curve": clock.curve,
            "loss": None if clock.mean is None else float(clock.mean),
        }
        if self.average is not None:
            state["shadow"] = self.average.shadow
        save_atomically(state, self.path)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks hold the averaged weights, if there are any, inside the block."""
        if self.average is not None:
            self.average.swap()
        yield
        if self.average is not None:
            self.average.swap()

    def finish(self) -> None:
        """Save, then put the averaged weights, if there are any, into the networks."""
        self.save()
        if self.average is not None:
            self.average.swap()


def save_atomically(state: object, path: Path) -> None:
    """`torch.save`, whole or not at all."""
    with whole_file(path) as part:
        torch.save(state, part)


def write_json(record: object, path: Path) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(record, indent=2) + "\n")
