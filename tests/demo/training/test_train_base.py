"""The base's trainings, a few steps each on real phantoms, from drawing to the folder that is exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.phantoms import chest, dermoscopy
from demo.phantoms.phantom_set import PhantomSet, held_out
from demo.training import train_base, train_unet, train_vae
from demo.training.architecture import SCALING, WEIGHTS, build_unet, build_vae
from demo.training.loop import Run
from medtraverse.notice import NOTICE

PATIENTS = 12


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    """The loss on held-out patients is a mean over 32 batches: ten times the work of the steps here."""
    monkeypatch.setattr(train_unet, "HELD_OUT_BATCHES", 2)


@pytest.fixture(scope="module")
def sets():
    def drawn(domain, module):
        factors = [module.sample_factors(number) for number in range(PATIENTS)]
        pictures = [module.render(patient, 128) for patient in factors]
        images, thin = (
            np.stack([np.round(255 * getattr(picture, part)).astype(np.uint8) for picture in pictures])
            for part in ("image", "thin")
        )
        return PhantomSet(domain, images, thin, factors)

    return [drawn("chest", chest), drawn("dermoscopy", dermoscopy)]


@pytest.fixture
def stopped(monkeypatch):
    """Breaks any training off after two steps, as a power cut after a checkpoint would."""
    step = Run.step

    def stops(run, *arguments, **options):
        if run.clock.step == 2:
            run.save()
            raise KeyboardInterrupt
        return step(run, *arguments, **options)

    monkeypatch.setattr(Run, "step", stops)
    return monkeypatch


def shipped_vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(WEIGHTS / "vae", torch_dtype=torch.float32).eval()


def test_every_stage_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "model"
    train_base.main(
        ["all", "--count", "32", "--steps", "2", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    )
    assert "export" in capsys.readouterr().out
    log = json.loads((out / "training-log.json").read_text())
    assert log["notice"] == NOTICE and log["phantoms_per_domain"] == 32
    assert log["vae"]["steps"] == log["unet"]["steps"] == 2 and set(log["vae"]["psnr"]) == {
        "chest",
        "dermoscopy",
    }
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("Chest X-ray", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 128, 128, 3) and np.isfinite(image).all()
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob(".medtraverse-*"))


def test_a_continued_vae_is_the_whole_one(tmp_path, sets, stopped):
    with pytest.raises(KeyboardInterrupt):
        train_vae.train_vae(sets, tmp_path, None, 3, 0, "cpu", False)
    stopped.undo()
    parts, log = train_vae.train_vae(sets, tmp_path, None, 3, 0, "cpu", True)
    whole, _ = train_vae.train_vae(sets, tmp_path / "whole", None, 3, 0, "cpu", False)
    assert log["steps"] == 3
    for key, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[key], value), key


def test_a_continued_unet_is_the_whole_one(tmp_path, sets, stopped):
    vae = shipped_vae()
    with pytest.raises(KeyboardInterrupt):
        train_unet.train_unet(vae, sets, tmp_path, None, 3, 0, "cpu", False)
    stopped.undo()
    stopped.setattr(train_unet, "encode_all", None)  # the latents are there already
    unet, text, log = train_unet.train_unet(vae, sets, tmp_path, None, 3, 0, "cpu", True)
    stopped.undo()
    whole, whole_text, _ = train_unet.train_unet(vae, sets, tmp_path / "whole", None, 3, 0, "cpu", False)
    assert log["steps"] == 3 and np.isfinite(log["held_out_loss"])
    for part, other in ((unet, whole), (text, whole_text)):
        for key, value in other.state_dict().items():
            torch.testing.assert_close(part.state_dict()[key], value, atol=1e-6, rtol=0)
    torch.manual_seed(0)
    assert not torch.equal(unet.conv_in.weight, build_unet().conv_in.weight)


def test_latents_are_standardised(sets):
    torch.manual_seed(0)
    vae = build_vae()
    train_vae.standardise_latents(vae, sets)
    latents = SCALING * torch.cat([train_vae.encode_all(vae, part.images)[:, :4] for part in sets])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_the_vae_s_loss_weighs_thin_structures():
    image = torch.zeros(1, 3, 16, 16)
    wrong = image.clone()
    wrong[..., 4, 4] = 0.5
    thin = torch.zeros(1, 1, 16, 16)
    thin[..., 4, 4] = 1
    plain, weighted = (
        train_vae.reconstruction_loss(wrong, image, part, 6.0, 0.5, 0.0) for part in (0 * thin, thin)
    )
    assert weighted > 2 * plain > 0
    assert train_vae.reconstruction_loss(image, image, thin, 6.0, 0.5, 12.0) == 0


def test_high_noise_weighs_more_only_where_asked():
    signal = torch.tensor([0.999, 0.5, 0.01])
    plain, heavy = train_unet.noise_weight(signal, 1.0), train_unet.noise_weight(signal, 10.0)
    snr = signal / (1 - signal)
    torch.testing.assert_close(plain, snr.clamp(max=5) / snr)  # Hang et al. 2023
    torch.testing.assert_close(heavy / plain, torch.tensor([1.0, 1.0, 99**0.5]))


def test_the_shipped_vae_reconstructs_patients_that_it_never_saw(sets):
    assert min(train_vae.psnr(shipped_vae(), sets).values()) > 25


def test_at_most_half_the_patients_are_held_out():
    assert [held_out(count) for count in (32, 512, 3000, 8000)] == [16, 256, 256, 256]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--count", "31"], "--count is 31"),
        (["vae", "--seed", "10"], "--seed is 10"),
        (["vae", "--batch", "8"], "--batch is 8"),
        (["vae", "--steps", "0"], "--minutes and --steps must be above 0"),
    ],
)
def test_bad_command_lines_are_named(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        train_base.main([*arguments, "--cache", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_stage_says_which_stage_it_needs(tmp_path):
    for stage, needed in (("unet", "train_base vae"), ("export", "train_base unet")):
        with pytest.raises(SystemExit, match=needed):
            train_base.main(
                [stage, "--count", "32", "--cache", str(tmp_path), "--out", str(Path(tmp_path) / "x")]
            )
