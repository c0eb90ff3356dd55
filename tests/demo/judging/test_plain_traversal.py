"""The plain sampler against diffusers' pipeline."""

from dataclasses import replace

import pytest
import torch

from demo.training.architecture import WEIGHTS, build_scheduler, build_unet
from medtraverse.plain_traversal import (
    cumulative_alphas,
    ddim_step,
    draw_noise,
    guided_noise,
    load_model,
    traverse,
    traverse_images,
)
from medtraverse.projection import path_noise
from medtraverse.traversal import ddim_timesteps

NEUTRAL, ATTRIBUTE = "Normal chest X-ray with no significant findings", "Chest X-ray showing Support Devices"
STEPS, SWAP = 6, 2


@pytest.fixture(scope="module")
def model():
    return load_model(WEIGHTS)


def _pipeline(model, noise, swap):
    """One image's latent from diffusers, its prompt swapped in a callback, as in the reference scripts."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        model.vae,
        model.text,
        model.tokenizer,
        model.unet,
        build_scheduler(),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)

    def after(_, step, time, tensors):
        if step == swap:
            tensors["prompt_embeds"] = torch.cat([model.encode([""]), model.encode([ATTRIBUTE])])
        return tensors

    return pipeline(
        NEUTRAL,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=noise,
        output_type="latent",
        callback_on_step_end=after,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images


def test_what_predicts_v_is_stepped_as_diffusers_does(model):
    scheduler = build_scheduler()
    scheduler.register_to_config(prediction_type="v_prediction")
    scheduler.set_timesteps(50)
    alphas = cumulative_alphas(scheduler.config)
    torch.testing.assert_close(alphas, scheduler.alphas_cumprod.double(), atol=1e-7, rtol=0)
    x_t, words = draw_noise([1], (4, 16, 16)), model.encode([NEUTRAL])
    other = replace(model, prediction="v_prediction")
    expected = scheduler.step(model.noise(x_t, 501, words), 501, x_t).prev_sample
    found = ddim_step(x_t, other.noise(x_t, 501, words), float(alphas[501]), float(alphas[481]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("time", [981, 501, 1])
def test_a_step_is_that_of_diffusers(time):
    scheduler = build_scheduler()
    scheduler.set_timesteps(50)
    x_t, e = draw_noise([1, 2], (4, 16, 16))
    expected = scheduler.step(e, time, x_t).prev_sample
    alphas = scheduler.alphas_cumprod.double().tolist()
    found = ddim_step(x_t, e, alphas[time], alphas[max(time - 20, 0)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_guidance_of_one_is_the_prompt_alone_and_of_none_is_without():
    conditional, unconditional = draw_noise([1, 2], (4, 2, 2)).double()
    torch.testing.assert_close(guided_noise(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(guided_noise(conditional, unconditional, 0.0), unconditional)


def test_equals_diffusers(model):
    noise = draw_noise([1500, 1501], model.latent_shape)
    found = traverse(model, [NEUTRAL] * 2, [[ATTRIBUTE]] * 2, noise, (SWAP, 0), STEPS)
    assert found.shape == (2, 1, 3, 4, 16, 16)
    for point, swap in enumerate((None, SWAP, 0)):
        torch.testing.assert_close(
            found[1, 0, point], _pipeline(model, noise[1:], swap)[0], atol=2e-3, rtol=0
        )
    assert (found[1, 0, 0] - found[1, 0, 1]).abs().max() > 0.1 and (
        found[1, 0, 0] - found[0, 0, 0]
    ).abs().max() > 0.5


def test_a_patient_does_not_depend_on_the_block(model):
    noise = draw_noise([7, 8], model.latent_shape)
    both = traverse(model, [NEUTRAL] * 2, [[ATTRIBUTE]] * 2, noise, (1,), 4)
    alone = traverse(model, [NEUTRAL], [[ATTRIBUTE]], noise[1:], (1,), 4)
    torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=0)


def test_images_are_images(model):
    images = model.decode(draw_noise([1], model.latent_shape))
    assert images.shape == (1, 128, 128, 3) and 0 <= images.min() < images.max() <= 1


def test_a_unet_of_another_shape_is_refused(tmp_path):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    other = UNet2DConditionModel.from_config({**build_unet().config, "block_out_channels": (64, 64, 96)})
    save_file(other.state_dict(), str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="unet: other.safetensors does not fit"):
        load_model(WEIGHTS, tmp_path / "other.safetensors")


def test_compiling_without_a_compiler_is_refused():
    import torch._inductor.config

    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match="--compile: .*leave it out"),
    ):
        load_model(WEIGHTS, compiled=True)


def test_the_unet_leaves_room_for_four():
    from torch.utils.flop_counter import FlopCounterMode

    unet = build_unet()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(torch.zeros(1, 4, 16, 16), torch.tensor([1]), torch.zeros(1, 77, 64))
    assert 2 * sum(p.numel() for p in unet.parameters()) == pytest.approx(9.5e6, rel=0.01)
    assert counter.get_total_flops() == pytest.approx(0.604e9, rel=0.01)
    assert sum(path.stat().st_size for path in WEIGHTS.parent.rglob("*") if path.is_file()) < 60e6


def test_from_an_image_each_step_adds_the_source_s_error(model):
    """z' = S(z, ε of the target) + p' − S(p, ε of the source), one row at a time; and the null control."""
    alphas, steps, guidance = build_scheduler().alphas_cumprod.double(), 4, 7.5
    source, target = "Normal chest X-ray with no significant findings", "Chest X-ray showing Pleural Effusion"
    z0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    ours = traverse_images(model, [source], [[target, source]], z0, [5], (1,), steps, guidance)
    times = ddim_timesteps(steps)
    reached = [float(alphas[time]) for time in times] + [float(alphas[0])]
    draws = path_noise([5], steps, model.latent_shape)[0]
    path = [a**0.5 * z0 + (1 - a) ** 0.5 * noise for a, noise in zip(reached, draws)] + [z0]
    words = {text: model.encode([text]) for text in ("", source, target)}

    def step(z, k, text):
        e = guided_noise(model.noise(z, times[k], words[text]), model.noise(z, times[k], words[""]), guidance)
        return ddim_step(z, e, reached[k], reached[k + 1])

    z = path[0]
    for k in range(steps):
        z = step(z, k, source if k <= 1 else target) + path[k + 1] - step(path[k], k, source)
    assert (ours[0, 0, 1] - z[0]).abs().max() < 1e-4
    assert (ours[0, 1, 1] - z0[0]).abs().max() < 1e-5 and (ours[:, :, 0] - z0).abs().max() < 1e-6
