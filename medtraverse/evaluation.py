"""CFRT and flip rate of a trajectory's images: from probabilities per image to one result per attribute.

CFRT is the paper's Classifier Flip Rate along a Trajectory (section 3.3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .cfrt import CFRT, cfrt, far_points, patients_to_csv, published_far_points, to_csv, to_text
from .classifiers.self_check import classifier_doubts
from .flip_rate import THRESHOLD, FlipRate, check_threshold, flip_rate, flip_table, outwards
from .labels import NO_ALIASES, Aliases, position
from .predictions import PUBLISHED_STEPS
from .published import published_cfrt
from .trajectory import CURVE, Trajectory


@dataclass(frozen=True, eq=False)
class Evaluation:
    """CFRT and flip rate per target attribute of one trajectory.

    Attributes
    ----------
    results : dict of attribute name to CFRT
        Attributes with exactly one label; a combination of several has no single target and is not scored.
    flips : dict of attribute name to FlipRate
        Of the same attributes, along the whole trajectory.
    labels : tuple of str
        The classifier's labels that were compared, in the order of each result's deltas.
    probabilities : ndarray [patients, attributes, points, labels], float64
    trajectory : Trajectory
    far : tuple of str
        The points that CFRT averages over.
    """

    results: dict[str, CFRT]
    flips: dict[str, FlipRate]
    labels: tuple[str, ...]
    probabilities: np.ndarray
    trajectory: Trajectory
    far: tuple[str, ...]

    @property
    def table(self) -> str:
        """The table as text."""
        return to_text(self.results, self.labels, flip_table(self.flips, self.trajectory.kind))

    @property
    def csv(self) -> str:
        """The table as CSV, the paper's values beside it."""
        return to_csv(self.results, self.labels, self.published, self.flips)

    @property
    def patients_csv(self) -> str:
        """One row per attribute and patient, as CSV."""
        return patients_to_csv(self.results, self.labels, self.trajectory.seeds, self.flips)

    @property
    def own_labels(self) -> list[list[str]]:
        """Per attribute, the labels that it should raise, as the classifier writes them."""
        columns = judged_columns(
            self.trajectory.attributes, self.trajectory.labels, self.labels, self.trajectory.aliases
        )
        return [[self.labels[column] for column in own] for own in columns]

    @property
    def published(self) -> dict[str, float]:
        """The paper's CFRT by attribute, empty where it has none."""
        return published_cfrt(
            self.trajectory.kind, self.trajectory.settings.get("domain", ""), self.trajectory.neutral
        )

    def figure(self) -> Any:
        """Return the matplotlib figure of the table, the paper's values beside it."""
        from .figures.cfrt_table import cfrt_figure

        colours = dict(zip(self.trajectory.attributes, self.trajectory.colours))
        first, last = self.far[0], self.far[-1]
        far = f"frames {first}–{last}" if self.trajectory.kind == CURVE else f"λ = {', '.join(self.far)}"
        return cfrt_figure(
            self.results,
            self.labels,
            [colours[name] for name in self.results],
            self.published,
            f"CFRT, Classifier Flip Rate along a Trajectory: {far}",
            flips=self.flips,
            kind=self.trajectory.kind,
        )

    def doubts(self, image_size: Sequence[int], input_size: int, loses_colour: bool = False) -> list[str]:
        """Say what is suspicious in the classifier's verdicts; see `classifiers.self_check`.

        Parameters
        ----------
        image_size : sequence of int
            Height and width of the judged images.
        input_size : int
            Side that the classifier sees, in pixels.
        loses_colour : bool
            Whether the images have colour and the classifier takes one channel.
        """
        neutral = np.zeros(self.probabilities.shape[:3], dtype=bool)
        neutral[:, :, 0] = True
        return classifier_doubts(
            self.labels,
            self.probabilities.reshape(-1, len(self.labels)),
            neutral.ravel(),
            (int(image_size[0]), int(image_size[1])),
            (input_size, input_size),
            loses_colour=loses_colour,
        )

    def report(self) -> dict[str, Any]:
        """Return everything as a JSON-serialisable dict."""
        return {
            "kind": self.trajectory.kind,
            "far_points": list(self.far),
            "labels": list(self.labels),
            "patients": self.trajectory.patients,
            "seeds": list(self.trajectory.seeds),
            "points": list(self.trajectory.points),
            "neutral": self.trajectory.neutral,
            "attributes": {
                name: {
                    "cfrt": result.cfrt,
                    "successes": result.successes,
                    "patients": result.patients,
                    "interval": list(result.interval),
                    "target": self.labels[result.target],
                    "mean_deltas": dict(zip(self.labels, result.deltas.mean(axis=0).tolist())),
                    "failures": [
                        {"seed": self.trajectory.seeds[i], "leaked": self.labels[result.leaked[i]]}
                        for i in np.flatnonzero(~result.success)
                    ],
                    "flip_rate": self.flips[name].report(),
                }
                for name, result in self.results.items()
            },
            "mean_probability": {
                name: {
                    label: self.probabilities[:, a, :, b].mean(axis=0).round(6).tolist()
                    for b, label in enumerate(self.labels)
                }
                for a, name in enumerate(self.trajectory.attributes)
            },
            "settings": self.trajectory.settings,
        }


def judged_columns(
    attributes: Sequence[str],
    wanted: Sequence[Sequence[str]],
    labels: Sequence[str],
    aliases: Aliases = NO_ALIASES,
) -> list[tuple[int, ...]]:
    """Find the labels of a classifier that attributes should raise.

    Parameters
    ----------
    attributes : sequence of str
    wanted : sequence of sequence of str
        Labels of each attribute; none means its name.
    labels : sequence of str
        What the classifier judges.
    aliases : mapping of str to sequence of str
        A domain's other words for its labels.

    Returns
    -------
    list of tuple of int
        Per attribute, the positions in `labels`.

    Raises
    ------
    ValueError
        The classifier judges no such label.
    """
    judged = []
    for name, own in zip(attributes, wanted):
        columns = [(label, position(label, labels, aliases)) for label in own or (name,)]
        absent = next((label for label, column in columns if column is None), None)
        if absent is not None:
            raise ValueError(
                f"classifier: it judges {', '.join(labels)}, not {absent!r} (attribute {name!r}); wire a "
                "classifier of this domain, name its labels in Load Medical Classifier, or leave the "
                "attribute out."
            )
        judged.append(tuple(column for _, column in columns if column is not None))
    return judged


def evaluate(
    trajectory: Trajectory,
    images: Tensor,
    predict: Callable[[Tensor], Tensor],
    labels: Sequence[str],
    far: str = "",
    threshold: float = THRESHOLD,
) -> Evaluation:
    """Score every attribute of a trajectory.

    Parameters
    ----------
    trajectory : Trajectory
    images : Tensor [rows, H, W, 3]
        Decoded latents of the trajectory, row by row, in 0..1.
    predict : callable
        Images [N, H, W, 3] to probabilities [N, labels].
    labels : sequence of str
        What the classifier judges.
    far : str
        Far points such as ``5,10,15`` or ``30-49``; empty for the paper's.
    threshold : float
        Probability that the target must pass to have flipped, between 0 and 1.

    Raises
    ------
    ValueError
        When images and trajectory do not match, the classifier lacks an attribute's label, far points are not
        there, or the threshold is no probability.
    """
    check_threshold(threshold)
    labels = tuple(labels)
    judged = judged_columns(trajectory.attributes, trajectory.labels, labels, trajectory.aliases)
    targets = {
        name: (number, judged[number][0])
        for number, (name, wanted) in enumerate(zip(trajectory.attributes, trajectory.labels))
        if len(wanted) == 1
    }
    if not targets:
        raise ValueError(
            "trajectory: none of its attributes stands for a single label, so there is no target to score; "
            "traverse to at least one attribute with one label."
        )
    available = trajectory.points[1:]
    steps = trajectory.settings.get("steps", PUBLISHED_STEPS)
    chosen = (
        far_points(far, available) if far.strip() else published_far_points(available, trajectory.kind, steps)
    )
    columns = [trajectory.points.index(point) for point in chosen]
    path = outwards(available, trajectory.kind)
    order = [trajectory.points.index(point) for point in path]
    trajectory.check_rows(images)
    probabilities = trajectory.gather(predict(images)).double().numpy()
    results = {
        name: cfrt(probabilities[:, number][:, columns], probabilities[:, number, 0], target)
        for name, (number, target) in targets.items()
    }
    flips = {
        name: flip_rate(
            probabilities[:, number][:, order], probabilities[:, number, 0], target, path, threshold
        )
        for name, (number, target) in targets.items()
    }
    return Evaluation(results, flips, labels, probabilities, trajectory, tuple(chosen))
