"""Direction cosines: how far a trajectory bends (Fig. 5; TehraniNasab, Kumar, Arbel
2025, arXiv 2503.23623).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .published import published_curve
from .table import csv_text, finite_list
from .trajectory import SWAP, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DirectionCosines:
    """Direction cosines of the attributes of one or more trajectories.

    Attributes
    ----------
    names, colours : tuples of str, A
        Of each attribute; its neutral stands before the name where several trajectories would repeat one.
    seeds : tuple of tuple of int, A
        The patients of each attribute.
    swap_steps : tuple of int, L
        In trajectory order: 45, 40, ..., 5.
    cosines : Tensor [A, P, L], float64
        In -1..1. NaN where a swap did not move, and past an attribute's last patient.
    published : mapping of name to {swap step: mean}
        The paper's means, empty where it has none.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    swap_steps: tuple[int, ...]
    cosines: Tensor
    published: Mapping[str, Mapping[int, float]]

    @property
    def csv(self) -> str:
        """One row per attribute and patient, as CSV."""
        return csv_text(self._header, self._rows)

    @property
    def csv_with_published(self) -> str:
        """The same with the paper's means below."""
        known = [
            [name, "mean, from the paper", *(means.get(step, "") for step in self.swap_steps)]
            for name, means in self.published.items()
        ]
        return csv_text(self._header, self._rows + known)

    @property
    def _header(self) -> list[str]:
        return ["attribute", "seed", *map(str, self.swap_steps)]

    @property
    def _rows(self) -> list[list[Any]]:
        return [
            [name, seed, *line]
            for name, seeds, lines in zip(self.names, self.seeds, self.cosines.tolist())
            for seed, line in zip(seeds, lines)
        ]

    def figure(self) -> "Figure":
        """Return the matplotlib figure (Fig. 5), the paper's means dashed."""
        from .figures.cosine_chart import cosine_figure

        return cosine_figure(self.cosines, self.swap_steps, self.names, self.colours, self.published)

    def report(self) -> dict[str, Any]:
        """Return means and standard deviations over patients as a JSON-serialisable dict."""
        named = dict(zip(self.names, self.cosines))
        return {
            "swap_steps": list(self.swap_steps),
            "patients": self.cosines.shape[1],
            "mean": {name: finite_list(item.nanmean(0)) for name, item in named.items()},
            "standard_deviation": {
                name: finite_list((item - item.nanmean(0)).square().nanmean(0).sqrt())
                for name, item in named.items()
            },
        }


def measure_directions(trajectories: Sequence[Trajectory], published: bool = True) -> DirectionCosines:
    """Take the direction cosines of every attribute of some trajectories.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        One or more, of prompt swaps with the same swap steps.
    published : bool
        Set the paper's means beside them.

    Raises
    ------
    ValueError
        Trajectories of curve frames or of different swap steps, or latents that are not finite.
    """
    points = trajectories[0].points
    if any(item.kind != SWAP or item.points != points for item in trajectories):
        raise ValueError(
            "trajectory: these are curve frames, or their swap steps differ; wire trajectories of Prompt "
            "Swap KSampler with the same swap steps in the same order."
        )
    names = _names(trajectories)
    cosines: list[Tensor] = []
    seeds: list[tuple[int, ...]] = []
    known: dict[str, Mapping[int, float]] = {}
    for item in trajectories:
        latents = item.gather(item.latents)
        paper = published_curve("direction cosine", item.settings.get("domain", ""), item.neutral)
        for number, attribute in enumerate(item.attributes):
            if published and attribute in paper:
                known[names[len(cosines)]] = paper[attribute]
            cosines.append(direction_cosines(latents[:, number, 0], latents[:, number, 1:]))
            seeds.append(item.seeds)
    most = max(map(len, cosines))
    padded = [torch.nn.functional.pad(each, (0, 0, 0, most - len(each)), value=torch.nan) for each in cosines]
    return DirectionCosines(
        names=names,
        colours=tuple(colour for item in trajectories for colour in item.colours),
        seeds=tuple(seeds),
        swap_steps=tuple(int(point) for point in points[1:]),
        cosines=torch.stack(padded),
        published=known,
    )


def _names(trajectories: Sequence[Trajectory]) -> tuple[str, ...]:
    """Attribute names; with their neutral in front where several trajectories would repeat one."""
    names = [name for item in trajectories for name in item.attributes]
    if len(set(names)) < len(names):
        names = [f"{item.neutral} {name}" for item in trajectories for name in item.attributes]
    return tuple(names)


def direction_cosines(neutral: Tensor, swaps: Tensor) -> Tensor:
    """Cosine between each direction z(lambda) - z(neutral) and the first one, z(45) - z(neutral).

    Differences and sums are float64: in half precision, as the reference takes them, cosines reach 1.001.

    Parameters
    ----------
    neutral : Tensor [P, ...]
        Final latents of the neutral images, one per patient.
    swaps : Tensor [P, L, ...]
        Final latents of the swaps in trajectory order (lambda = 45, 40, ..., 5).

    Returns
    -------
    Tensor [P, L], float64, on the CPU
        In -1..1, the first column exactly 1. NaN where a swap did not move at all, and in the whole row where
        the first one did not: a zero vector has no direction.

    Raises
    ------
    ValueError
        Shapes that do not fit, no swaps, or latents that are not finite.
    """
    if swaps.ndim < 2 or neutral.shape != swaps.shape[:1] + swaps.shape[2:] or swaps.shape[1] < 1:
        raise ValueError(
            f"swaps: {list(swaps.shape)} do not fit neutral {list(neutral.shape)}; give [P, L, ...] and "
            "[P, ...]."
        )
    directions = (swaps.cpu().double() - neutral.cpu().double()[:, None]).flatten(2)
    if not bool(torch.isfinite(directions).all()):
        raise ValueError(
            "swaps: they or neutral hold NaN or infinite values; check the latents of the trajectory."
        )
    # by the largest entry first: squares of very short directions would underflow
    directions = directions / directions.abs().amax(dim=2, keepdim=True)
    directions = directions / directions.norm(dim=2, keepdim=True)
    cosines: Tensor = (directions * directions[:, :1]).sum(dim=2).clamp(-1, 1)
    cosines[:, 0] = torch.where(cosines[:, 0].isnan(), torch.nan, 1.0)
    return cosines
