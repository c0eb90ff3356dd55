"""Traversal by prompt swap (section 3 of TehraniNasab, Kumar, Arbel 2025).

Which latent runs under which prompt at which step is said here; nothing is sampled.

Every output latent of a run is a row. A patient has one neutral row and one row for each attribute and swap
step λ. A row with swap step λ is denoised under the neutral prompt in steps 0…λ (λ + 1 of them: the reference
swaps in a callback that runs *after* step λ) and under its attribute's prompt from step λ + 1 on. Up to its
swap a row equals its patient's neutral row, so only the neutral row has to be computed.
"""

import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from .share import share_of

NEUTRAL = -1
TRAIN_STEPS = 1000
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?) ?%")


def parse_swap_steps(text: str, steps: int) -> tuple[int, ...]:
    """Read swap steps such as ``"45,40,…"`` or ``"90%,80%,…"``.

    Parameters
    ----------
    text : str
        Whole numbers, or shares of the steps in percent, separated by commas. A share keeps its meaning when
        the number of steps changes: 90% is 45 of 50 steps, and 18 of 20.
    steps : int
        Denoising steps. A swap step lies in ``0…steps - 2``: a swap after the last step would change nothing.

    Returns
    -------
    tuple of int
        In the order given.

    Raises
    ------
    ValueError
        The list is empty, repeats a step, is not made of whole numbers and shares, or holds one out of range.
    """
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    if not parts:
        raise ValueError(
            "swap_steps: the list is empty; give absolute steps such as 45,40,35,30,25,20,15,10,5."
        )
    try:
        swap_steps = tuple(
            share_of(share[1], steps) if (share := _SHARE.fullmatch(part)) else int(part) for part in parts
        )
    except ValueError:
        raise ValueError(
            f"swap_steps: {text!r} is not a comma-separated list of whole numbers such as 45,40,35, or of "
            "shares such as 90%,80%,70%."
        ) from None
    outside = [
        (part, step) for part, step in zip(parts, swap_steps, strict=True) if not 0 <= step <= steps - 2
    ]
    if outside:
        part, step = outside[0]
        written = f"{part} (step {step})" if part.endswith("%") else part
        raise ValueError(
            f"swap_steps: {written} is out of range; with {steps} steps a swap step lies in 0…{steps - 2}."
        )
    repeated = {step for step in swap_steps if swap_steps.count(step) > 1}
    if repeated:
        step = min(repeated)
        same = [part for part, other in zip(parts, swap_steps, strict=True) if other == step]
        if len(set(same)) > 1:
            raise ValueError(
                f"swap_steps: {' and '.join(same)} are both step {step} of {steps}; give one of them, or "
                "more steps."
            )
        raise ValueError(f"swap_steps: {same[0]} is given twice; give each swap step once.")
    return swap_steps


def ddim_timesteps(steps: int, train_steps: int = TRAIN_STEPS) -> list[int]:
    """Return diffusers' DDIM timesteps, their spacing "leading", their offset 1.

    Parameters
    ----------
    steps : int
        1 to `train_steps` - 1.
    train_steps : int
        Of the training.

    Returns
    -------
    list of int
        Descending: 981, 961, …, 1 for 50 steps.

    Raises
    ------
    ValueError
        `steps` is out of range.
    """
    if not 1 <= steps < train_steps:
        raise ValueError(
            f"steps: {steps} is out of range; the scheduler 'diffusers_ddim' takes 1…{train_steps - 1}."
        )
    return [index * (train_steps // steps) + 1 for index in reversed(range(steps))]


@dataclass(frozen=True)
class Plan:
    """Rows of a run: patients, attributes and swap steps, in the order given.

    Rows are ordered by patient; within a patient neutral, then every swap step of the first attribute, of the
    second, ….
    """

    patients: int
    attributes: int
    swap_steps: tuple[int, ...]

    @property
    def rows_per_patient(self) -> int:
        """One neutral row, and one for each attribute and swap step."""
        return 1 + self.attributes * len(self.swap_steps)

    @property
    def rows(self) -> int:
        """Number of rows of the run."""
        return self.patients * self.rows_per_patient

    def patient(self) -> torch.Tensor:
        """Return the patient of every row, long [rows]."""
        return torch.arange(self.patients).repeat_interleave(self.rows_per_patient)

    def attribute(self) -> torch.Tensor:
        """Return the attribute of every row, long [rows]; NEUTRAL for neutral rows."""
        branches = torch.arange(self.attributes).repeat_interleave(len(self.swap_steps))
        return torch.cat([torch.tensor([NEUTRAL]), branches]).repeat(self.patients)

    def swap_step(self, steps: int) -> torch.Tensor:
        """Return the swap step of every row, long [rows].

        Parameters
        ----------
        steps : int
            Denoising steps. A neutral row has this number, which is never reached.
        """
        branches = torch.tensor(self.swap_steps).repeat(self.attributes)
        return torch.cat([torch.tensor([steps]), branches]).repeat(self.patients)

    def index(self) -> torch.Tensor:
        """Return the row of every point of a trajectory, long [patients, attributes, 1 + swap steps]."""
        first = (torch.arange(self.patients) * self.rows_per_patient)[:, None, None]
        branches = torch.arange(1, self.rows_per_patient).reshape(1, self.attributes, len(self.swap_steps))
        return torch.cat([first.expand(-1, self.attributes, 1), first + branches], dim=2)

    def sources(self, step: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whose evaluation serves each row at a step.

        Up to its swap a row is served by its patient's neutral row. In the first step after the swap its
        latent is still the neutral one, so the unconditional evaluation is shared for one step more.

        Parameters
        ----------
        step, steps : int
            The step, 0…steps - 1, and their number.

        Returns
        -------
        tuple of Tensor
            Rows that serve the conditional and the unconditional evaluation, long [rows] each.
        """
        own = torch.arange(self.rows)
        neutral = self.patient() * self.rows_per_patient
        swap_step = self.swap_step(steps)
        conditional = torch.where(step <= swap_step, neutral, own)
        unconditional = torch.where(step <= swap_step + 1, neutral, own)
        return conditional, unconditional

    def evaluations(self, steps: int, guidance: bool = True) -> int:
        """Return the number of U-Net rows that a run needs.

        Parameters
        ----------
        steps : int
            Of one evaluation each.
        guidance : bool
            Whether the unconditional half is computed too.
        """
        # Patients share nothing, so one is counted: a hundred thousand have millions of rows.
        patient, total = replace(self, patients=1), 0
        for step in range(steps):
            conditional, unconditional = patient.sources(step, steps)
            total += len(set(conditional.tolist()))
            total += len(set(unconditional.tolist())) if guidance else 0
        return self.patients * total


@dataclass(frozen=True)
class TraversalSettings:
    """All that a traversal depends on beside model and conditionings.

    Attributes
    ----------
    seed, patients : int
        Patient p has the seed ``seed + p``.
    steps : int
    cfg : float
        Weight of classifier-free guidance; 1 is none.
    sampler, scheduler : str
        Names in the host.
    swap_steps : tuple of int
        λ, in the order of the trajectory's points.
    noise : str
        Where noise is drawn, ``"cpu"`` or ``"gpu"``.
    width, height : int
        Of the images, in pixels.
    domain, neutral, neutral_prompt : str
        Names of the domain and of its neutral prompt, and the prompt.
    prompts : tuple of (str, str)
        Name and prompt of each attribute.
    """

    seed: int
    patients: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    swap_steps: tuple[int, ...]
    noise: str
    width: int
    height: int
    domain: str
    neutral: str
    neutral_prompt: str
    prompts: tuple[tuple[str, str], ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every patient."""
        return tuple(range(self.seed, self.seed + self.patients))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The name of every attribute."""
        return tuple(name for name, _ in self.prompts)

    @property
    def guided(self) -> bool:
        """Whether the unconditional half of guidance is computed."""
        return self.cfg != 1.0

    @cached_property
    def plan(self) -> "Plan":
        """The rows of the traversal."""
        return Plan(self.patients, len(self.prompts), self.swap_steps)

    def block(self, first: int, patients: int) -> "TraversalSettings":
        """Return the settings of some of the patients.

        Parameters
        ----------
        first : int
            The first of them, from 0.
        patients : int
            Their number, or as many as there are from `first` on.
        """
        return replace(self, seed=self.seed + first, patients=min(patients, self.patients - first))

    def report(self) -> dict[str, Any]:
        """Return the settings as a report holds them, JSON-serialisable."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "swap_steps": list(self.swap_steps),
            "prompts": dict(self.prompts),
        }
