"""What a trained classifier is worth, judged from its files, and the tables and figure that say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..digest import versions
from ..notice import NOTICE
from ..whole_file import write_text
from .classifier_examples import Examples, Pictures
from .classifier_scores import ALL, reliability, score_table, subgroups

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 64


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes
    ----------
    files : tuple of Path
        Weights, one file a network, for Load Medical Classifier.
    table : DataFrame
        By `classifier_scores.score_table`, on images that nothing was fitted to.
    left_out : tuple of str
        Labels that have one class only among those images, and so are not in the table.
    """

    files: tuple[Path, ...]
    table: pd.DataFrame
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """What is judged, and where the verdict goes.

    Attributes
    ----------
    out : Path
    files : tuple of Path
        Weights, one file a network.
    labels : tuple of str
        Of all files, in order.
    size : int
        Side of the images in pixels.
    fit : str
    workers : int
        Processes that read images.
    described : mapping
        How the files came to be.
    temperatures : mapping of str to float
    """

    out: Path
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    size: int
    fit: str
    workers: int
    described: Mapping[str, Any]
    temperatures: Mapping[str, float]


def judge(what: Judgement, judged: Examples, device: Any, say: Callable[[str], None]) -> Trained:
    """Score the files as Load Medical Classifier reads them, and write tables and figure.

    Raises ValueError where an image cannot be read.
    """
    import pandas as pd

    out, files, labels = what.out, what.files, what.labels
    probabilities = file_probabilities(files, judged, what.size, what.fit, what.workers, device)
    classes = [set(np.unique(column[np.isfinite(column)])) for column in judged.truth.T]
    usable = [index for index, values in enumerate(classes) if len(values) == 2]
    left_out = tuple(label for index, label in enumerate(labels) if index not in usable)
    for label in left_out:
        say(
            f"  {label} has one class only among the {len(judged)} held-out images; it is left out of the "
            "table"
        )
    chosen = [labels[index] for index in usable]
    truth, columns = judged.truth[:, usable], probabilities[:, usable]
    table = score_table(columns, truth, chosen, judged.patients, subgroups(judged.groups))
    bins = pd.DataFrame(
        [
            (label, *row)
            for index, label in enumerate(chosen)
            for row in reliability(columns[:, index], truth[:, index])
        ],
        columns=["label", "low", "high", "images", "mean_probability", "share_positive"],
    )
    predictions = pd.DataFrame({"file": judged.names})
    for index, label in enumerate(labels):
        predictions[label] = judged.truth[:, index]
        predictions[f"{label} probability"] = probabilities[:, index]
    for name, frame in (("held-out", table), ("reliability", bins), ("predictions", predictions)):
        write_text(out / f"{name}.csv", frame.assign(notice=NOTICE).to_csv(index=False, lineterminator="\n"))
    if chosen:
        _draw(bins, table, out / "reliability")
    report = {
        "notice": NOTICE,
        "files": [file.relative_to(out).as_posix() for file in files],
        "labels": list(labels),
        "left_out": list(left_out),
        "temperature": dict(what.temperatures),
        "held_out": json.loads(table[table["group"] == ALL].to_json(orient="records")),
        "training": dict(what.described),
        "versions": versions(),
    }
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    for line in _table_lines(table):
        say(line)
    say(
        f"{', '.join(map(str, files))}: put {'them' if len(files) > 1 else 'it'} into models/classifiers "
        "and choose "
        f"{'them' if len(files) > 1 else 'it'} in Load Medical Classifier. {NOTICE}"
    )
    return Trained(files, table, left_out)


def file_probabilities(
    files: Sequence[Path], examples: Examples, size: int, fit: str, workers: int = 0, device: Any = "cpu"
) -> np.ndarray:
    """Return the probabilities float32 [N, L] that the written files give, read by the library's own reader.

    Raises ValueError where an image cannot be read.
    """
    import torch
    from torch.utils.data import DataLoader

    from ..classifier import load_classifier

    classifier = load_classifier(list(files), device=device)
    loader = DataLoader(
        Pictures(examples, size, fit),
        batch_sampler=[
            [(row, None) for row in range(start, min(start + BLOCK, len(examples)))]
            for start in range(0, len(examples), BLOCK)
        ],
        num_workers=workers,
        collate_fn=list,
    )
    made = []
    for items in loader:
        if message := next((text for _, _, text in items if text), ""):
            raise ValueError(message)
        images = torch.stack([image for _, image, _ in items]).permute(0, 2, 3, 1).float() / 255
        made.append(classifier.predict(images).numpy())
    return np.concatenate(made)


def _table_lines(table: pd.DataFrame) -> list[str]:
    """Return the table as aligned text, a line a group and label."""

    def cell(value: float, digits: int = 3) -> str:
        return "–" if value != value else f"{value:.{digits}f}"

    lines = [["held-out patients", "label", "images", "positive", "AUC", "ECE", "sensitivity", "specificity"]]
    for row in table.to_dict("records"):
        name = "all" if row["group"] == ALL else f"{row['group']}: {row['value']}"
        figures = [cell(row[key]) for key in ("auc", "ece", "sensitivity", "specificity")]
        lines.append([name, row["label"], str(row["images"]), str(row["positives"]), *figures])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]


def _draw(bins: pd.DataFrame, table: pd.DataFrame, stem: Path) -> None:
    """Draw the reliability diagram."""
    from ..figures.drawing import Drawing, write
    from ..figures.reliability_chart import reliability_figure

    errors = {row["label"]: row["ece"] for row in table[table["group"] == ALL].to_dict("records")}
    curves = {
        label: rows[["mean_probability", "share_positive", "images"]].to_numpy()
        for label, rows in bins.groupby("label", sort=False)
    }
    write(Drawing(reliability_figure(curves, errors), ""), stem, table=False)
