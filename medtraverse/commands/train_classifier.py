"""``python -m medtraverse train classifier``: the command line of `medtraverse.training.classifier`."""

from __future__ import annotations

import argparse
from typing import Any

# What goes to the reader of data sets, what changes the preset's recipe, and the rest.
READING = ("layout", "uncertain", "blank", "views", "artefacts", "threshold", "held_out")
RECIPE = (
    "epochs",
    "batch",
    "pieces",
    "rate",
    "floor",
    "warmup",
    "weight_decay",
    "clip",
    "patience",
    "flip",
    "degrees",
    "shift",
    "jitter",
    "soften",
)
OWN = (
    "data",
    "out",
    "preset",
    "apart",
    "backbone",
    "width",
    "dropout",
    "drop_path",
    "init",
    "size",
    "fit",
    "pos_weight",
    "precision",
    "half",
    "seed",
    "workers",
    "save_every",
    "resume",
)


def add(subparsers: Any) -> None:
    """Add the command `classifier` to those of `train`."""
    command = subparsers.add_parser(
        "classifier",
        help="train the classifiers that CFRT is measured with",
        description="Trains an image classifier on a data set's own table, chooses the best epoch by the "
        "AUC on "
        "held-out patients, calibrates it by a temperature and judges it on further patients, also by sex, "
        "age and "
        "view. Load Medical Classifier reads the file as it is. Uncertain and blank labels do not enter "
        "the loss. "
        "Runs on one processor or GPU, or on several by `accelerate launch -m medtraverse train classifier "
        "…`.",
    )
    command.add_argument(
        "--data", required=True, metavar="FOLDER", help="the data set's folder, or a captions file"
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="weights, tables and log go here")
    command.add_argument(
        "--preset",
        choices=("paper-chexpert", "paper-isic"),
        help="the paper's recipe: two networks for support devices and pleural effusion, or one for hair, "
        "gel "
        "bubble, ruler and ink (default: by the data set)",
    )
    command.add_argument(
        "--labels",
        metavar="A,B",
        help="columns of the table (default: the preset's, else all that can be learnt)",
    )
    heads = command.add_mutually_exclusive_group()
    heads.add_argument("--apart", action="store_true", default=None, help="one network a label")
    heads.add_argument("--together", dest="apart", action="store_false", help="one network for all labels")
    network = command.add_argument_group("network")
    network.add_argument(
        "--backbone",
        default="efficientnet_b0",
        metavar="NAME",
        help="an image classifier of torchvision or timm, such as resnet50 or timm:convnext_tiny (default: "
        "%(default)s)",
    )
    network.add_argument("--width", type=float, default=1.0, help="multiplier of efficientnet_b0's channels")
    network.add_argument("--dropout", type=float, default=0.3, help="before the head (default: %(default)s)")
    network.add_argument(
        "--drop-path", type=float, help="share of blocks left out (default: the library's own)"
    )
    network.add_argument(
        "--init",
        metavar="FILE",
        help="weights of the same backbone to begin with, such as ImageNet's as safetensors (default: random "
        "weights; nothing is downloaded)",
    )
    network.add_argument("--size", type=int, default=512, metavar="PIXELS", help="default: %(default)s")
    reading = command.add_argument_group("data")
    reading.add_argument("--layout", help="of the data set (default: recognised by its files)")
    reading.add_argument(
        "--fit", choices=("squash", "pad", "crop"), default="squash", help="default: %(default)s"
    )
    reading.add_argument(
        "--uncertain",
        choices=("ignore", "positive", "drop"),
        default="ignore",
        help="labels of -1: left out of the loss, taken as positive, or their images left out (default: "
        "%(default)s)",
    )
    reading.add_argument(
        "--blank",
        choices=("unknown", "negative"),
        default="unknown",
        help="labels that are blank: left out of the loss, or taken as negative (default: %(default)s)",
    )
    reading.add_argument(
        "--views", choices=("frontal", "lateral", "all"), default="frontal", help="default: %(default)s"
    )
    reading.add_argument("--artefacts", metavar="CSV", help="of ISIC 2019, where it lies elsewhere")
    reading.add_argument(
        "--threshold", type=float, default=0.9, help="of the artefacts' probabilities (%(default)s)"
    )
    reading.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the patients, where the set has no split: half to choose the epoch and the temperature "
        "by, half to "
        "judge by (default: %(default)s)",
    )
    reading.add_argument(
        "--split-seed", type=int, default=0, help="of that choice, the same as of train unet (default: 0)"
    )
    recipe = command.add_argument_group("recipe (default: the preset's)")
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument("--batch", type=int, metavar="IMAGES", help="a step, over all processes")
    recipe.add_argument(
        "--pieces",
        type=int,
        help="parts that a process cuts its share of the batch into, where memory is short",
    )
    recipe.add_argument("--rate", type=float, help="learning rate of AdamW")
    recipe.add_argument(
        "--floor", type=float, help="learning rate that a cosine ends at; the same is constant"
    )
    recipe.add_argument("--warmup", type=int, metavar="STEPS", help="of linear warm-up")
    recipe.add_argument("--weight-decay", type=float)
    recipe.add_argument(
        "--clip", type=float, metavar="NORM", help="greatest norm of the gradient; 0 leaves it"
    )
    recipe.add_argument(
        "--patience", type=int, metavar="EPOCHS", help="without a better AUC, then it ends; 0: never"
    )
    recipe.add_argument("--flip", choices=("none", "h", "v", "hv"), help="mirror half of the images")
    recipe.add_argument("--degrees", type=float, help="rotate by up to so much")
    recipe.add_argument("--shift", type=float, metavar="SHARE", help="move by up to so much of the side")
    recipe.add_argument("--jitter", type=float, help="of brightness and contrast")
    recipe.add_argument(
        "--soften", action="store_true", default=None, help="blur and noise, as decoded latents have them"
    )
    command.add_argument(
        "--pos-weight",
        default="none",
        metavar="WEIGHT",
        help="of positives in the loss: none, balanced (negatives over positives, a label each) or a "
        "number; the "
        "probabilities stay those of the set",
    )
    command.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: %(default)s"
    )
    command.add_argument("--half", action="store_true", help="store the weights in fp16")
    command.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    command.add_argument("--workers", type=int, help="processes that read images (default: by the machine)")
    command.add_argument(
        "--save-every", type=int, default=200, metavar="STEPS", help="between states (default: %(default)s)"
    )
    command.add_argument("--resume", action="store_true", help="go on from the last state in --out")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train by the command line's arguments. Raises ValueError where they, or the data, cannot be used."""
    from functools import partial

    from ..training.classifier import ClassifierSettings, train_classifier

    given = vars(arguments)
    reading = {**{key: given[key] for key in READING}, "seed": arguments.split_seed}
    recipe = {key: given[key] for key in RECIPE if given[key] is not None}
    labels = None
    if arguments.labels is not None:
        labels = tuple(label for part in arguments.labels.split(",") if (label := part.strip()))
    settings = ClassifierSettings(
        labels=labels, recipe=recipe, reading=reading, **{key: given[key] for key in OWN}
    )
    train_classifier(settings, partial(print, flush=True))
