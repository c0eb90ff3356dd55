"""Train the classifiers that CFRT is measured with, on the data set's own table.

By the recipe of TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623: an EfficientNet-B0 with
`Dropout(0.3)` and a linear head, for CheXpert one network a label, for ISIC 2019 one for four. Any other
image classifier of torchvision or timm is trained in the same way.

    train_classifier(ClassifierSettings(data="CheXpert-v1.0-small", out="classifiers/chexpert"))
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..classifiers.architectures import build, full_name, normalisation, place_of
from ..data_sets import read
from ..digest import sha256_of, versions
from ..labels import plain
from ..notice import NOTICE
from ..processors import processors
from ..weights import read_tensors
from .classifier_examples import (
    CHOOSE,
    FLIPS,
    JUDGE,
    TRAIN,
    Augmentation,
    Examples,
    choose_labels,
    examples_of,
    remarks,
)
from .classifier_loop import STATE, Plan, Recipe, Training
from .classifier_report import Judgement, Trained, judge
from .classifier_scores import temperature
from .classifier_weights import begin_with, fold, stored_temperatures, write_weights

if TYPE_CHECKING:
    from torch import nn

    from ..data_sets import DataSet

CHEXPERT, ISIC = "paper-chexpert", "paper-isic"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
BALANCED = "balanced"
LAST = "last.safetensors"


@dataclass(frozen=True)
class Preset:
    """A recipe of the paper, with the labels that it is for.

    Attributes
    ----------
    labels : tuple of str
    apart : bool
        One network a label.
    recipe : Recipe
    """

    labels: tuple[str, ...]
    apart: bool
    recipe: Recipe


# The paper's text gives no batch and no schedule for ISIC; they are CheXpert's batch and a constant rate.
PRESETS = {
    CHEXPERT: Preset(("support devices", "pleural effusion"), True, Recipe()),
    ISIC: Preset(
        ("hair", "gel bubble", "ruler", "ink"),
        False,
        Recipe(
            epochs=20,
            rate=1e-4,
            floor=1e-4,
            weight_decay=1e-4,
            patience=15,
            augmentation=Augmentation("hv", 0.0, 0.0, 0.0),
        ),
    ),
}


@dataclass(frozen=True)
class ClassifierSettings:
    """What the command `train classifier` takes.

    Attributes
    ----------
    data, out : path
        The data set's folder or its captions file; the folder that gets the results.
    preset : str, optional
        Of `PRESETS`. Default: by the data's domain, else CheXpert's recipe for all labels at once.
    labels : tuple of str, optional
    apart : bool, optional
        One network a label. Default: the preset's.
    recipe : mapping
        What differs from the preset's recipe: fields of `Recipe` and of `Augmentation`.
    backbone : str
        By `architectures.full_name`.
    width, dropout, drop_path
        Of `architectures.build`.
    init : path, optional
        Weights to begin with, of the same backbone; its head may be of any size. None: random weights.
    size : int
        Side of the images in pixels.
    fit : str
        squash, pad or crop.
    pos_weight : str
        "none", "balanced" or a number.
    reading : mapping
        Further arguments of `data_sets.read`.
    precision : str
        fp32, bf16 or fp16.
    seed, workers, save_every : int
    resume : bool
        Go on from the state in `out`.
    half : bool
        Store the weights in fp16.
    """

    data: str | os.PathLike[str]
    out: str | os.PathLike[str]
    preset: str | None = None
    labels: tuple[str, ...] | None = None
    apart: bool | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "efficientnet_b0"
    width: float = 1.0
    dropout: float = 0.3
    drop_path: float | None = None
    init: str | os.PathLike[str] | None = None
    size: int = 512
    fit: str = "squash"
    pos_weight: str = "none"
    reading: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    seed: int = 0
    workers: int | None = None
    save_every: int = 200
    resume: bool = False
    half: bool = False


def train_classifier(settings: ClassifierSettings, say: Callable[[str], None] = print) -> Trained | None:
    """Train, choose the best weights by held-out AUC, calibrate, judge, and write it all.

    Parameters
    ----------
    settings : ClassifierSettings
    say : callable
        Gets lines of progress, in the main process alone.

    Returns
    -------
    Trained or None
        None in the other processes of `accelerate launch`.

    Raises
    ------
    ValueError
        A setting, the table, an image or the loss is not what it should be. One sentence.
    """
    architecture = full_name(settings.backbone)
    _check(settings)
    data = read(settings.data, **settings.reading)
    if data.labels.empty:
        raise ValueError(f"data: {settings.data} has no labels; give the data set's own table.")
    name = settings.preset or _preset_of(data)
    preset = PRESETS[name] if name else Preset((), False, Recipe())
    recipe = _changed(preset.recipe, settings.recipe)
    _check_recipe(recipe)
    # the preset's pair is of its own labels; others get one network unless it was asked for
    usual = preset.apart and (settings.labels is None or settings.preset is not None)
    apart = usual if settings.apart is None else settings.apart
    labels = choose_labels(settings.labels, preset.labels, data)
    parts = examples_of(data, labels, int(settings.reading.get("seed", 0)))
    accelerator = _accelerator(settings.precision)
    if recipe.batch < accelerator.num_processes:
        raise ValueError(
            f"batch: {recipe.batch} images are fewer than the {accelerator.num_processes} processes; give "
            "more."
        )
    tell = say if accelerator.is_main_process else _silent
    for line in _opening(data, parts, labels, settings, architecture):
        tell(line)
    out = Path(settings.out)
    described = _described(settings, recipe, architecture, data, parts)
    files: list[Path] = []
    temperatures: dict[str, float] = {}
    for columns in [[index] for index in range(len(labels))] if apart else [list(range(len(labels)))]:
        network_labels = tuple(labels[index] for index in columns)
        place = out / _stem(network_labels[0]) if apart and len(labels) > 1 else out
        file = place / f"{_stem(network_labels[0]) if place != out else out.resolve().name}.safetensors"
        if len(labels) > 1 and apart:
            tell(f"{network_labels[0]}:")
        learn, choose = (_narrowed(parts[name], columns, network_labels) for name in (TRAIN, CHOOSE))
        fitted = _train_one(
            accelerator, settings, architecture, recipe, network_labels, learn, choose, file, described, tell
        )
        files.append(file)
        temperatures |= fitted
    accelerator.wait_for_everyone()
    accelerator.end_training()  # ends the group of processes
    if not accelerator.is_main_process:
        return None
    return judge(
        Judgement(
            out,
            tuple(files),
            tuple(labels),
            settings.size,
            settings.fit,
            settings.workers or 0,
            described,
            temperatures,
        ),
        parts[JUDGE],
        accelerator.device,
        tell,
    )


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some of its fields, and of its augmentation's, replaced."""
    varied = {key: value for key, value in changes.items() if hasattr(recipe.augmentation, key)}
    others = {key: value for key, value in changes.items() if key not in varied}
    return replace(recipe, **others, augmentation=replace(recipe.augmentation, **varied))


def _check(settings: ClassifierSettings) -> None:
    """Refuse settings that cannot be meant, before anything is read. Raises ValueError."""
    for name, value, allowed in (
        ("preset", settings.preset, (None, *PRESETS)),
        ("precision", settings.precision, tuple(PRECISIONS)),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: {value!r} is unknown; give {' or '.join(filter(None, allowed))}.")
    for name, number, least in (
        ("size", settings.size, 32),
        ("save-every", settings.save_every, 1),
        ("workers", settings.workers or 0, 0),
    ):
        if number < least:
            raise ValueError(f"{name}: {number} is too small; give {least} or more.")
    if settings.pos_weight not in ("none", BALANCED) and not _is_weight(settings.pos_weight):
        raise ValueError(
            f"pos-weight: {settings.pos_weight!r} is no weight; give none, balanced or a number."
        )
    if settings.init is not None and not Path(settings.init).is_file():
        raise ValueError(f"init: {settings.init} is no file; give a file of weights, nothing is downloaded.")
    out = Path(settings.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder.")
    states = [path for path in (out / STATE, *sorted(out.glob(f"*/{STATE}"))) if path.is_file()]
    if states and not settings.resume:
        raise ValueError(f"out: {out} holds a training; go on with it by --resume, or give another folder.")


def _check_recipe(recipe: Recipe) -> None:
    for name, number, least in (
        ("epochs", recipe.epochs, 1),
        ("batch", recipe.batch, 1),
        ("pieces", recipe.pieces, 1),
        ("warmup", recipe.warmup, 0),
        ("clip", recipe.clip, 0),
        ("patience", recipe.patience, 0),
    ):
        if number < least:
            raise ValueError(f"{name}: {number} is too small; give {least} or more.")
    if not 0 < recipe.rate < 1:
        raise ValueError(f"rate: {recipe.rate} is no learning rate; give more than 0 and less than 1.")
    if recipe.augmentation.flip not in FLIPS:
        raise ValueError(f"flip: {recipe.augmentation.flip!r} is unknown; give {', '.join(FLIPS)}.")


def _is_weight(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _preset_of(data: DataSet) -> str | None:
    known = plain(f"{data.layout} {data.domain or ''}")
    return ISIC if "isic" in known else CHEXPERT if "chexpert" in known or "mimic" in known else None


def _accelerator(precision: str) -> Any:
    import torch
    from accelerate import Accelerator

    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision: fp16 needs a GPU; give bf16 or fp32.")
    return Accelerator(mixed_precision=PRECISIONS[precision])


def _silent(line: str) -> None:
    pass


def _stem(label: str) -> str:
    return re.sub(r"\W+", "-", label.strip().lower()).strip("-") or "label"


def _narrowed(examples: Examples, columns: Sequence[int], labels: Sequence[str]) -> Examples:
    """Those images of which a network's labels are certain. Raises ValueError where there are none."""
    import numpy as np

    narrowed = examples.only(np.arange(len(examples)), columns).with_a_label()
    if not len(narrowed):
        raise ValueError(
            f"labels: {', '.join(labels)} is certain on no held-out image; give a larger --held-out, or "
            "leave "
            "it out."
        )
    return narrowed


def _opening(
    data: DataSet,
    parts: Mapping[str, Examples],
    labels: Sequence[str],
    settings: ClassifierSettings,
    name: str,
) -> list[str]:
    """What is said before the first step."""
    counts = {part: (len(rows), len(set(rows.patients) - {""})) for part, rows in parts.items()}
    words = {TRAIN: "to train on", CHOOSE: "to choose by", JUDGE: "to judge by"}
    lines = [
        f"{data.layout}: "
        + ", ".join(f"{counts[p][0]} images of {counts[p][1]} patients {words[p]}" for p in words),
        *(f"  {reason}: {rows} rows left out" for reason, rows in data.left_out.items() if rows),
        *(f"  {line}" for line in remarks(dict(parts), labels)),
    ]
    begin = (
        "random weights; --init FILE begins with ImageNet's" if settings.init is None else f"{settings.init}"
    )
    return [*lines, f"{name} from {begin}"]


def _described(
    settings: ClassifierSettings,
    recipe: Recipe,
    architecture: str,
    data: DataSet,
    parts: Mapping[str, Examples],
) -> dict[str, Any]:
    """What makes a training the one that it is; also for the metadata."""
    digest = hashlib.sha256()
    for name, rows in parts.items():
        for file, truth in zip(rows.names, rows.truth):
            digest.update(f"{name} {file} {truth.tolist()}\n".encode())
    return {
        "architecture": architecture,
        "width": settings.width,
        "dropout": settings.dropout,
        "drop_path": settings.drop_path,
        "size": settings.size,
        "fit": settings.fit,
        "init": None if settings.init is None else sha256_of(settings.init),
        "seed": settings.seed,
        "precision": settings.precision,
        "pos_weight": settings.pos_weight,
        "recipe": asdict(recipe),
        "layout": data.layout,
        "policies": dict(data.policies),
        "domain": data.domain,
        "images": {name: len(rows) for name, rows in parts.items()},
        "data": digest.hexdigest(),
    }


def _train_one(
    accelerator: Any,
    settings: ClassifierSettings,
    architecture: str,
    recipe: Recipe,
    labels: tuple[str, ...],
    learn: Examples,
    choose: Examples,
    file: Path,
    described: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Train one network and write its file; return the temperature of each of its labels."""
    import numpy as np
    import torch

    torch.manual_seed(settings.seed)
    network, head = build(
        architecture, len(labels), settings.size, settings.width, settings.dropout, settings.drop_path
    )
    # The paper's head is a plain new layer. EfficientNet's own begins with weights of up to 1 / sqrt(labels):
    # thirty times as large, and where there are one or two labels the training hardly gets over it.
    cast("nn.Linear", head).reset_parameters()
    if settings.init is not None:
        say(f"  {begin_with(network, head, settings.init)}")
    mean, std = normalisation(architecture)
    positives, negatives = (learn.truth == 1).sum(0), (learn.truth == 0).sum(0)
    balance = negatives / np.maximum(positives, 1)
    weights = {"none": np.ones(len(labels)), BALANCED: balance}.get(settings.pos_weight)
    if weights is None:
        weights = np.full(len(labels), float(settings.pos_weight))
    workers = settings.workers if settings.workers is not None else min(8, processors() - 1)
    plan = Plan(
        folder=file.parent,
        recipe=recipe,
        labels=labels,
        size=settings.size,
        fit=settings.fit,
        mean=mean,
        std=std,
        pos_weight=tuple(map(float, weights)),
        seed=settings.seed,
        workers=workers,
        save_every=settings.save_every,
        identity={**described, "labels": list(labels)},
    )

    def record(temperatures: Sequence[float] | None, epoch: int) -> dict[str, str]:
        return _metadata(plan, described, settings.init, epoch, temperatures)

    def save_best(best: nn.Module) -> None:
        write_weights(best.state_dict(), file, record(None, training.step // training.order.steps_per_epoch))

    training = Training(accelerator, network, plan, learn, choose, save_best, say)
    if accelerator.is_main_process:
        file.parent.mkdir(parents=True, exist_ok=True)
    if settings.resume and (file.parent / STATE).is_file():
        training.load()
        say(f"  goes on at step {training.step} of {training.order.steps}")
    if training.done and (finished := stored_temperatures(file)) is not None:
        say("  is complete")
        return dict(zip(labels, finished))
    training.run()
    say(f"  best epoch {training.best_epoch}; {training.seconds / 60:.1f} min in all")
    # the last weights are kept as they are; the best ones get their temperature
    if accelerator.is_main_process:
        write_weights(training.bare.state_dict(), file.with_name(LAST), record(None, training.best_epoch))
    accelerator.wait_for_everyone()
    training.bare.load_state_dict(read_tensors(file, "classifier"))
    logits = training.logits(choose) - np.log(weights)
    fitted = [temperature(logits[:, index], choose.truth[:, index]) for index in range(len(labels))]
    if accelerator.is_main_process:
        folded = fold(training.bare.state_dict(), place_of(training.bare, head), fitted, np.log(weights))
        write_weights(folded, file, record(fitted, training.best_epoch), settings.half)
    return dict(zip(labels, fitted))


def _metadata(
    plan: Plan,
    described: Mapping[str, Any],
    init: str | os.PathLike[str] | None,
    epoch: int,
    temperatures: Sequence[float] | None,
) -> dict[str, str]:
    """Return the metadata of a file: what `classifiers.trained` reads, and how it came to be."""
    metadata = {
        "architecture": str(described["architecture"]),
        "labels": json.dumps(list(plan.labels)),
        "image_size": json.dumps(plan.size),
        "mean": json.dumps(list(plan.mean)),
        "std": json.dumps(list(plan.std)),
        "fit": plan.fit,
        "epoch": json.dumps(epoch),
        "init": "random weights" if init is None else Path(init).name,
        "training": json.dumps(dict(described)),
        "versions": json.dumps(versions()),
        "notice": NOTICE,
    }
    if described["width"] != 1:
        metadata["width"] = json.dumps(described["width"])
    if temperatures is not None:
        metadata["temperature"] = json.dumps([round(value, 6) for value in temperatures])
        metadata["temperature_applied"] = "in the weights of the last layer"
    return metadata
