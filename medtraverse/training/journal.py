"""What a run says while it goes: lines of progress, ``log.jsonl``, and a tracker's figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..whole_file import write_text


class Journal:
    """The record of a run; only the main process has one that writes.

    Parameters
    ----------
    path : Path
        ``log.jsonl``: a JSON object a line, one for each update and each validation.
    say : callable
        Takes a line for the user.
    track : callable, optional
        Takes figures by name and the update's number.
    total, images : int
        Updates of the run, and images of each.
    every : int
        Updates between lines of progress.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None],
        track: Callable[[dict[str, float], int], None] | None,
        total: int,
        images: int,
        every: int,
    ):
        self.path, self.say, self.track = path, say, track
        self.total, self.images, self.every = total, images, every
        self.lines: list[str] = []
        self.mean: float | None = None
        self.begun = self.flushed = time.monotonic()
        self.first: int | None = None

    def begin(self, step: int) -> None:
        """Go on behind an update: what a killed run wrote of later ones is taken back."""
        kept = []
        if step and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.begun, self.first = time.monotonic(), step

    def update(self, step: int, loss: float, norm: float, rate: float) -> None:
        """Note an update, `step` of them done."""
        self._write({"step": step, "loss": loss, "rate": rate, "gradient_norm": norm})
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        if step % self.every and step != self.total:
            return
        self.flush()
        done, spent = step - (self.first or 0), time.monotonic() - self.begun
        speed = done * self.images / spent if spent else 0.0
        left = (self.total - step) * self.images / speed if speed else 0.0
        self.say(
            f"update {step}/{self.total}  {step / self.total:4.0%}  loss {self.mean:.4f}  rate {rate:.2g}  "
            f"{speed:.1f} images/s  {clock(left)} left"
        )
        if self.track is not None:
            figures = {"loss": loss, "rate": rate, "gradient_norm": norm, "images_per_second": speed}
            self.track(figures, step)

    def validation(self, step: int, record: dict[str, Any], figures: dict[str, float], text: str) -> None:
        """Note a validation."""
        self._write({"step": step, "validation": record})
        self.flush()
        if self.track is not None:
            self.track({f"validation/{name}": value for name, value in figures.items()}, step)
        self.say(text)

    def pause(self, seconds: float) -> None:
        """Leave time that was not spent on updates out of images/s."""
        self.begun += seconds

    def _write(self, record: dict[str, Any]) -> None:
        self.lines.append(json.dumps(record))

    def flush(self) -> None:
        """Write what is not yet written: a state must not know of updates that the log does not."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in self.lines))
        self.lines.clear()


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
