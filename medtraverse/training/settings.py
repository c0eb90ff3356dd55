"""Everything that may be said of a fine-tuning, from a preset, a file and the command line, in that order.

A field of `Settings` is a key of the YAML or TOML file and, with hyphens, an option of the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FULL, LORA = "full", "lora"
ADAMW, ADAMW_8BIT = "adamw", "adamw-8bit"
FP32, BF16, FP16 = "fp32", "bf16", "fp16"
# What accelerate calls them.
MIXED = {FP32: "no", BF16: "bf16", FP16: "fp16"}
TRACKERS = ("none", "tensorboard", "wandb")


def _option(
    group: str,
    kind: str,
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    about = {"group": group, "kind": kind, "help": help, "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """What a fine-tuning is to do; `checked` refuses what cannot be. The help of each field says what it is.

    The defaults are the paper's recipe (TehraniNasab, Kumar, Arbel 2025, section 3), but for its precision
    and its length.
    """

    data: str = _option("files", "text", "", "the data set's folder, or a captions file")
    base: str = _option("files", "text", "", "diffusers folder of Stable Diffusion 1.x or 2.x")
    out: str = _option("files", "text", "", "folder of the run: weights, log, state")
    unet: str = _option("files", "text", "", "a U-Net alone to begin with, in place of the base's")
    cache: str = _option("files", "text", "", "folder of latents and text embeddings (default: OUT/cache)")
    install: str = _option("files", "text", "", "a ComfyUI's folder that gets the weights and the domain")
    name: str = _option("files", "text", "", "of the weights and the domain (default: the folder's name)")

    layout: str = _option("data", "text", "", "of the data set (default: recognised by its files)")
    uncertain: str = _option("data", "text", "ignore", "labels of -1", choices=("ignore", "positive", "drop"))
    views: str = _option("data", "text", "frontal", "of chest films", choices=("frontal", "lateral", "all"))
    threshold: float = _option(
        "data", "number", 0.9, "from which an artefact's probability counts", low=0.0, high=1.0
    )
    artefacts: str = _option("data", "text", "", "table of ISIC 2019's artefacts, where it lies elsewhere")
    held_out: float = _option(
        "data", "number", 0.1, "share of the patients kept for validation", low=0.0, high=0.9
    )
    split_seed: int = _option("data", "whole", 0, "of that choice", low=0)
    size: int = _option("data", "whole", 0, "side of the images in pixels (default: the base's)", low=0)
    fit: str = _option(
        "data", "text", "squash", "of images that are not square", choices=("squash", "pad", "crop")
    )
    skip_broken: bool = _option("data", "flag", False, "leave out images that cannot be read")

    method: str = _option("network", "text", FULL, "all of the U-Net, or a LoRA of it", choices=(FULL, LORA))
    rank: int = _option("network", "whole", 16, "of the LoRA", low=1)
    alpha: int = _option("network", "whole", 0, "of the LoRA (default: its rank)", low=0)
    lora_layers: str = _option(
        "network",
        "text",
        "attention",
        "layers that the LoRA changes: queries, keys, values and outputs, or all of the transformers",
        choices=("attention", "all"),
    )
    train_text_encoder: bool = _option("network", "flag", False, "train the text encoder too")

    steps: int = _option("recipe", "whole", 0, "updates; in place of epochs", low=0)
    epochs: float = _option("recipe", "number", 0.0, "passes over the images", low=0.0)
    batch: int = _option("recipe", "whole", 8, "images at a time", low=1)
    accumulation: int = _option(
        "recipe", "whole", 4, "such batches an update, shared by the processes", low=1
    )
    rate: float = _option("recipe", "number", 1e-5, "learning rate", low=0.0)
    text_rate: float = _option("recipe", "number", 0.0, "of the text encoder (default: rate)", low=0.0)
    schedule: str = _option(
        "recipe", "text", "constant", "of the learning rate", choices=("constant", "cosine", "linear")
    )
    warmup: int = _option("recipe", "whole", 0, "updates over which the rate rises from 0", low=0)
    optimizer: str = _option("recipe", "text", ADAMW, "8bit needs bitsandbytes", choices=(ADAMW, ADAMW_8BIT))
    beta1: float = _option("recipe", "number", 0.9, "of AdamW", low=0.0, high=1.0)
    beta2: float = _option("recipe", "number", 0.999, "of AdamW", low=0.0, high=1.0)
    weight_decay: float = _option("recipe", "number", 1e-2, "of AdamW", low=0.0)
    epsilon: float = _option("recipe", "number", 1e-8, "of AdamW", low=0.0)
    clip: float = _option("recipe", "number", 1.0, "greatest norm of the gradient; 0 leaves it", low=0.0)
    ema: float = _option(
        "recipe", "number", 0.0, "decay of averaged weights, such as 0.999; 0 is none", low=0.0, high=1.0
    )
    min_snr: float = _option(
        "recipe", "number", 0.0, "limit of min-SNR weights, such as 5; 0 is none", low=0.0
    )
    high_noise: float = _option(
        "recipe",
        "number",
        1.0,
        "greatest further weight of high noise, where presence of an attribute is decided: SNR^-1/2 within "
        "1 and this",
        low=1.0,
    )
    noise_offset: float = _option("recipe", "number", 0.0, "noise common to a channel; 0 is none", low=0.0)
    caption_dropout: float = _option(
        "recipe", "number", 0.0, "share of captions left empty, for guidance", low=0.0, high=1.0
    )
    seed: int = _option("recipe", "whole", 0, "of order, noise and all else that is drawn", low=0)

    precision: str = _option(
        "machine", "text", FP32, "of the computation; weights are fp32", choices=tuple(MIXED)
    )
    gradient_checkpointing: bool = _option("machine", "flag", False, "less memory, a third more time")
    channels_last: bool = _option("machine", "flag", True, "memory order of convolutions on a GPU")
    compile: bool = _option("machine", "flag", False, "torch.compile the U-Net")
    workers: int = _option("machine", "whole", 2, "that read images and prepare batches; 0 is none", low=0)
    device: str = _option(
        "machine", "text", "auto", "auto is a GPU where there is one", choices=("auto", "cpu")
    )

    classifier: tuple[str, ...] = _option(
        "validation", "list", (), "files that judge CFRT; several stand side by side"
    )
    domain: str = _option("validation", "text", "", "name or file of the prompts (default: the data set's)")
    validate_every: int = _option("validation", "whole", 500, "updates; 0 is at the end alone", low=0)
    validation_images: int = _option("validation", "whole", 256, "held-out images at most", low=1)
    validation_patients: int = _option("validation", "whole", 16, "seeds drawn for each attribute", low=1)
    validation_seed: int = _option("validation", "whole", 1500, "the first of them", low=0)
    validation_steps: int = _option("validation", "whole", 50, "of DDIM", low=2, high=999)
    guidance: float = _option("validation", "number", 7.5, "of classifier-free guidance", low=0.0)
    swap_steps: str = _option("validation", "text", "15,10,5", "of the prompt swap")

    save_every: int = _option("record", "whole", 500, "updates between states", low=1)
    keep_epochs: tuple[int, ...] = _option(
        "record", "whole list", (), "epochs whose weights are kept beside best and last"
    )
    log_every: int = _option("record", "whole", 20, "updates between lines of progress", low=1)
    track: str = _option("record", "text", "none", "where figures go beside log.jsonl", choices=TRACKERS)
    save_precision: str = _option(
        "record", "text", FP16, "of the weights that are written", choices=(FP16, FP32)
    )

    @property
    def images_per_update(self) -> int:
        """The global batch, however many processes share it."""
        return self.batch * self.accumulation

    def report(self) -> dict[str, Any]:
        """Return the settings as a JSON file holds them."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


_PAPER = {
    "size": 512,
    "fit": "squash",
    "method": FULL,
    "train_text_encoder": False,
    "batch": 8,
    "accumulation": 4,
    "rate": 1e-5,
    "schedule": "constant",
    "warmup": 0,
    "optimizer": ADAMW,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 1e-2,
    "epsilon": 1e-8,
    "clip": 1.0,
    "precision": FP16,
    "ema": 0.0,
    "min_snr": 0.0,
    "high_noise": 1.0,
    "noise_offset": 0.0,
    "caption_dropout": 0.0,
    "held_out": 0.0,
}
# TehraniNasab, Kumar, Arbel 2025: the epochs trained, and the checkpoint used. Nothing is held out.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-chexpert": {
        **_PAPER,
        "layout": "chexpert",
        "uncertain": "ignore",
        "views": "frontal",
        "epochs": 100.0,
        "keep_epochs": (40,),
    },
    "paper-isic": {
        **_PAPER,
        "layout": "isic2019",
        "threshold": 0.9,
        "epochs": 500.0,
        "keep_epochs": (300,),
    },
}
# They may change between a run and its continuation: what is trained stays the same.
FREE = frozenset(
    (
        *("data", "base", "out", "unet", "cache", "install", "name", "steps", "epochs", "workers", "device"),
        *("compile", "channels_last", "gradient_checkpointing", "classifier", "domain", "validate_every"),
        *("validation_images", "validation_patients", "validation_seed", "validation_steps", "guidance"),
        *("swap_steps", "save_every", "keep_epochs", "log_every", "track", "save_precision"),
    )
)


def settings_of(
    given: Mapping[str, Any], preset: str = "", file: str | os.PathLike[str] | None = None
) -> Settings:
    """Return the settings of a preset, a file over it, and what is given over both.

    Parameters
    ----------
    given : mapping of str to Any
        By the names of the fields.
    preset : str
        One of `PRESETS`; the file may name it too, as ``preset``.
    file : path, optional
        YAML or TOML of the same names.

    Raises
    ------
    ValueError
        An unknown name, a value of another type or out of range, or a required one that is missing.
    """
    written = {} if file is None else read_file(Path(file))
    named = preset or str(written.pop("preset", ""))
    written.pop("preset", None)
    if named and named not in PRESETS:
        raise ValueError(f"preset: there is no {named!r}; the choices are {', '.join(PRESETS)}.")
    merged = {**PRESETS.get(named, {}), **_typed(written), **_typed(given)}
    # Whoever gives steps means them in place of a preset's epochs, and the other way round.
    later = {**written, **given}
    if "steps" in later and "epochs" not in later:
        merged["epochs"] = 0.0
    if "epochs" in later and "steps" not in later:
        merged["steps"] = 0
    return checked(Settings(**merged))


def read_file(path: Path) -> dict[str, Any]:
    """Read a settings file, YAML or TOML by its suffix, hyphens in names as underscores."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} cannot be read ({error}); give a YAML or TOML file.") from error
    record: Any
    if path.suffix.lower() == ".toml":
        from importlib import import_module

        try:
            toml = import_module("tomllib")
        except ModuleNotFoundError:
            raise ValueError(
                f"config: {path} is TOML, which Python 3.11 reads and older ones do not; write YAML."
            ) from None
        try:
            record = toml.loads(text)
        except ValueError as error:
            raise ValueError(f"config: {path} is no TOML ({error}); mend it.") from error
    else:
        import yaml

        try:
            record = yaml.safe_load(text)
        except yaml.YAMLError as error:
            where = " ".join(str(error).split())
            raise ValueError(f"config: {path} is no YAML ({where}); mend it.") from error
    if not isinstance(record, dict):
        raise ValueError(f"config: {path} holds no names and values; write lines such as 'steps: 1000'.")
    return {str(key).replace("-", "_"): value for key, value in record.items()}


def checked(settings: Settings) -> Settings:
    """Return the settings. Raises ValueError where they contradict themselves or a value is out of range."""
    for item in fields(settings):
        value, about = getattr(settings, item.name), item.metadata
        for one in value if isinstance(value, tuple) else (value,):
            if about["choices"] and one not in about["choices"]:
                raise ValueError(
                    f"{item.name}: there is no {one!r}; the choices are {', '.join(about['choices'])}."
                )
            low, high = about["low"], about["high"]
            if (low is not None and one < low) or (high is not None and one > high):
                span = f"from {low:g}" + (f" to {high:g}" if high is not None else " on")
                raise ValueError(f"{item.name}: {one!r} is out of range; give a number {span}.")
    for name in ("data", "base", "out"):
        if not getattr(settings, name):
            raise ValueError(f"{name}: none is given; write --{name} FOLDER, or '{name}:' in the file.")
    if bool(settings.steps) == bool(settings.epochs):
        both = "both are given" if settings.steps else "neither is given"
        raise ValueError(f"steps, epochs: {both}; give one of them, or a preset.")
    if settings.ema == 1 or settings.caption_dropout == 1:
        name = "ema" if settings.ema == 1 else "caption_dropout"
        raise ValueError(f"{name}: 1 would learn nothing; give less.")
    if not settings.rate:
        raise ValueError("rate: 0 would learn nothing; give more, such as 1e-5.")
    from ..traversal import parse_swap_steps

    parse_swap_steps(settings.swap_steps, settings.validation_steps)
    return settings


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    known = {item.name: item for item in fields(Settings)}
    typed = {}
    for name, value in given.items():
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"{name}: there is no such setting; {hint}")
        typed[name] = _value(name, known[name].metadata["kind"], value)
    return typed


def _value(name: str, kind: str, value: Any) -> Any:
    if kind in ("list", "whole list"):
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(name, "whole" if kind == "whole list" else "text", item) for item in items)
    if kind == "flag" and isinstance(value, bool):
        return value
    if kind == "text" and isinstance(value, (str, os.PathLike)):
        return str(value)
    # YAML takes 1e-5 for a text.
    if kind in ("number", "whole") and not isinstance(value, bool):
        try:
            number = float(value)
            if number == number and (kind == "number" or number == int(number)):
                return number if kind == "number" else int(number)
        except (TypeError, ValueError, OverflowError):
            pass
    words = {"flag": "true or false", "text": "a text", "number": "a number", "whole": "a whole number"}
    raise ValueError(f"{name}: {value!r} is not {words[kind]}; write one.")
