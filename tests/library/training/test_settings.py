"""Settings: the paper's recipes to the letter, what wins over what, and mistakes in one sentence."""

import json
import re

import pytest

from medtraverse.training.settings import PRESETS, settings_of

FOLDERS = {"data": "d", "base": "b", "out": "o"}


@pytest.mark.parametrize(
    ("preset", "own"),
    [
        ("paper-chexpert", {"epochs": 100, "keep_epochs": (40,), "uncertain": "ignore", "views": "frontal"}),
        ("paper-isic", {"epochs": 500, "keep_epochs": (300,), "threshold": 0.9}),
    ],
)
def test_presets_are_the_paper_s(preset, own):
    settings = settings_of(FOLDERS, preset)
    paper = {
        "method": "full",
        "train_text_encoder": False,
        "size": 512,
        "fit": "squash",
        "optimizer": "adamw",
        "rate": 1e-5,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 1e-2,
        "epsilon": 1e-8,
        "clip": 1.0,
        "precision": "fp16",
        "batch": 8,
        "accumulation": 4,
        "schedule": "constant",
        "warmup": 0,
        "min_snr": 0,
        "high_noise": 1,
        "ema": 0,
        "caption_dropout": 0,
        "noise_offset": 0,
        "held_out": 0,
    }
    assert {key: getattr(settings, key) for key in paper | own} == paper | own
    assert settings.images_per_update == 32 and set(PRESETS) == {"paper-chexpert", "paper-isic"}


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path, suffix):
    pytest.importorskip("tomllib" if suffix == "toml" else "yaml")
    file = tmp_path / f"run.{suffix}"
    sign = ": " if suffix == "yaml" else " = "
    lines = {"preset": '"paper-isic"', "rate": "2e-5", "min-snr": "5", "steps": "70", "keep_epochs": "[1, 2]"}
    file.write_text("\n".join(f"{key}{sign}{value}" for key, value in lines.items()))
    settings = settings_of({**FOLDERS, "batch": 2, "min_snr": 1}, file=file)
    assert (settings.rate, settings.min_snr, settings.batch, settings.accumulation) == (2e-5, 1, 2, 4)
    assert (settings.steps, settings.epochs, settings.keep_epochs) == (70, 0, (1, 2))
    assert settings.layout == "isic2019" and json.dumps(settings.report())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stps": 3}, "stps: there is no such setting; did you mean steps?"),
        ({"rate": "fast"}, "rate: 'fast' is not a number"),
        ({"batch": 1.5}, "batch: 1.5 is not a whole number"),
        ({"compile": "yes"}, "compile: 'yes' is not true or false"),
        ({"batch": 0}, "batch: 0 is out of range; give a number from 1 on."),
        ({"caption_dropout": 2}, "caption_dropout: 2.0 is out of range; give a number from 0 to 1."),
        ({"precision": "fp8"}, "precision: there is no 'fp8'; the choices are fp32, bf16, fp16."),
        ({"epochs": 1}, "steps, epochs: both are given"),
        ({"out": ""}, "out: none is given; write --out FOLDER"),
        ({"swap_steps": "60"}, "swap_steps: 60 is out of range"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        settings_of({**FOLDERS, "steps": 5, **given})
