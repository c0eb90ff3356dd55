"""``python -m medtraverse train unet``: the command line of `medtraverse.training.fine_tune`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

# torch is not needed for --help.
TITLES = {
    "files": "files",
    "data": "data",
    "network": "what is trained",
    "recipe": "recipe (defaults: the paper's)",
    "machine": "machine",
    "validation": "validation",
    "record": "record",
}


def add(subparsers: Any) -> None:
    """Add the command `unet` to those of `train`."""
    from ..training.settings import PRESETS, Settings

    command = subparsers.add_parser(
        "unet",
        help="fine-tune a Stable Diffusion's U-Net on a data set",
        description="Fine-tunes the U-Net, or a LoRA of it, on the images and captions of a data set. "
        "Latents and text embeddings are computed once and lie in the cache. A run that was stopped, in "
        "whatever way, goes on exactly with --resume. Runs on one processor or GPU, or on several by "
        "`accelerate launch -m medtraverse train unet …`; the result does not depend on their number. All "
        "options may stand in a YAML or TOML file, --config; those of the command line win.",
        argument_default=argparse.SUPPRESS,
    )
    command.add_argument("--config", metavar="FILE", default=None, help="YAML or TOML with these options")
    command.add_argument(
        "--preset",
        default="",
        choices=tuple(PRESETS),
        help="the paper's recipe; options and file are laid over it",
    )
    command.add_argument("--resume", action="store_true", default=False, help="go on with the run in --out")
    groups = {name: command.add_argument_group(title) for name, title in TITLES.items()}
    for item in fields(Settings):
        about, option = item.metadata, f"--{item.name.replace('_', '-')}"
        group, text = groups[about["group"]], about["help"].replace("%", "%%")
        shown = item.default not in ("", (), False) and "default" not in text
        text += f" (default: {item.default})" if shown else ""
        if about["kind"] == "flag":
            group.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
            continue
        kinds: dict[str, Any] = {"number": float, "whole": int, "whole list": int}
        metavar = {"number": "NUMBER", "whole": "N", "whole list": "N", "list": "FILE"}.get(
            about["kind"], "TEXT"
        )
        if about["group"] == "files":
            metavar = "NAME" if item.name == "name" else "PATH"
        group.add_argument(
            option,
            type=kinds.get(about["kind"], str),
            help=text,
            **({"nargs": "+"} if about["kind"].endswith("list") else {}),
            **({"choices": about["choices"]} if about["choices"] else {"metavar": metavar}),
        )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune by the command line's arguments. Raises ValueError where something does not fit."""
    from functools import partial

    from ..training.settings import Settings, settings_of

    names = {item.name for item in fields(Settings)}
    given = {key: value for key, value in vars(arguments).items() if key in names}
    settings = settings_of(given, arguments.preset, arguments.config)

    from ..training.fine_tune import fine_tune

    fine_tune(settings, arguments.resume, partial(print, flush=True))
