"""The demo's fine-tuning is the library's command, on phantoms in the real layouts."""

import json

import torch

from demo.training.architecture import WEIGHTS, build_unet
from demo.training.finetune import main, phantom_data
from medtraverse.checkpoint import read_unet, read_weights
from medtraverse.notice import NOTICE

BASE = WEIGHTS / "unet" / "diffusion_pytorch_model.safetensors"


def test_two_steps_on_phantoms_in_isic_s_layout(tmp_path):
    out = tmp_path / "isic.safetensors"
    command = ["isic", "--steps", "2", "--count", "8", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    main([*command, "--device", "cpu", "--precision", "fp32"])
    weights, heads = read_unet(out)
    build_unet().load_state_dict(weights)
    base = read_weights(BASE)
    assert heads == 4 and all(value.dtype == torch.float16 for value in weights.values())
    moved = {key: (value.float() - base[key].float()).abs().max() for key, value in weights.items()}
    assert 0 < max(moved.values()) < 0.1
    log = json.loads(out.with_suffix(".json").read_text())
    assert log["steps"] == 2 and log["notice"] == NOTICE and log["recipe"]["ema"] == 0.998
    assert log["phantoms"] == {
        "layout": "isic",
        "count": 8,
        "seed": 0,
        "correlation": 0.0,
        "unmentioned": 0.0,
    }


def test_sets_share_no_patient(tmp_path):
    made = [phantom_data(kind, 1, tmp_path)[1] for kind in ("chexpert", "confounded")]
    assert made[0]["seed"] != made[1]["seed"] and made[0]["correlation"] == 0 < made[1]["correlation"]
