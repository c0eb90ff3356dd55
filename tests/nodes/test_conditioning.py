"""Conditionings of ComfyUI in a traversal, each against stock runs that swap by handing the latent over."""

import pytest
import torch

STEPS = {
    "sampler": "euler",
    "scheduler": "karras",
    "steps": 10,
    "swap_steps": "7,3",
    "width": 64,
    "height": 64,
    "seed": 5,
}
HINT = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def with_options(conditioning, **options):
    return [[tensor, {**own, **options}] for tensor, own in conditioning]


@pytest.fixture(scope="module")
def stock(demo):
    """``stock(neutral, attribute, negative, swap_step)``: core's sampler to the swap, and from there on."""
    import comfy.sample
    import comfy.samplers

    def call(neutral, attribute, negative, swap_step, scheduler="karras", model=None):
        model = model or demo[0]
        sigmas = comfy.samplers.KSampler(model, 10, model.load_device, "euler", scheduler, 1.0).sigmas
        empty, euler = torch.zeros(1, 4, 8, 8), comfy.samplers.sampler_object("euler")
        noise = comfy.sample.prepare_noise(empty, 5)

        def run(noise, positive, latent, sigmas):
            return comfy.sample.sample_custom(
                model, noise, 7.5, euler, sigmas, positive, negative, latent, disable_pbar=True, seed=5
            )

        latent = run(noise, neutral, empty, sigmas[: swap_step + 2])
        return run(empty, attribute, latent, sigmas[swap_step + 1 :])[0]

    return call


@pytest.fixture(scope="module")
def controlnet(demo):
    """A ControlNet of the demo U-Net's shape, its weights random."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    shape = {
        k: v
        for k, v in demo[0].model.model_config.unet_config.items()
        if k not in ("out_channels", "disable_unet_model_creation")
    }
    net = comfy.cldm.cldm.ControlNet(
        **{"image_size": 32, **shape, "dtype": torch.float32},
        hint_channels=3,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(0)
    for name, weight in net.named_parameters():
        scale = 0.3 if "zero_convs" in name or "middle_block_out" in name else 0.02
        weight.detach().copy_(
            torch.randn(weight.shape, generator=generator) * scale
            + float("norm" in name and name.endswith("weight"))
        )
    return comfy.controlnet.ControlNet(net, load_device=demo[0].load_device)


@pytest.fixture
def make(prompts, run, controlnet):
    """``make(case)`` returns the conditionings (neutral, [attribute, attribute], negative) of a case."""
    neutral, negative, attributes, _ = prompts
    first, second = (item.conditioning for item in attributes.attributes[:2])
    controlled = {"control": controlnet.copy().set_cond_hint(HINT, 1.0), "control_apply_to_uncond": True}
    early = {
        "control": controlnet.copy().set_cond_hint(HINT, 1.0, (0.0, 0.6)),
        "control_apply_to_uncond": False,
    }
    half = torch.zeros(1, 8, 8)
    half[:, :4] = 1
    cases = {
        "plain": (neutral, [first, second], negative),
        "area on an attribute": (
            neutral,
            [first, with_options(second, area=(4, 4, 0, 0), strength=1.0) + first],
            negative,
        ),
        "area on the neutral": (
            with_options(second, area=(4, 4, 0, 0), strength=1.0) + neutral,
            [first, second],
            negative,
        ),
        "mask on an attribute": (
            neutral,
            [first, with_options(second, mask=half, mask_strength=1.0) + first],
            negative,
        ),
        "range on an attribute": (
            neutral,
            [
                first,
                with_options(second, start_percent=0.0, end_percent=0.7)
                + with_options(first, start_percent=0.7, end_percent=1.0),
            ],
            negative,
        ),
        "ControlNet on an attribute": (neutral, [first, with_options(second, **controlled)], negative),
        "ControlNet on the neutral": (with_options(neutral, **controlled), [first, second], negative),
        "early ControlNet on an attribute and the negative": (
            neutral,
            [first, with_options(second, **early)],
            with_options(negative, **early),
        ),
    }
    return cases.__getitem__


def named(run, conditionings):
    chain = None
    for number, conditioning in enumerate(conditionings):
        chain = run(
            "AttributeConditioning", conditioning=conditioning, name=f"attribute {number}", others=chain
        )[0]
    return chain


@pytest.mark.parametrize(
    "case",
    [
        "plain",
        "area on an attribute",
        "area on the neutral",
        "mask on an attribute",
        "range on an attribute",
        "ControlNet on an attribute",
        "ControlNet on the neutral",
        "early ControlNet on an attribute and the negative",
    ],
)
def test_each_row_equals_stock_runs_of_its_own_conditionings(make, stock, run, traverse, case):
    """What is on one conditioning reaches neither the neutral nor another attribute."""
    neutral, attributes, negative = make(case)
    ours = traverse(
        neutral=neutral, negative=negative, attributes=named(run, attributes), patients=2, **STEPS
    )
    for number, attribute in enumerate(attributes):
        for point, swap_step in ((1, 7), (2, 3)):
            expected = stock(neutral, attribute, negative, swap_step)
            apart = (ours.latents[ours.index[0, number, point]] - expected).abs().max() / expected.abs().max()
            assert apart < 2e-5, (number, swap_step)


def test_core_schedulers_start_as_core_does(make, stock, run, traverse):
    neutral, attributes, negative = make("plain")
    ours = traverse(**{**STEPS, "scheduler": "ddim_uniform"})
    expected = stock(neutral, attributes[0], negative, 3, scheduler="ddim_uniform")
    assert (ours.latents[ours.index[0, 0, 2]] - expected).abs().max() / expected.abs().max() < 2e-5


@pytest.mark.parametrize("fault", ["prompts in one batch", "ControlNet images", "masks"])
def test_a_conditioning_made_for_a_batch_is_refused(make, run, traverse, controlnet, fault):
    """Core deals its entries out by place in the batch, which here is a row and not a patient."""
    _, (_, second), _ = make("plain")
    broken = {
        "prompts in one batch": [[second[0][0].repeat(2, 1, 1), second[0][1]]],
        "ControlNet images": with_options(
            second,
            control=controlnet.copy().set_cond_hint(HINT.repeat(2, 1, 1, 1), 1.0),
            control_apply_to_uncond=True,
        ),
        "masks": with_options(second, mask=torch.ones(2, 8, 8)),
    }[fault]
    with pytest.raises(ValueError, match=rf"attributes \(number 1\): its conditioning has 2 {fault}"):
        traverse(attributes=broken, **STEPS)


def test_a_prompt_that_a_patch_brings_is_evaluated_in_chunks(make, run, traverse, demo):
    import comfy.sampler_helpers
    import comfy.samplers

    other = comfy.sampler_helpers.convert_cond(make("plain")[1][1])
    sizes = []

    def toward(arguments):
        model, x = arguments["model"], arguments["input"]
        conds = comfy.samplers.encode_model_conds(
            model.extra_conds, [dict(cond) for cond in other], x, x.device, "negative"
        )
        (pushed,) = comfy.samplers.calc_cond_batch(
            model, [conds], x, arguments["sigma"], arguments["model_options"]
        )
        return arguments["denoised"] + 0.5 * (pushed - arguments["uncond_denoised"])

    def count(apply_model, arguments):
        sizes.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = demo[0].clone()
    model.set_model_sampler_post_cfg_function(toward)
    model.set_model_unet_function_wrapper(count)
    whole = traverse(model=model, **STEPS).latents
    sizes.clear()
    chunks = traverse(model=model, rows_per_call=2, **STEPS).latents
    assert max(sizes) <= 2 * 2
    assert (whole - chunks).abs().max() / whole.abs().max() < 2e-5


def test_a_patch_that_rewrites_the_positive_prompt_is_refused(traverse, demo):
    """It sees the neutral prompt alone, and would give it to every row."""
    import comfy.samplers

    def rewrite(arguments):
        conds = [dict(cond) for cond in arguments["cond"]]
        comfy.samplers.calc_cond_batch(
            arguments["model"], [conds], arguments["input"], arguments["sigma"], arguments["model_options"]
        )
        return arguments["denoised"]

    model = demo[0].clone()
    model.set_model_sampler_post_cfg_function(rewrite)
    with pytest.raises(ValueError, match="model: one of its patches rewrites the positive prompt"):
        traverse(model=model, **STEPS)


def test_self_attention_guidance_is_refused_by_name(traverse, demo):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    patched = SelfAttentionGuidance.execute(demo[0], 0.5, 2.0).args[0]
    with pytest.raises(ValueError, match="^model: Self-Attention Guidance"):
        traverse(model=patched, **STEPS)


def test_keyframes_of_a_hook_do_not_depend_on_the_other_swap_steps(make, run, traverse, demo):
    import comfy.hooks

    _, (_, second), _ = make("plain")
    weights = demo[0].model.diffusion_model.state_dict()
    width = weights["input_blocks.1.1.transformer_blocks.0.attn1.to_v.weight"].shape[0]
    name, generator = (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v",
        torch.Generator().manual_seed(0),
    )
    lora = {
        f"{name}.lora_up.weight": torch.randn(width, 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, width, generator=generator),
    }
    hooks, keyframes = comfy.hooks.create_hook_lora(lora, 1.0, 0.0), comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.5, 0.3), (0.0, 0.6), (2.0, 0.8)):
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(keyframes)
    hooked = comfy.hooks.set_hooks_for_conditioning(second, hooks)
    both, late = (
        traverse(attributes=hooked, **STEPS),
        traverse(attributes=hooked, **{**STEPS, "swap_steps": "5"}),
    )
    three = traverse(attributes=hooked, **{**STEPS, "swap_steps": "5,3"})
    plain = traverse(attributes=second, **{**STEPS, "swap_steps": "5"})
    scale = late.latents.abs().max()
    assert (late.latents[1] - three.latents[1]).abs().max() / scale < 2e-5
    assert (both.latents[2] - three.latents[2]).abs().max() / scale < 2e-5
    assert (late.latents[1] - plain.latents[1]).abs().max() / scale > 1e-4


@pytest.mark.parametrize("change", [{"width": 128}, {"noise": "other"}])
def test_the_cache_does_not_serve_other_noise_of_the_same_seed(traverse, demo, pack, monkeypatch, change):
    model = demo[0].clone()
    traverse(model=model, cache_mb=64, **STEPS)
    if "noise" in change:
        drawn = pack.nodes.samplers.patient_noise
        monkeypatch.setattr(pack.nodes.samplers, "patient_noise", lambda *arguments: -drawn(*arguments))
        change = {}
    cached = traverse(model=model, cache_mb=64, **{**STEPS, **change})
    assert cached.settings["unet"]["reused"] == 0
    assert torch.equal(cached.latents, traverse(**{**STEPS, **change}).latents)


def test_the_model_is_left_as_it_was_also_after_a_cancel(traverse, demo):
    import comfy.model_management

    def marks(value):
        if isinstance(value, dict):
            return {key: marks(item) for key, item in value.items()}
        return [marks(item) for item in value] if isinstance(value, (list, tuple)) else id(value)

    def interrupt(apply_model, arguments):
        raise comfy.model_management.InterruptProcessingException()

    model = demo[0].clone()
    before = marks(model.model_options)
    traverse(model=model, **STEPS)
    assert marks(model.model_options) == before
    model.set_model_unet_function_wrapper(interrupt)
    before = marks(model.model_options)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        traverse(model=model, **STEPS)
    assert marks(model.model_options) == before
