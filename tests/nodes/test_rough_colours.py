"""Rough colours of latents: grey films look grey, in core's previewer and in the viewer."""

import copy
import gc
import importlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

STEPS = {"steps": 10, "swap_steps": "7,1", "cfg": 4.0}


@pytest.fixture(scope="module")
def rough(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.rough_colours")


@pytest.fixture(scope="module")
def views(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.views")


@pytest.fixture(scope="module")
def trajectory(traverse):
    return traverse(seed=1500, patients=2, **STEPS)


@pytest.fixture(scope="module")
def decoded(demo, trajectory):
    """What the VAE makes of the latents, at their size."""
    images = demo[2].decode(trajectory.latents).movedim(-1, 1)
    return F.interpolate(images, trajectory.latents.shape[-2:], mode="area").movedim(1, -1)


def apart(pictures, decoded):
    return (pictures.clamp(0, 1) - decoded).square().mean().sqrt()


def saturation(pictures):
    return (pictures.amax(-1) - pictures.amin(-1)).mean()


def test_fitted_colours_are_near_to_the_decoded_image(rough, trajectory, decoded):
    import comfy.latent_formats

    core = rough.coloured(trajectory.latents, rough.colour_map(comfy.latent_formats.SD15()))
    fitted = rough.coloured(trajectory.latents, trajectory.rough)
    assert apart(fitted, decoded) < 0.08 < 0.15 < apart(core, decoded)
    assert saturation(fitted) < 0.1 < 0.2 < saturation(core.clamp(0, 1))


def test_cores_previewer_has_them(demo, trajectory, monkeypatch):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    latent_format = demo[0].get_model_object("latent_format")
    previewer = latent_preview.get_previewer(demo[0].load_device, latent_format)
    latent = latent_format.process_in(trajectory.latents[:1])
    picture = previewer.decode_latent_to_preview_image("JPEG", latent)[1].convert("RGB")
    pixels = torch.tensor(list(picture.getdata())).float() / 255
    assert saturation(pixels) < 0.1 and pixels.std() > 0.1


@pytest.fixture
def fits(rough, monkeypatch):
    """The fits that are made from here on."""
    made, fit = [], rough._fit
    monkeypatch.setattr(rough, "_fit", lambda *given: made.append(fit(*given)) or made[-1])
    return made


def test_a_fit_is_made_once_for_a_file_however_often_it_is_loaded(rough, run, demo, fits):
    factors = demo[0].get_model_object("latent_format").latent_rgb_factors
    again = run("MedicalCheckpointLoader", domain="CheXpert").args
    assert again[2] is not demo[2] and not fits
    assert again[0].get_model_object("latent_format").latent_rgb_factors == factors


def test_another_file_or_another_scale_has_a_fit_of_its_own(rough, pack, demo, fits):
    parts = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    weights = pack.medtraverse.checkpoint.read_checkpoint(parts).vae
    (key,) = (name for name in weights if name.endswith("decoder.conv_out.bias"))
    brighter = pack.nodes.model_building.build_vae({**weights, key: weights[key] + 0.25})
    latent_format = demo[0].get_model_object("latent_format")
    other = rough.fitted_format(latent_format, brighter)
    assert len(fits) == 1 and min(other.latent_rgb_factors_bias) > max(latent_format.latent_rgb_factors_bias)
    scaled = copy.copy(latent_format)
    scaled.scale_factor = 1.0
    assert rough.fitted_format(scaled, demo[2]).latent_rgb_factors != latent_format.latent_rgb_factors
    assert len(fits) == 2


@pytest.fixture
def viewed(run, demo, prompts, trajectory):
    """``viewed(vae)`` samples with a VAE wired, the same latents as ever; returns the view and its name."""
    import folder_paths

    neutral, negative, attributes, _ = prompts
    inputs = {"model": demo[0], "neutral": neutral, "negative": negative, "attributes": attributes}

    def sample(vae):
        output = run("PromptSwapKSampler", **inputs, seed=1500, patients=2, vae=vae, **STEPS)
        assert torch.equal(output[1].latents, trajectory.latents)
        name = output.ui["medtraverse_view"][0]["view"]
        folder = Path(folder_paths.get_temp_directory()) / "medtraverse"
        return json.loads((folder / name).read_text(encoding="utf-8")), Path(name).stem

    return sample


def test_with_a_vae_an_image_is_decoded_when_it_is_asked_for(views, demo, trajectory, viewed):
    view, name = viewed(demo[2])
    assert view["approximate"] and view["size"] == [16, 16] and view["decoder"].endswith(f"/{name}/")
    assert views.can_decode(name) and not list(views._folder().glob(f"{name}-*-decoded.png"))
    images = demo[2].decode(trajectory.latents)
    for row in (0, len(images) - 1):
        assert views.decode(name, row)
        shown = Image.open(views.decoded_file(name, row))
        pixels = torch.tensor(list(shown.getdata())).reshape(128, 128, 3)
        assert (pixels - (images[row].clamp(0, 1) * 255).round()).abs().max() <= 1
    assert not views.decode(name, len(images)) and not views.decode("0123456789abcdef", 0)
    size = views._kept[name][1]
    assert size == sum(path.stat().st_size for path in views._files(name))
    views._delete(name)
    assert not views.can_decode(name) and not views._files(name)


def test_a_vae_that_fails_after_sampling_loses_no_run(views, pack, viewed, caplog):
    parts = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    vae = pack.nodes.model_building.build_vae(pack.medtraverse.checkpoint.read_checkpoint(parts).vae)
    _, name = viewed(vae)
    vae.first_stage_model.decoder.conv_in.weight.data = torch.zeros(1, 1, 1, 1)
    assert not views.decode(name, 0) and not views.can_decode(name)
    assert "images cannot be decoded" in caplog.text


def test_a_view_does_not_keep_the_vae(views, pack, viewed):
    parts = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    vae = pack.nodes.model_building.build_vae(pack.medtraverse.checkpoint.read_checkpoint(parts).vae)
    _, name = viewed(vae)
    del vae
    gc.collect()
    assert not views.can_decode(name) and not views.decode(name, 0)
