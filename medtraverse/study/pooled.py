"""A study read back: its patients as a table, and the library's own results over them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cfrt import published_far_points
from ..direction import DirectionCosines
from ..evaluation import Evaluation, evaluate
from ..flip_rate import THRESHOLD
from ..identity import Identity as IdentityResult
from ..identity import IdentityTable
from ..predictions import Predictions
from ..proportion import wilson
from ..published import published_curve
from ..trajectory import CURVE, SWAP, Trajectory
from ..traversal import Plan
from .block import Block, joined
from .store import Identity, Store, refuse_others

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Study:
    """Some patients of a study, or of several with the same settings and weights.

    Attributes
    ----------
    identity : Identity
        Settings and weights.
    block : Block
        The patients, by rising seed.
    """

    identity: Identity
    block: Block

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the figures depend on beside seeds and weights."""
        return self.identity.settings

    @property
    def seeds(self) -> tuple[int, ...]:
        """The patients' seeds, rising."""
        return self.block.seeds

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes."""
        return tuple(self.settings["attributes"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The classifier's labels."""
        return tuple(self.settings["judged"])

    @property
    def curved(self) -> bool:
        """Whether frames of a curve were judged."""
        return self.settings["curve"] is not None

    def take(self, seeds: Iterable[int]) -> "Study":
        """Return the study of some of the seeds; those that it does not have are left out.

        Raises ValueError where none is left.
        """
        wanted = set(seeds)
        places = [place for place, seed in enumerate(self.seeds) if seed in wanted]
        if not places:
            raise ValueError("seeds: the study has none of them; name seeds that are done.")
        return Study(self.identity, self.block.take(places))

    def trajectory(self, kind: str = SWAP, latents: torch.Tensor | None = None) -> Trajectory:
        """What the points are, without latents, or with those of the first patients.

        Parameters
        ----------
        kind : "swap" or "curve"
        latents : Tensor [n, rows, C, h, w], optional
            Of the first n patients, who alone are then in it.
        """
        settings = self.settings
        patients = len(self.seeds) if latents is None else len(latents)
        frames = settings["curve"]["kept"] if kind == CURVE else []
        points = ("0", *map(str, frames)) if kind == CURVE else ("neutral", *map(str, settings["swap_steps"]))
        plan = Plan(patients, len(self.attributes), tuple(range(len(points) - 1)))
        empty = torch.zeros(plan.rows, 0, 1, 1)
        shown = {
            name: value
            for name, value in settings.items()
            if name not in ("judged", "aliases", "colours", "labels", "attributes")
        }
        return Trajectory(
            empty if latents is None else latents.flatten(0, 1).float(),
            plan.index(),
            self.seeds[:patients],
            self.attributes,
            tuple(settings["colours"]),
            tuple(map(tuple, settings["labels"])),
            points,
            kind,
            settings["neutral"],
            {**shown, "files": {"sha256": dict(self.identity.weights)}},
            aliases=settings["aliases"],
        )

    def evaluation(self, kind: str = SWAP, far: str = "", threshold: float = THRESHOLD) -> Evaluation:
        """CFRT and flip rate of all patients, as `medtraverse.evaluation.evaluate` gives them.

        Parameters
        ----------
        kind : "swap" or "curve"
        far : str
            Far points; empty for the paper's, or, where these were not kept, for the last 40 % of the points.
        threshold : float
            For the flip rate.

        Raises
        ------
        ValueError
            The study has no curve, no attribute of a single label, or no such far points.
        """
        if kind == CURVE and not self.curved:
            raise ValueError("curve: the study was made without one; make another with a curve.")
        probabilities = self.block.swap if kind == SWAP else self.block.curve
        trajectory = self.trajectory(kind)
        rows = torch.zeros(len(trajectory.latents), probabilities.shape[-1])
        rows[trajectory.index] = torch.from_numpy(np.ascontiguousarray(probabilities)).float()
        return evaluate(
            trajectory, rows, lambda values: values, self.labels, far or self.far(kind), threshold
        )

    def far(self, kind: str = SWAP) -> str:
        """The paper's far part, or where it was not kept the 40 % of the points furthest from neutral."""
        points = self.trajectory(kind).points[1:]
        try:
            return ",".join(published_far_points(points, kind, self.settings["steps"]))
        except ValueError:
            order = sorted(points, key=int, reverse=kind == SWAP)
            return ",".join(order[-max(1, round(0.4 * len(order))) :])

    def predictions(self, attribute: str, kind: str = SWAP) -> Predictions:
        """The classifier's probabilities along one attribute, in the reference implementation's layout.

        Raises ValueError for an attribute that the study does not have.
        """
        if attribute not in self.attributes:
            raise ValueError(
                f"attribute: {attribute!r} is not in the study; choose one of {', '.join(self.attributes)}."
            )
        number = self.attributes.index(attribute)
        values = (self.block.swap if kind == SWAP else self.block.curve)[:, number].astype(np.float64)
        points = tuple(map(int, self.trajectory(kind).points[1:]))
        return Predictions(kind, self.seeds, self.labels, points, values[:, 0], values[:, 1:])

    def directions(self, published: bool = True) -> DirectionCosines:
        """The direction cosines of all patients (Fig. 5)."""
        settings = self.settings
        paper = published_curve("direction cosine", settings["domain"], settings["neutral"])
        return DirectionCosines(
            names=self.attributes,
            colours=tuple(settings["colours"]),
            seeds=(self.seeds,) * len(self.attributes),
            swap_steps=tuple(settings["swap_steps"]),
            cosines=torch.from_numpy(self.block.cosines.transpose(1, 0, 2).copy()),
            published={name: paper[name] for name in self.attributes if published and name in paper},
        )

    def similarity(self) -> IdentityResult:
        """How much of the patients stays, beside other patients: the controls of the settings."""
        own, other = (
            {name: torch.from_numpy(values) for name, values in group.items()}
            for group in (self.block.own, self.block.other)
        )
        table = IdentityTable(
            len(self.seeds),
            len(self.settings["controls"]),
            {name: values.nanmean(0) for name, values in own.items()},
            {name: values.nanmean(0) for name, values in other.items()},
            own,
            other,
        )
        return IdentityResult(table, self.trajectory(), self.settings["perceptual"])

    def intervals(self) -> dict[str, tuple[float, float]]:
        """CFRT of the swaps' 95 % intervals by attribute."""
        return {name: result.interval for name, result in self.evaluation().results.items()}

    def frame(self) -> "pandas.DataFrame":
        """Every probability, cosine and similarity: a row for each patient, attribute and point.

        Returns
        -------
        pandas.DataFrame
            Columns seed, attribute, kind ("swap" or "curve"), point, p_<label> …, cosine, and the measures of
            identity, own_<measure> and other_<measure>; NaN where a measure does not apply.
        """
        import pandas

        tables = []
        for kind in (SWAP, CURVE) if self.curved else (SWAP,):
            values = self.block.swap if kind == SWAP else self.block.curve
            points = self.trajectory(kind).points
            shape = values.shape[:3]
            columns: dict[str, Any] = {
                "seed": np.repeat(np.array(self.seeds, dtype=np.uint64), shape[1] * shape[2]),
                "attribute": np.tile(np.repeat(self.attributes, shape[2]), shape[0]),
                "kind": kind,
                "point": np.tile(points, shape[0] * shape[1]),
                **{f"p_{name}": values[..., place].ravel() for place, name in enumerate(self.labels)},
            }
            if kind == SWAP:
                first = np.full((*shape[:2], 1), np.nan)
                columns["cosine"] = np.concatenate([first, self.block.cosines], axis=2).ravel()
                for whose, group in (("own", self.block.own), ("other", self.block.other)):
                    columns |= {f"{whose}_{name}": measure.ravel() for name, measure in group.items()}
            tables.append(pandas.DataFrame(columns))
        return pandas.concat(tables, ignore_index=True)


def patients_until(study: Study, width: float) -> int | None:
    """The least number of patients, by rising seed, whose CFRT of swaps is as sure as wanted.

    It looks at the seeds in their order and not in that in which they were done, so it does not matter who
    did what when.

    Parameters
    ----------
    study : Study
    width : float
        Of the 95 % interval of every attribute, between 0 and 1.

    Returns
    -------
    int or None
        None where all patients are not enough.
    """
    results = study.evaluation().results.values()
    counts = [np.cumsum(result.success).tolist() for result in results]
    for patients in range(1, len(study.seeds) + 1):
        ends = [wilson(count[patients - 1], patients) for count in counts]
        if all(high - low <= width for low, high in ends):
            return patients
    return None


def narrow_enough(study: Study, wanted: range, interval_width: float) -> Study | None:
    """Return the first patients whose intervals are as narrow as asked for; None where all are not enough.

    Only seeds without a gap count, so it does not matter in which order they were made.
    """
    gapless = 0
    while gapless < len(study.seeds) and study.seeds[gapless] == wanted[gapless]:
        gapless += 1
    enough = patients_until(study.take(study.seeds[:gapless]), interval_width) if gapless else None
    return None if enough is None else study.take(study.seeds[:enough])


def read(*folders: str | os.PathLike[str]) -> Study:
    """Read studies: all patients of one folder, or of several with the same settings and weights.

    Parameters
    ----------
    *folders : path
        A seed that several hold counts once.

    Raises
    ------
    ValueError
        No folder, one without a study or without a patient, or studies that differ, with what in.
    """
    if not folders:
        raise ValueError("folder: none is named; give the folder of a study.")
    stores = [Store(folder) for folder in folders]
    first = stores[0].identity
    for store in stores[1:]:
        refuse_others(stores[0].folder, first, store.identity)
    blocks: Sequence[Block] = [block for store in stores for block in store.blocks()]
    if not blocks:
        raise ValueError(f"{Path(folders[0])}: its study holds no patient yet; run it first.")
    return Study(first, joined(blocks))


def duration(seconds: float) -> str:
    """Return a time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
