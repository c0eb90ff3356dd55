"""The minimal counterfactual: the fewest changed steps that change a classifier's mind, and what else moved.

A trajectory shows how an image changes with λ. A counterfactual is one image of it: the one with the largest
λ, and so the fewest steps under the attribute's prompt, in which the classifier finds the target and nothing
else that the original does not show. λ is searched on a coarse grid from the largest down, and then step by
step between the first that passes and the one before.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from .identity import correlation, ssim_outside
from .notice import NOTICE
from .table import csv_text

APPEARS, DISAPPEARS = "appears", "disappears"
GOALS = (APPEARS, DISAPPEARS)
# Brightness, in 0…1, by which a pixel must differ to count as changed, and how far that reaches beside it.
CHANGED, BESIDE = 0.05, 3

Pair = TypeVar("Pair", bound=Hashable)


@dataclass(frozen=True)
class Target:
    """What a classifier must say of a counterfactual.

    Attributes
    ----------
    label : int
        Column of the target.
    goal : str
        APPEARS: the target's probability is above `probability`; DISAPPEARS: it is below 1 − `probability`.
    probability : float
        No other label may be above it that is not so in the original.
    """

    label: int
    goal: str = APPEARS
    probability: float = 0.5

    def passes(self, probabilities: np.ndarray, original: np.ndarray) -> np.ndarray:
        """Say of probabilities [..., L], beside the original's, whether they pass: bool [...]."""
        value = probabilities[..., self.label]
        reached = value > self.probability if self.goal == APPEARS else value < 1 - self.probability
        leaked = (probabilities > self.probability) & ~(np.asarray(original) > self.probability)
        leaked[..., self.label] = False
        return np.asarray(reached & ~leaked.any(axis=-1))

    def already(self, original: np.ndarray) -> np.ndarray:
        """Say of the original's probabilities [..., L] whether there is nothing to change: bool [...]."""
        return self.passes(np.asarray(original), original)


def minimal_swaps(
    pairs: Sequence[Pair],
    swap_steps: Sequence[int],
    passing: Callable[[Sequence[tuple[Pair, int]]], Sequence[bool]],
) -> dict[Pair, int | None]:
    """Search each pair's largest λ that passes, from the largest of a grid down, then single steps.

    Parameters
    ----------
    pairs : sequence
        Of patient and attribute, or whatever stands for one search.
    swap_steps : sequence of int
        The coarse grid, in any order.
    passing : callable
        Samples and judges branches, given as (pair, λ): whether each passes. All of a round come at once.

    Returns
    -------
    dict
        λ of each pair; None where none of the grid passes.

    Notes
    -----
    The λ found passes, and so does no larger one of the grid, nor any between it and the grid's next larger.
    """
    grid = sorted(set(swap_steps), reverse=True)
    found: dict[Pair, int | None] = dict.fromkeys(pairs)
    left = list(found)
    for place, swap_step in enumerate(grid):
        if not left:
            break
        verdicts = passing([(pair, swap_step) for pair in left])
        reached = [pair for pair, good in zip(left, verdicts, strict=True) if good]
        left = [pair for pair in left if pair not in reached]
        between = range(swap_step + 1, grid[place - 1]) if place else range(0)
        finer = [(pair, step) for pair in reached for step in between]
        found.update(dict.fromkeys(reached, swap_step))
        for (pair, step), good in zip(finer, passing(finer) if finer else [], strict=True):
            if good:
                found[pair] = max(step, found[pair] or 0)
    return found


def changed_pixels(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return where images [N, H, W, 3] differ by more than `CHANGED`, or beside that: bool [N, H, W]."""
    difference = (after - before).abs().amax(dim=-1)[:, None]
    near = F.max_pool2d((difference > CHANGED).float(), 2 * BESIDE + 1, stride=1, padding=BESIDE)
    return near[:, 0] > 0.5


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Pairs of an original and its minimal counterfactual, and what was measured on them.

    Attributes
    ----------
    before, after : Tensor [N, H, W, 3]
        In 0…1.
    seeds, attributes : tuples, one entry a pair
    swap_steps : tuple of int
        λ of each; where none passed, the smallest that was tried.
    found : tuple of bool
    targets : tuple of Target
    labels : tuple of str
    original, probabilities : ndarray [N, L]
        Of `before` and `after`.
    null : ndarray [N]
        Largest change of a pixel when the original's own prompt takes the attribute's place; NaN where that
        was not asked for.
    settings : dict
        JSON-serialisable.
    """

    before: torch.Tensor
    after: torch.Tensor
    seeds: tuple[int, ...]
    attributes: tuple[str, ...]
    swap_steps: tuple[int, ...]
    found: tuple[bool, ...]
    targets: tuple[Target, ...]
    labels: tuple[str, ...]
    original: np.ndarray
    probabilities: np.ndarray
    null: np.ndarray
    settings: dict[str, Any]

    def measures(self) -> dict[str, np.ndarray]:
        """Return what moved in each pair, [N] each."""
        region = changed_pixels(self.before, self.after)
        whole = torch.zeros_like(region)
        return {
            "changed share": region.double().mean(dim=(1, 2)).numpy(),
            "correlation": correlation(self.after, self.before).numpy(),
            "SSIM": ssim_outside(self.after, self.before, whole).numpy(),
            "SSIM outside": ssim_outside(self.after, self.before, region).numpy(),
            "null control": self.null,
        }

    def already(self) -> list[bool]:
        """Say of each pair whether its original passes as it is, so that its counterfactual means nothing."""
        return [bool(target.already(row)) for target, row in zip(self.targets, self.original)]

    def names(self) -> list[str]:
        """Return a line for each pair: seed, attribute, λ, the target's probability before and after."""
        lines = []
        for n, (seed, attribute) in enumerate(zip(self.seeds, self.attributes)):
            label = self.targets[n].label
            before, after = (float(part[n, label]) for part in (self.original, self.probabilities))
            found = f"λ = {self.swap_steps[n]}" if self.found[n] else f"none to λ = {self.swap_steps[n]}"
            if self.already()[n]:
                found = "the original passes already"
            lines.append(f"{seed} · {attribute} · {found} · {before:.2f} → {after:.2f}")
        return lines

    def facts(self) -> list[list[str]]:
        """Return the lines that a viewer says of each pair."""
        measures = self.measures()
        said = []
        for n in range(len(self.seeds)):
            lines = [
                f"{label}: {float(self.original[n, column]):.3f} → {float(self.probabilities[n, column]):.3f}"
                for column, label in enumerate(self.labels)
            ]
            lines += [
                f"{name}: {value:.2g}" if name == "null control" else f"{name}: {value:.3f}"
                for name, value in ((name, float(values[n])) for name, values in measures.items())
                if value == value
            ]
            if self.already()[n]:
                lines.insert(0, "the original passes already: there is nothing to find")
            elif not self.found[n]:
                lines.insert(0, f"nothing passes down to λ = {self.swap_steps[n]}")
            said.append(lines)
        return said

    @property
    def csv(self) -> str:
        """One row a pair, as CSV."""
        measures = self.measures()
        header = ["seed", "attribute", "goal", "target", "already", "found", "lambda"]
        header += [f"{label} {when}" for label in self.labels for when in ("before", "after")]
        rows = [
            [
                seed,
                self.attributes[n],
                self.targets[n].goal,
                self.labels[self.targets[n].label],
                int(self.already()[n]),
                int(self.found[n]),
                self.swap_steps[n],
                *(
                    round(float(part[n, column]), 6)
                    for column in range(len(self.labels))
                    for part in (self.original, self.probabilities)
                ),
                *(round(float(values[n]), 9) for values in measures.values()),
            ]
            for n, seed in enumerate(self.seeds)
        ]
        return csv_text([*header, *measures], rows)

    def figure(self) -> Any:
        """Return the matplotlib figure: each pair with its signed difference, in colours for all eyes."""
        from .figures.pair import pair_figure

        return pair_figure(self.before, self.after, self.names(), "Minimal counterfactuals")

    def report(self) -> dict[str, Any]:
        """Return everything as a JSON-serialisable dict."""
        measures = self.measures()
        return {
            "pairs": [
                {
                    "seed": seed,
                    "attribute": self.attributes[n],
                    "goal": self.targets[n].goal,
                    "target": self.labels[self.targets[n].label],
                    "probability": self.targets[n].probability,
                    "already": self.already()[n],
                    "found": self.found[n],
                    "swap_step": self.swap_steps[n],
                    "before": _by_label(self.labels, self.original[n]),
                    "after": _by_label(self.labels, self.probabilities[n]),
                    **{name: _finite(float(values[n])) for name, values in measures.items()},
                }
                for n, seed in enumerate(self.seeds)
            ],
            "settings": self.settings,
            "notice": NOTICE,
        }


def _by_label(labels: Sequence[str], values: np.ndarray) -> Mapping[str, float]:
    return {label: round(float(value), 6) for label, value in zip(labels, values)}


def _finite(value: float) -> float | None:
    return value if value == value else None
