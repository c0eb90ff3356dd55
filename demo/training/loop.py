"""What all trainings share: schedule, averaged weights, checkpoints, progress, and gradients from several threads."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from medtraverse.whole_file import whole_file, write_text

SAVE_EVERY = 180.0


class Averaged:
    """Exponential moving average of parameters, warmed up so that early steps are forgotten."""

    def __init__(self, parameters, decay):
        self.parameters, self.decay, self.count = parameters, decay, 0
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self):
        self.count += 1
        weight = 1 - min(self.decay, self.count / (self.count + 10))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], weight)

    @torch.no_grad()
    def swap(self):
        """Exchange the averages with the live weights; call again to restore them."""
        for p, s in zip(self.parameters, self.shadow):
            live = p.detach().clone()
            p.copy_(s)
            s.copy_(live)


def threads_of(device, threads=2) -> ThreadPoolExecutor:
    """Threads that each run operators alone: `threads` on a CPU, one for a GPU."""
    count = 1 if torch.device(device).type == "cuda" else threads
    return ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))


class Gradients:
    """Loss gradients of a batch cut into one slice a thread.

    One operator on two threads waits at a barrier for the slower one; whole slices on a thread each do not, which on a shared machine is
    2 to 4 times faster. On a GPU there is one slice.
    """

    def __init__(self, parameters, device, threads=2):
        self.parameters, self.device = parameters, torch.device(device)
        self.slices = 1 if self.device.type == "cuda" else threads
        torch.set_num_threads(1 if self.slices > 1 else threads)
        self.pool = threads_of(device, threads)

    def __call__(self, loss, *batch):
        """Set ``.grad`` to the mean over slices of ``loss(*slice)``; return the mean loss, a tensor. Each slice must be of equal length."""
        pieces = list(zip(*(part.chunk(self.slices) for part in batch)))
        each = map if self.slices == 1 else self.pool.map
        results = list(each(lambda piece: self._one(loss, piece), pieces))
        for index, p in enumerate(self.parameters):
            p.grad = sum(grads[index] for _, grads in results) / len(results)
        return sum(value for value, _ in results) / len(results)

    def _one(self, loss, piece):
        with torch.autocast(self.device.type, torch.bfloat16):
            value = loss(*piece)
        return value.detach(), torch.autograd.grad(value, self.parameters)


class Clock:
    """Progress of a run that ends after `minutes` or `steps`, whichever is given; minutes of earlier, resumed runs count."""

    def __init__(self, name, minutes, steps, spent=0.0, step=0):
        self.name, self.minutes, self.steps, self.step = name, minutes, steps, step
        self.begun, self.saved, self.mean, self.curve = (
            time.monotonic() - 60 * spent,
            time.monotonic(),
            None,
            [],
        )

    @property
    def spent(self):
        return (time.monotonic() - self.begun) / 60

    @property
    def fraction(self):
        return self.step / self.steps if self.steps else min(self.spent / self.minutes, 1.0)

    def rate(self, peak, warm=50):
        """Learning rate: linear warm-up, then a cosine to 2 % of the peak."""
        return (
            peak
            * min(1.0, (self.step + 1) / warm)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.fraction)))
        )

    def tick(self, loss):
        """Count a step; `loss` stays a tensor until it is printed, since reading it makes a GPU wait."""
        self.step += 1
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        if self.step % 20 == 0:
            print(
                f"{self.name} step {self.step} {self.fraction:5.1%} {self.spent:5.1f} min loss {self.mean:.4f}",
                flush=True,
            )
        if self.step % 100 == 0:
            self.curve.append([self.step, round(self.spent, 2), round(float(self.mean), 5)])

    def due(self):
        """True every few minutes: time for a checkpoint."""
        if time.monotonic() - self.saved < SAVE_EVERY:
            return False
        self.saved = time.monotonic()
        return True

    def log(self, device):
        """The record that is kept beside the weights."""
        kind = (
            torch.cuda.get_device_name()
            if torch.device(device).type == "cuda"
            else f"CPU, {os.cpu_count()} cores, {platform.machine()}"
        )
        return {
            "steps": self.step,
            "minutes": round(self.spent, 1),
            "loss": round(float(self.mean), 5),
            "hardware": kind,
            "curve": self.curve,
        }


class Run:
    """A training that can be broken off and continued: networks, AdamW, averaged weights, clock and checkpoint.

    ``networks`` go by the names that they have in the checkpoint at ``path``. The clock starts here: make the run last.
    """

    def __init__(self, name, networks, path: Path, minutes, steps, device, resume, peak, decay, warm=50):
        self.networks, self.path, self.peak, self.warm = networks, path, peak, warm
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        fused = torch.device(device).type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters, peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=fused
        )
        self.average = Averaged(self.parameters, decay)
        self.gradients = Gradients(self.parameters, device)
        self.clock = Clock(name, minutes, steps)
        if resume and path.exists():
            self._load(torch.load(path, map_location=device, weights_only=True), minutes, steps)

    def _load(self, state, minutes, steps):
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.shadow, self.average.count = state["shadow"], state["step"]
        self.clock = Clock(self.clock.name, minutes, steps, state["spent"], state["step"])
        self.clock.curve, self.clock.mean = state["curve"], state["loss"]

    def step(self, loss, *batch, factor=1.0):
        """One update by the gradient of ``loss(*batch)`` at `factor` times the scheduled rate; a checkpoint every few minutes."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.clock.rate(self.peak, self.warm)
        value = self.gradients(loss, *batch)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update()
        self.clock.tick(value)
        if self.clock.due():
            self.save()

    def save(self):
        clock = self.clock
        save_atomically(
            {name: network.state_dict() for name, network in self.networks.items()}
            | {
                "optimizer": self.optimizer.state_dict(),
                "shadow": self.average.shadow,
                "step": clock.step,
                "spent": clock.spent,
                "curve": clock.curve,
                "loss": None if clock.mean is None else float(clock.mean),
            },
            self.path,
        )

    def finish(self):
        """Save, then put the averaged weights into the networks."""
        self.save()
        self.average.swap()


def save_atomically(state, path: Path) -> None:
    with whole_file(path) as part:
        torch.save(state, part)


def write_json(record, path: Path) -> None:
    write_text(path, json.dumps(record, indent=2) + "\n")
