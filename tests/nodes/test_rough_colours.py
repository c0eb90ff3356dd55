"""Rough colours of latents: grey films look grey, in core's previewer and in the viewer."""

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


def test_a_fit_is_made_once_for_a_vae(rough, demo, monkeypatch):
    first = rough.fitted_format(demo[0].get_model_object("latent_format"), demo[2])
    monkeypatch.setattr(rough, "_fit", lambda *_: pytest.fail("fitted again"))
    assert rough.fitted_format(first, demo[2]).latent_rgb_factors == first.latent_rgb_factors


def test_with_a_vae_the_viewer_shows_what_it_decodes(run, demo, prompts, trajectory, traverse):
    import folder_paths

    neutral, negative, attributes, _ = prompts
    inputs = {"model": demo[0], "neutral": neutral, "negative": negative, "attributes": attributes}
    output = run("PromptSwapKSampler", **inputs, seed=1500, patients=2, vae=demo[2], **STEPS)
    assert torch.equal(output[1].latents, trajectory.latents)
    folder = Path(folder_paths.get_temp_directory()) / "medtraverse"
    name = output.ui["medtraverse_view"][0]["view"]
    view = json.loads((folder / name).read_text(encoding="utf-8"))
    assert view["size"] == [128, 128] and not view["approximate"] and view["left_out"] == 0
    images = demo[2].decode(trajectory.latents)
    for row in (0, len(images) - 1):
        shown = Image.open(folder / f"{Path(name).stem}-{row}.png")
        pixels = torch.tensor(list(shown.getdata())).reshape(128, 128, 3)
        assert (pixels - (images[row].clamp(0, 1) * 255).round()).abs().max() <= 1
