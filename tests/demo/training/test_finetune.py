"""Fine-tuning on files in the real layouts, down to the file that the checkpoint loader reads."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from demo.phantoms.layouts import write_chexpert, write_isic
from demo.training import finetune
from demo.training.architecture import WEIGHTS, build_unet
from demo.training.finetune import Pairs, draw_batch, main, phantom_data
from medtraverse import data_set
from medtraverse.captions import image_file
from medtraverse.checkpoint import read_unet, read_weights, unet_depths
from medtraverse.data_set import read_table
from medtraverse.notice import NOTICE

BASE = WEIGHTS / "unet" / "diffusion_pytorch_model.safetensors"


def _run(tmp_path, kind, *arguments):
    out = tmp_path / f"{kind}.safetensors"
    main(
        [
            kind,
            "--batch",
            "2",
            "--count",
            "8",
            "--cache",
            str(tmp_path / "cache"),
            "--out",
            str(out),
            *arguments,
        ]
    )
    return out


def test_three_steps_on_eight_phantoms(tmp_path):
    out = _run(tmp_path, "confounded", "--steps", "3")
    weights, heads = read_unet(out)
    assert heads is None and unet_depths(weights) == unet_depths(read_weights(BASE))
    build_unet().load_state_dict(weights)
    base = read_weights(BASE)
    assert all(value.dtype == torch.float16 for value in weights.values())
    moved = {key: (value.float() - base[key].float()).abs().max() for key, value in weights.items()}
    assert 0 < max(moved.values()) < 0.1
    with safe_open(str(out), "pt") as file:
        assert file.metadata()["notice"] == NOTICE
    log = json.loads(out.with_suffix(".json").read_text())
    assert log["steps"] == 3 and log["images"] == 8 and log["notice"] == NOTICE
    assert log["phantoms"] == {
        "layout": "chexpert",
        "count": 8,
        "seed": 1,
        "correlation": 0.9,
        "unmentioned": 0.6,
    }
    assert not list(tmp_path.rglob(".medtraverse-*"))


def test_a_resumed_run_is_the_whole_run(tmp_path, monkeypatch):
    whole = read_weights(_run(tmp_path / "a", "isic", "--steps", "4"))
    step = finetune.Run.step

    def stops(run, *arguments, **options):
        if run.clock.step == 2:
            run.save()
            raise KeyboardInterrupt
        return step(run, *arguments, **options)

    monkeypatch.setattr(finetune.Run, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "b", "isic", "--steps", "4")
    monkeypatch.undo()
    monkeypatch.setattr(data_set, "read_image", None)  # the latents are there already
    resumed = read_weights(_run(tmp_path / "b", "isic", "--steps", "4", "--resume"))
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, atol=1e-3, rtol=0)


def test_tables_of_phantoms_are_found_as_those_of_the_real_sets(tmp_path):
    write_chexpert(tmp_path / "x", 2, size=64)
    for folder in (tmp_path / "x", tmp_path / "x" / "CheXpert-v1.0"):
        captions, root = read_table("chexpert", folder)
        assert all(image_file(root, row.image).is_file() for row in captions) and len(captions) == 2
    write_isic(tmp_path / "i", 2, size=64)
    captions, root = read_table("isic", tmp_path / "i")
    assert image_file(root, captions[1].image).name == "ISIC_0000002.jpg"


def test_batches_follow_the_seed_and_drop_few_captions():
    pairs = Pairs(
        np.zeros((6, 8, 2, 2), np.float16),
        torch.arange(6) % 3,
        torch.arange(4.0)[:, None, None].expand(4, 77, 1),
    )
    first, again, other = (draw_batch(pairs, 2000, 0, step) for step in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(first[0], other[0])
    latent, noise, step, context = first
    assert latent.shape == noise.shape == (2000, 4, 2, 2) and step.min() >= 0 and step.max() <= 999
    shares = torch.bincount(context[:, 0, 0].long(), minlength=4) / 2000
    assert shares[3] == pytest.approx(finetune.DROPOUT, abs=0.02) and (shares[:3] > 0.27).all()


def test_sets_share_no_patient(tmp_path):
    made = [phantom_data(kind, 1, tmp_path)[1] for kind in ("chexpert", "confounded")]
    assert made[0]["seed"] != made[1]["seed"] and made[0]["correlation"] == 0 < made[1]["correlation"]
