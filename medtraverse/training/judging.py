"""A model on the way is judged by what it is for: CFRT and flip rate of fixed patients by the prompt swap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cfrt import CFRT, cfrt
from ..domain import Domain
from ..evaluation import judged_columns
from ..flip_rate import FlipRate, flip_rate, outwards
from ..plain_traversal import Model, draw_noise, traverse
from ..traversal import parse_swap_steps
from .held_out import over_processes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..classifier import Classifier
    from .settings import Settings

# Patients sampled together; no effect on the result.
BLOCK = 4
PICTURED = 4


@dataclass(frozen=True)
class Judged:
    """CFRT and flip rate of each attribute."""

    cfrt: dict[str, CFRT]
    flips: dict[str, FlipRate]

    def figures(self) -> dict[str, float]:
        """Return the rates by name."""
        rates = {f"cfrt/{name}": result.cfrt for name, result in self.cfrt.items()}
        return rates | {f"flip_rate/{name}": result.rate for name, result in self.flips.items()}

    def report(self) -> dict[str, Any]:
        """Return the rates with their intervals, as JSON holds them."""
        return {
            name: {
                "cfrt": result.cfrt,
                "cfrt_interval": list(result.interval),
                "patients": result.patients,
                "flip_rate": None if self.flips[name].able == 0 else self.flips[name].rate,
                "already": self.flips[name].already,
            }
            for name, result in self.cfrt.items()
        }

    @property
    def score(self) -> tuple[float, float]:
        """Mean CFRT, then mean flip rate of the attributes for which some patient could flip."""
        rates = [result.rate for result in self.flips.values() if result.able]
        return (
            float(np.mean([result.cfrt for result in self.cfrt.values()])),
            float(np.mean(rates)) if rates else 0.0,
        )


class PromptSwaps:
    """Patients, prompts and the classifier that judges them; all checked before the first update.

    Parameters
    ----------
    settings : Settings
    domain : Domain
    classifier : Classifier

    Raises
    ------
    ValueError
        The classifier judges none of the attributes, or fewer than two labels.
    """

    def __init__(self, settings: Settings, domain: Domain, classifier: Classifier):
        self.settings, self.domain, self.classifier = settings, domain, classifier
        alone = [attribute for attribute in domain.select() if len(attribute.labels) == 1]
        kept, fault = [], ValueError(f"domain: no attribute of {domain.name} stands for a single label.")
        for attribute in alone:
            try:
                columns = judged_columns(
                    [attribute.name], [attribute.labels], classifier.labels, domain.aliases
                )
            except ValueError as error:
                fault = error
            else:
                kept.append((attribute, columns[0][0]))
        if not kept:
            raise fault
        if len(classifier.labels) < 2:
            raise ValueError(
                f"classifier: it judges {classifier.labels[0]} alone, and CFRT compares labels; give one of "
                "more, or several files."
            )
        self.attributes = [attribute for attribute, _ in kept]
        self.targets = [column for _, column in kept]
        self.swap_steps = tuple(
            outwards(parse_swap_steps(settings.swap_steps, settings.validation_steps), "swap")
        )

    @torch.no_grad()
    def __call__(self, model: Model, accelerator: Accelerator, picture: Path | None = None) -> Judged:
        """Draw all patients, shared by the processes, and judge them.

        Parameters
        ----------
        model : Model
        accelerator : Accelerator
        picture : Path, optional
            Where the main process draws the first of its patients.
        """
        settings, domain = self.settings, self.domain
        names = list(domain.neutrals)
        own = range(accelerator.process_index, settings.validation_patients, accelerator.num_processes)
        shape = (1 + len(self.swap_steps), len(self.classifier.labels))
        scores = torch.zeros(settings.validation_patients, len(self.attributes), *shape, dtype=torch.float64)
        images: list[torch.Tensor] = []
        for start in range(0, len(own), BLOCK):
            patients = list(own[start : start + BLOCK])
            neutrals = [names[patient % len(names)] for patient in patients]
            latents = traverse(
                model,
                [domain.neutrals[name] for name in neutrals],
                [[domain.prompt(attribute, name) for attribute in self.attributes] for name in neutrals],
                draw_noise([settings.validation_seed + patient for patient in patients], model.latent_shape),
                self.swap_steps,
                settings.validation_steps,
                settings.guidance,
            )
            # Point 0 is one image for all attributes.
            neutral, swapped = latents[:, 0, 0], latents[:, :, 1:]
            decoded = model.decode(torch.cat([neutral, swapped.flatten(0, 2)]))
            found = self.classifier.predict(decoded).double()
            first, rest = found[: len(patients)], found[len(patients) :]
            scores[patients, :, 0] = first[:, None].expand(-1, len(self.attributes), -1)
            scores[patients, :, 1:] = rest.reshape(len(patients), len(self.attributes), -1, shape[1])
            if picture is not None and sum(map(len, images)) < PICTURED:
                images.append(_arranged(decoded, len(patients), swapped.shape[1:3]))
        scores = over_processes(scores, accelerator)
        if picture is not None:
            self._draw(torch.cat(images)[:PICTURED], list(own)[:PICTURED], picture)
        values = scores.numpy()
        pairs = list(enumerate(zip(self.attributes, self.targets, strict=True)))
        return Judged(
            {a.name: cfrt(values[:, n, 1:], values[:, n, 0], target) for n, (a, target) in pairs},
            {
                a.name: flip_rate(values[:, n, 1:], values[:, n, 0], target, self.swap_steps)
                for n, (a, target) in pairs
            },
        )

    def _draw(self, images: torch.Tensor, patients: list[int], path: Path) -> None:
        from ..figures.grid import trajectory_grid
        from ..figures.render import save

        figure = trajectory_grid(
            images,
            [attribute.name for attribute in self.attributes],
            [attribute.colour for attribute in self.attributes],
            ["neutral", *map(str, self.swap_steps)],
            [self.settings.validation_seed + patient for patient in patients],
            path.stem,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, path)


def _arranged(decoded: torch.Tensor, patients: int, kinds: torch.Size) -> torch.Tensor:
    """Return images [patients, attributes, 1 + swaps, H, W, 3] of neutrals and then of swaps."""
    neutral, swapped = decoded[:patients], decoded[patients:]
    swapped = swapped.reshape(patients, *kinds, *decoded.shape[1:])
    return torch.cat([neutral[:, None, None].expand(-1, kinds[0], 1, -1, -1, -1), swapped], 2)
