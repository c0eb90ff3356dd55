"""The tables and figures of a study, as files: what a paper takes from it."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cfrt import cfrt, to_csv, to_text
from ..digest import versions
from ..evaluation import Evaluation
from ..figures.drawing import Drawing, write
from ..flip_rate import THRESHOLD, flip_rate, flip_table, outwards
from ..latent_map import map_trajectory
from ..notice import NOTICE
from ..predictions import Predictions, far_points, published_far_points, published_kind
from ..table import csv_text
from ..trajectory import CURVE, SWAP
from ..whole_file import write_text
from .pooled import Study
from .store import Store
from .subgroups import SeedsTable, subgroups

WORDS = {SWAP: "swaps", CURVE: "curve"}


@dataclass(frozen=True)
class Choices:
    """What to take from a study: far points (empty for the paper's), threshold, vector format of figures."""

    far_swaps: str = ""
    far_frames: str = ""
    threshold: float = THRESHOLD
    vector: str = "none"

    def evaluation(self, study: Study, kind: str) -> Evaluation:
        """CFRT and flip rate of a study by these choices."""
        return study.evaluation(kind, self.far_swaps if kind == SWAP else self.far_frames, self.threshold)


def kinds(study: Study) -> tuple[str, ...]:
    """What a study has: swaps, and frames of a curve where they were judged."""
    return (SWAP, CURVE) if study.curved else (SWAP,)


def study_text(study: Study, choices: Choices) -> str:
    """Return the tables as text."""
    lines = [f"{len(study.seeds)} patients, seeds {seed_ranges(study.seeds)}."]
    for kind in kinds(study):
        evaluation = choices.evaluation(study, kind)
        far = ", ".join(evaluation.far) if kind == SWAP else f"{evaluation.far[0]}–{evaluation.far[-1]}"
        lines += [f"{WORDS[kind].capitalize()}, far part {far}", evaluation.table]
    return "\n".join(lines)


def study_report(study: Study, choices: Choices) -> dict[str, Any]:
    """Return everything as a JSON-serialisable dict."""
    return {
        "patients": len(study.seeds),
        "seeds": seed_ranges(study.seeds),
        **{WORDS[kind]: choices.evaluation(study, kind).report() for kind in kinds(study)},
        "direction cosine": study.directions().report(),
        "identity": study.similarity().report(),
        "weights": dict(study.identity.weights),
        "notice": NOTICE,
    }


def write_tables(study: Study, out: str | os.PathLike[str], choices: Choices) -> list[Path]:
    """Write all tables and figures of a study.

    Parameters
    ----------
    study : Study
    out : path
        Folder, made if need be; files of the same names are replaced.
    choices : Choices

    Returns
    -------
    list of Path
        What was written.
    """
    out = Path(out)
    made: list[Path] = []
    failures: list[list[Any]] = []
    for kind in kinds(study):
        evaluation = choices.evaluation(study, kind)
        figure = _drawing(study, evaluation.figure(), evaluation.csv, far=list(evaluation.far))
        made += write(figure, out / f"cfrt-{WORDS[kind]}", choices.vector)
        made.append(_text(out / f"patients-{WORDS[kind]}.csv", evaluation.patients_csv))
        for name in study.attributes:
            table = study.predictions(name, kind).to_csv()
            made.append(_text(out / f"predictions-{WORDS[kind]}-{file_stem(name)}.csv", table))
        failures += [
            [WORDS[kind], name, study.seeds[place], evaluation.labels[result.leaked[place]]]
            for name, result in evaluation.results.items()
            for place in (~result.success).nonzero()[0].tolist()
        ]
    made.append(_text(out / "failing-seeds.csv", csv_text(["kind", "attribute", "seed", "leaked"], failures)))
    cosines, alike = study.directions(), study.similarity()
    made += write(
        _drawing(study, cosines.figure(), cosines.csv_with_published),
        out / "direction-cosine",
        choices.vector,
    )
    made += write(
        _drawing(study, alike.figure(), alike.csv, perceptual=alike.perceptual),
        out / "identity",
        choices.vector,
    )
    report = json.dumps(study_report(study, choices), indent=1, ensure_ascii=False)
    return [*made, _text(out / "report.json", f"{report}\n")]


def subgroup_rows(study: Study, table: SeedsTable, column: str, choices: Choices) -> tuple[str, str]:
    """Return CFRT and flip rate of each value of a column, as text and as CSV.

    Raises ValueError for a column that is not there, or is of other patients.
    """
    return part_rows(subgroups(study, table, column), column, choices)


def part_rows(parts: Mapping[str, Study], what: str, choices: Choices) -> tuple[str, str]:
    """Return CFRT and flip rate of some studies, or parts of one, as text and as CSV.

    Parameters
    ----------
    parts : mapping of str to Study
        By what tells them apart; one or more, of the same labels.
    what : str
        What that is, such as sex.
    choices : Choices

    Raises
    ------
    ValueError
        Their classifiers judge other labels.
    """
    results, flips = {}, {}
    labels = next(iter(parts.values())).labels
    for value, part in parts.items():
        if part.labels != labels:
            raise ValueError(
                "--by: the classifiers of these studies judge other labels; pool each by itself."
            )
        evaluation = choices.evaluation(part, SWAP)
        for name, result in evaluation.results.items():
            results[f"{name}, {what} {value}"] = result
            flips[f"{name}, {what} {value}"] = evaluation.flips[name]
    return to_text(results, labels, flip_table(flips, SWAP)), to_csv(results, labels, None, flips)


def write_map(
    study: Study, stores: Sequence[Store], patients: int, out: str | os.PathLike[str], vector: str = "none"
) -> list[Path]:
    """Write the t-SNE map (Fig. 4) of the patients whose latents are kept, as many as asked for.

    Raises ValueError where no latents are kept.
    """
    kept: dict[int, Any] = {}
    for store in stores:
        kept |= store.latents(study.seeds)
    seeds = [seed for seed in study.seeds if seed in kept][:patients]
    if not seeds:
        raise ValueError(
            "--map: the study keeps no latents; set pictured of Traversal Study to the number of patients "
            "that the map shall have."
        )
    latents = torch.stack([torch.from_numpy(kept[seed]) for seed in seeds])
    placed = map_trajectory(study.take(seeds).trajectory(latents=latents))
    return write(_drawing(study, placed.figure(), placed.csv, mapped=len(seeds)), Path(out) / "map", vector)


def pooled_predictions(tables: Sequence[Predictions]) -> Predictions:
    """Return tables in the reference implementation's layout as one.

    A seed that stands in several with the same numbers counts once.

    Raises
    ------
    ValueError
        Tables of unlike labels, points or kinds, or a seed with other numbers.
    """
    import numpy as np

    first = tables[0]
    rows: dict[int | str, tuple[Any, Any]] = {}
    for table in tables:
        if (table.kind, table.attributes, table.points) != (first.kind, first.attributes, first.points):
            raise ValueError(
                "tables: their columns differ; pool tables of one classifier, one kind and the same points."
            )
        for seed, neutral, values in zip(table.seeds, table.neutral, table.probabilities, strict=True):
            if seed in rows and not (
                np.array_equal(rows[seed][0], neutral) and np.array_equal(rows[seed][1], values)
            ):
                raise ValueError(
                    f"tables: seed {seed} stands in two of them with other numbers; they are of two studies, "
                    "pool each by itself."
                )
            rows[seed] = neutral, values
    neutrals, probabilities = (np.stack(part) for part in zip(*rows.values(), strict=True))
    return Predictions(first.kind, tuple(rows), first.attributes, first.points, neutrals, probabilities)


def predictions_text(table: Predictions, target: str, far: str, threshold: float) -> tuple[str, str]:
    """Return CFRT and flip rate of a table's target, as text and as CSV."""
    number = table.attribute(target)
    points = far_points(far, table.points) if far else published_far_points(table.points, table.kind)
    kind = published_kind(table.points, table.kind) or table.kind
    path = outwards(table.points, kind)
    name = table.attributes[number]
    results = {name: cfrt(table.at(points), table.neutral, number)}
    flips = {name: flip_rate(table.at(path), table.neutral, number, path, threshold)}
    head = f"{len(table.seeds)} patients; far part {', '.join(map(str, points))}\n"
    text = head + to_text(results, table.attributes, flip_table(flips, kind))
    return text, to_csv(results, table.attributes, None, flips)


def seed_ranges(seeds: Sequence[int]) -> str:
    """Return rising seeds in short: 1500-1510, 1520."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def file_stem(name: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^\w]+", "-", name.strip().lower()).strip("-")


def _drawing(study: Study, figure: Any, table: str, **more: Any) -> Drawing:
    settings: Mapping[str, Any] = {
        "study": dict(study.settings),
        "seeds": seed_ranges(study.seeds),
        "weights": {"sha256": dict(study.identity.weights)},
        "versions": versions(),
        **more,
    }
    return Drawing(figure, table, dict(settings))


def _text(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
