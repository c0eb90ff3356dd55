"""The trajectory bundle that the nodes hand to each other: latents, and what each of them is."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from .labels import Aliases, position

SWAP, CURVE = "swap", "curve"

_Rows = TypeVar("_Rows", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class Trajectory:
    """Latents of patients × attributes × points.

    Attributes
    ----------
    latents : Tensor [rows, C, h, w]
        float32, in ComfyUI's scale (diffusers' divided by the VAE's, 0.18215 in most).
    index : LongTensor [patients, attributes, points]
        Row of each point; point 0 is the neutral one.
    seeds : tuple of int, one per patient.
    attributes, colours, labels : tuples, one per attribute
        Name, ``#RRGGBB``, and the classifier labels that the attribute should raise.
    points : tuple of str
        ``neutral`` and the swap steps (kind ``swap``), or frame numbers (kind ``curve``).
    kind : ``"swap"`` or ``"curve"``
    neutral : str
        The neutral prompt's name.
    settings : dict
        Everything that the latents depend on, JSON-serialisable.
    rough : Tensor [C + 1, 3], optional
        Linear map from a latent to rough colours in 0…1, the constant last; for viewers alone.
    aliases : mapping of str to sequence of str
        The domain's other words for labels, by which classifiers may call them.
    """

    latents: torch.Tensor
    index: torch.Tensor
    seeds: tuple[int, ...]
    attributes: tuple[str, ...]
    colours: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    points: tuple[str, ...]
    kind: str = SWAP
    neutral: str = "neutral"
    settings: dict[str, Any] = field(default_factory=dict)
    rough: torch.Tensor | None = None
    aliases: Aliases = field(default_factory=dict)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return self.index.shape[0]

    def describe(self) -> dict[str, Any]:
        """Return what the trajectory is without its latents, JSON-serialisable."""
        return {
            "kind": self.kind,
            "neutral": self.neutral,
            "seeds": list(self.seeds),
            "attributes": list(self.attributes),
            "points": list(self.points),
            "settings": self.settings,
        }

    def check_rows(self, rows: Sized) -> None:
        """Refuse values that are not one per row.

        Parameters
        ----------
        rows : sized
            Values of the rows, [rows, …], such as their images.

        Raises
        ------
        ValueError
            They are more or fewer than the trajectory's rows.
        """
        if len(rows) != len(self.latents):
            raise ValueError(
                f"images: {len(rows)} do not match the trajectory's {len(self.latents)} latents; "
                "decode the LATENT output of the node that made this trajectory, without dropping or "
                "reordering."
            )

    def gather(self, rows: _Rows) -> _Rows:
        """Arrange values given per row.

        Parameters
        ----------
        rows : Tensor or ndarray [rows, …]

        Returns
        -------
        Tensor or ndarray [patients, attributes, points, …]

        Raises
        ------
        ValueError
            Their number is not the trajectory's number of rows.
        """
        self.check_rows(rows)
        if isinstance(rows, torch.Tensor):
            return rows[self.index.to(rows.device)]
        gathered: np.ndarray = rows[self.index.numpy()]
        return gathered

    def select(
        self,
        patients: int | None = None,
        attributes: Sequence[str] | None = None,
        points: Sequence[str] | None = None,
    ) -> "Trajectory":
        """Return the trajectory of some patients, attributes and points only, with the rows that they need.

        Parameters
        ----------
        patients : int, optional
            Number of patients to keep, the first ones.
        attributes, points : sequences of str, optional
            Names to keep, in that order; the neutral point is always kept, first.

        Raises
        ------
        ValueError
            A name that the trajectory does not have.
        """
        kept = list(range(self.patients))[:patients]
        columns = [_position(name, self.attributes, "attributes") for name in attributes or self.attributes]
        chosen = [_position(name, self.points, "points") for name in points or self.points]
        chosen = [0] + [point for point in chosen if point]
        index = self.index[kept][:, columns][:, :, chosen]
        rows, index = torch.unique(index, return_inverse=True)
        return replace(
            self,
            latents=self.latents[rows],
            index=index,
            seeds=tuple(self.seeds[p] for p in kept),
            attributes=tuple(self.attributes[a] for a in columns),
            colours=tuple(self.colours[a] for a in columns),
            labels=tuple(self.labels[a] for a in columns),
            points=tuple(self.points[n] for n in chosen),
        )

    def curve(self, latents: torch.Tensor, settings: dict[str, Any]) -> "Trajectory":
        """Make the trajectory of curve frames.

        Parameters
        ----------
        latents : Tensor [patients, attributes, frames, C, h, w]
            Each patient and attribute's frames, in the order of this trajectory.
        settings : dict
            Of the curve, kept under ``curve``.

        Returns
        -------
        Trajectory
            Of kind ``curve``; its points are the frames' numbers.
        """
        patients, attributes, frames = latents.shape[:3]
        index = torch.arange(patients * attributes * frames).reshape(patients, attributes, frames)
        return replace(
            self,
            latents=latents.flatten(0, 2),
            index=index,
            points=tuple(map(str, range(frames))),
            kind=CURVE,
            settings={**self.settings, "curve": settings},
        )


def _position(name: str, names: tuple[str, ...], what: str) -> int:
    place = position(name, names)
    if place is None:
        raise ValueError(f"{what}: the trajectory has no {name!r}; it has {', '.join(names)}.")
    return place


def control_points(latents: torch.Tensor) -> Trajectory:
    """Return a trajectory that runs through latents in order, of one patient and one attribute.

    Parameters
    ----------
    latents : Tensor [N, C, h, w]
        In the order in which the curve runs through them.
    """
    index = torch.arange(len(latents)).reshape(1, 1, -1)
    return Trajectory(
        latents.float().cpu(),
        index,
        seeds=(0,),
        attributes=("interpolation",),
        colours=("#444444",),
        labels=((),),
        points=tuple(map(str, range(len(latents)))),
        kind=CURVE,
    )
