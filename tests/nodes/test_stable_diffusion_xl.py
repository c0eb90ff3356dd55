"""A MODEL and CLIP of Stable Diffusion XL, as core's loaders make them, against diffusers."""

import pytest
import torch

from tests.nodes.plain_projection import plain

SCALE, LAMBDAS = 0.13025, (45, 40, 35, 30, 25, 20, 15, 10, 5)
NEUTRAL, ATTRIBUTES = (
    "Normal chest X-ray.",
    ("Chest X-ray with a large effusion (L).", "Chest X-ray with a pacemaker."),
)
POOLED = 48


@pytest.fixture(scope="module")
def pipe():
    """A small Stable Diffusion XL of random weights, as diffusers builds it."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from launcher.comfyui import installation

    torch.manual_seed(4)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "eos_token_id": 2}
    place = installation().folder / "comfy" / "sd1_tokenizer"
    first, second = (
        transformers.CLIPTokenizer.from_pretrained(place, pad_token=pad, model_max_length=77)
        for pad in ("<|endoftext|>", "!")
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32,) * 4,
            layers_per_block=1,
            scaling_factor=SCALE,
        ),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(hidden_size=32, hidden_act="quick_gelu", **sizes)
        ).eval(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(hidden_size=POOLED, hidden_act="gelu", projection_dim=POOLED, **sizes)
        ).eval(),
        tokenizer=first,
        tokenizer_2=second,
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=32 + POOLED,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + POOLED,
        ).eval(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def model(pipe):
    """Core's own SDXL around the U-Net; core's detection knows full-size models only."""
    import comfy.model_detection
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    class SmallSDXL(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 16}

    names = comfy.utils.unet_to_diffusers(
        {
            "num_res_blocks": [1, 1],
            "channel_mult": [1, 2],
            "transformer_depth": [0, 2],
            "transformer_depth_output": [0, 0, 2, 2],
            "transformer_depth_middle": 2,
        }
    )
    weights = {names[key]: value for key, value in pipe.unet.state_dict().items()}
    config = SmallSDXL(comfy.model_detection.detect_unet_config(weights, ""))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model(weights, "")
    base.load_model_weights({**weights}, "")
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def clip(pipe):
    """Core's CLIP of Stable Diffusion XL around the two text encoders."""
    import comfy.sd
    import comfy.supported_models

    def config(encoder):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
        return {name: getattr(encoder.config, name) for name in names}

    def named(encoder, name):
        state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
        outside = ("text_projection.", "logit_scale")
        return {
            f"{name}.transformer.{'' if key.startswith(outside) else 'text_model.'}{key}": value
            for key, value in state.items()
        }

    made = comfy.sd.CLIP(
        comfy.supported_models.SDXL.clip_target(None),
        model_options={
            "clip_l_model_config": config(pipe.text_encoder),
            "clip_g_model_config": config(pipe.text_encoder_2),
            "dtype": torch.float32,
        },
    )
    state = named(pipe.text_encoder, "clip_l") | named(pipe.text_encoder_2, "clip_g")
    missing, unexpected = made.load_sd(state, full_model=True)
    assert not unexpected and not [key for key in missing if key.startswith("clip_g.transformer.text_model")]
    return made


def reference(pipe, swap_steps, width, height):
    """A plain loop of diffusers' DDIM, one row a branch: neutral, then each attribute's swap steps."""
    negative, neutral, *attributes = (
        pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)[::2]
        for text in ("", NEUTRAL, *ATTRIBUTES)
    )
    branches = [(None, 99), *((attribute, swap) for attribute in attributes for swap in swap_steps)]
    noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(7))
    x = noise.repeat(len(branches), 1, 1, 1)
    sizes = torch.tensor([[height, width, 0, 0, height, width]]).float().repeat(2 * len(branches), 1)
    pipe.scheduler.set_timesteps(50)
    for step, timestep in enumerate(pipe.scheduler.timesteps):
        prompts = [negative] * len(branches)
        prompts += [neutral if step <= swap else attribute for attribute, swap in branches]
        text, pooled = (torch.cat(parts) for parts in zip(*prompts))
        added = {"text_embeds": pooled, "time_ids": sizes}
        both = pipe.unet(torch.cat([x, x]), timestep, text, added_cond_kwargs=added).sample
        unconditional, conditional = both.chunk(2)
        guided = unconditional + 7.5 * (conditional - unconditional)
        x = pipe.scheduler.step(guided, timestep, x).prev_sample
    return x


@pytest.fixture(scope="module")
def traverse_xl(run, model, clip, demo):
    neutral, negative, attributes, _ = run(
        "MedicalAttributePrompts",
        clip=clip,
        domain=demo[3],
        neutral_prompt=NEUTRAL,
        extra_attributes="\n".join(f"number {i} = {text}" for i, text in enumerate(ATTRIBUTES)),
    ).args

    def call(**inputs):
        given = {
            "model": model,
            "neutral": neutral,
            "negative": negative,
            "attributes": attributes,
            "seed": 7,
        }
        return run("PromptSwapKSampler", **{**given, "width": 64, "height": 48, **inputs})[1]

    return call


def test_equals_diffusers_at_every_swap_step(traverse_xl, pipe):
    trajectory = traverse_xl(swap_steps=",".join(map(str, LAMBDAS)))
    with torch.no_grad():
        wanted = reference(pipe, LAMBDAS, 64, 48)
    difference = (trajectory.latents * SCALE - wanted).abs().amax((1, 2, 3))
    assert difference.max() < 1e-4, difference
    assert (wanted[1:] - wanted[:1]).abs().amax((1, 2, 3)).min() > 1e-3


def test_starts_from_an_image_as_plain_diffusers_does(traverse_xl, run, pipe, model, clip, demo):
    """The VAE is another model's: what counts is the latent, in this model's scale."""
    vae, side = demo[2], 64
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(1))
    words = clip.encode_from_tokens_scheduled(clip.tokenize(NEUTRAL))
    start = run("ProjectToLatent", model=model, vae=vae, images=image, neutral=words, seed=3)[0]
    trajectory = traverse_xl(start=start, width=side, height=side, steps=20, swap_steps="12,3", cfg=3.0)
    ours = trajectory.latents[trajectory.index[0, 0]] * SCALE
    sizes = torch.tensor([[side, side, 0, 0, side, side]]).float()

    def predict(z, time, text):
        words, _, pooled, _ = pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return pipe.unet(z, time, words, added_cond_kwargs=added).sample

    with torch.no_grad():
        z0 = SCALE * vae.encode(image)
        wanted = plain(
            predict, pipe.scheduler, z0, NEUTRAL, ATTRIBUTES[0], (12, 4, 3), 3, "own noise at each step", 3.0
        )
    difference = [(ours[n] - wanted[swap]).abs().max() for n, swap in enumerate((None, 12, 3))]
    assert max(difference) < 1e-4, difference
    assert (ours[2] - wanted[4]).abs().max() > 1e-3  # a swap one step late would be seen


def test_distinct_prompts_share_a_call_with_their_pooled_texts(traverse_xl, model):
    seen = []

    def watch(apply_model, arguments):
        seen.append((len(arguments["input"]), arguments["c"]["y"].unique(dim=0).shape[0]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(watch)
    trajectory = traverse_xl(model=watched, steps=6, swap_steps="3,1", rows_per_call=64)
    rows = trajectory.settings["unet"]["rows"]
    # A call a step, and one more in the steps after a swap, where the unconditional half is shared.
    assert sum(number for number, _ in seen) == rows and len(seen) <= 6 + 2
    assert max(different for _, different in seen) == 1 + 1 + len(ATTRIBUTES)


def test_the_cache_knows_pooled_texts_apart(traverse_xl, run, clip, demo, model):
    """Two prompts of one tensor and other pooled texts are other conditionings."""
    first = traverse_xl(cache_mb=64, steps=4, swap_steps="1")
    neutral = run("MedicalAttributePrompts", clip=clip, domain=demo[3], neutral_prompt=NEUTRAL).args[0]
    other = [[neutral[0][0], {**neutral[0][1], "pooled_output": neutral[0][1]["pooled_output"] + 1}]]
    again = traverse_xl(cache_mb=64, steps=4, swap_steps="1", neutral=other)
    assert again.settings["unet"]["reused"] == 0
    assert (first.latents[0] - again.latents[0]).abs().max() > 1e-3
    assert traverse_xl(cache_mb=64, steps=4, swap_steps="1").settings["unet"]["rows"] == 0


def test_latent_scale_and_rough_colours_are_the_models_own(traverse_xl, model):
    rough = traverse_xl(steps=2, swap_steps="0").rough
    factors = torch.tensor(model.get_model_object("latent_format").latent_rgb_factors)
    assert torch.allclose(rough[:-1], SCALE * factors / 2, atol=1e-6)


def test_a_model_of_flow_matching_is_refused_by_the_papers_scheduler(traverse_xl, model):
    import comfy.model_sampling

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    flow = model.clone()
    flow.add_object_patch("model_sampling", Flow(None))
    with pytest.raises(ValueError, match="scheduler: 'diffusers_ddim' is for Stable Diffusion 1, 2 and XL"):
        traverse_xl(model=flow, steps=4, swap_steps="1")
