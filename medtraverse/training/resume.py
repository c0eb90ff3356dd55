"""The state of a run on disk: all that its next update depends on, so that a killed run goes on exactly.

What is drawn is a function of the seed and the update's number (`draws`), so no random state is kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step-(\d{9})")


@dataclass
class State:
    """Attributes: what is kept of a run after an update.

    `step` updates are done; `identity` is what makes it another training; `tensors` holds weights, optimiser,
    averages and the like; `record` what else there is, JSON-serialisable.
    """

    step: int
    identity: dict[str, Any]
    tensors: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: State) -> None:
    """Write a state into a new folder, rename it, and remove the one before.

    Raises ValueError where the disk is full; the one before stays.
    """
    target, part = folder / f"step-{state.step:09d}", folder / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, value in state.tensors.items():
            # Not named .pt: ComfyUI would list it where a run lies in its models.
            torch.save(value, part / f"{name}.state")
        about = {"step": state.step, "identity": state.identity, "record": state.record}
        (part / "state.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(
            f"out: the state after update {state.step} cannot be written into {folder} ({reason}); free some "
            "space and give --resume."
        ) from error
    for other in _states(folder):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def last_step(folder: Path) -> int | None:
    """Return the update after which a state is there; None without one."""
    states = _states(folder)
    return int(states[-1].name.removeprefix("step-")) if states else None


def load_state(folder: Path, identity: dict[str, Any]) -> State:
    """Read the last state of a run.

    Raises
    ------
    ValueError
        It is of another training; the message says in what.
    """
    path = _states(folder)[-1]
    about = json.loads((path / "state.json").read_text(encoding="utf-8"))
    # As JSON has them: tuples are lists there.
    wanted, kept = json.loads(json.dumps(identity)), about["identity"]
    other = [key for key in {**kept, **wanted} if kept.get(key) != wanted.get(key)]
    if other:
        key = other[0]
        raise ValueError(
            f"resume: {folder.parent} holds a training with {key} {kept.get(key)!r}, not "
            f"{wanted.get(key)!r}; give the same, or another folder."
        )
    tensors = {
        file.stem: torch.load(file, map_location="cpu", weights_only=True) for file in path.glob("*.state")
    }
    return State(about["step"], about["identity"], tensors, about["record"])


def _states(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if _NAME.fullmatch(path.name) and (path / "state.json").is_file()
    )
