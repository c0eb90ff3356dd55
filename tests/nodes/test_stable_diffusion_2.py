"""Models of Stable Diffusion 2 against diffusers, in every form that the loader reads, and their errors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.nodes.plain_projection import plain, predictor

SCALE, LAMBDAS = 0.18215, (45, 40, 35, 30, 25, 20, 15, 10, 5)
NEUTRAL, ATTRIBUTE = "50 year old female. Normal chest radiograph.", "50 year old female. Large effusion (L)."
V = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def models():
    from pathlib import Path

    import folder_paths

    root = Path(folder_paths.models_dir)
    yield root
    for name in ("checkpoints", "diffusers", "diffusion_models", "vae"):
        for path in (root / name).iterdir() if (root / name).is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def folders(models, random_model):
    return {
        "epsilon": random_model(models / "diffusers" / "sd2-chest"),
        "v_prediction": random_model(models / "diffusers" / "sd2-chest-v", scheduler=V),
    }


def loaded(run, folder, **inputs):
    return run("MedicalCheckpointLoader", checkpoint=f"diffusers/{folder.name}", domain="CheXpert", **inputs)


def encoded(clip, prompt):
    from medtraverse.prompts import literal

    return clip.encode_from_tokens_scheduled(clip.tokenize(literal(prompt)))


def traversed(run, model, clip, swap_steps=LAMBDAS, **inputs):
    """The trajectory [points, C, h, w] of one patient, in diffusers' scale."""
    neutral, attribute, negative = (encoded(clip, text) for text in (NEUTRAL, ATTRIBUTE, ""))
    trajectory = run(
        "PromptSwapKSampler",
        model=model,
        neutral=neutral,
        negative=negative,
        attributes=attribute,
        width=64,
        height=64,
        seed=7,
        swap_steps=",".join(map(str, swap_steps)),
        **inputs,
    )[1]
    return trajectory.latents[trajectory.index[0, 0]] * SCALE


def reference(pipe, swap_steps, steps=50):
    """A plain loop of diffusers' DDIM, one row a swap step, the prompt swapped after it; neutral first."""
    negative, neutral, attribute = (
        pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("", NEUTRAL, ATTRIBUTE)
    )
    rows = 1 + len(swap_steps)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)).repeat(rows, 1, 1, 1)
    pipe.scheduler.set_timesteps(steps)
    for step, timestep in enumerate(pipe.scheduler.timesteps):
        prompts = [neutral, *(neutral if step <= swap_step else attribute for swap_step in swap_steps)]
        both = pipe.unet(torch.cat([x, x]), timestep, torch.cat([negative] * rows + prompts)).sample
        unconditional, conditional = both.chunk(2)
        guided = unconditional + 7.5 * (conditional - unconditional)
        x = pipe.scheduler.step(guided, timestep, x).prev_sample
    return x


def pipeline(folder):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_equals_diffusers_at_every_swap_step(run, folders, prediction):
    pipe = pipeline(folders[prediction])
    model, clip, _, domain = loaded(run, folders[prediction])
    assert model.model.model_type.name == {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[prediction]
    assert domain.size == 64 and model.model.model_config.unet_config["attn_precision"] == torch.float32
    ours = traversed(run, model, clip)
    difference = (ours - reference(pipe, LAMBDAS)).abs().amax((1, 2, 3))
    assert difference.max() < 1e-4, difference
    if prediction == "epsilon":
        early = reference(pipe, [14])[1]  # so that a swap one step early would be seen
        assert (ours[1 + LAMBDAS.index(15)] - early).abs().max() > 2e-4


# Random weights make DDIM's inversion ill-conditioned: an error of float32 grows a thousandfold on the way.
@pytest.mark.parametrize(
    ("prediction", "method", "limit"),
    [
        ("epsilon", "own noise at each step", 1e-4),
        ("v_prediction", "own noise at each step", 1e-4),
        ("v_prediction", "DDIM inversion", 1e-3),
    ],
)
def test_starts_from_an_image_as_plain_diffusers_does(run, folders, prediction, method, limit):
    pipe = pipeline(folders[prediction])
    model, clip, vae, _ = loaded(run, folders[prediction])
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    words = encoded(clip, NEUTRAL)
    start = run("ProjectToLatent", model=model, vae=vae, images=image, neutral=words, method=method, seed=3)[
        0
    ]
    ours = traversed(run, model, clip, (12, 3), steps=20, cfg=3.0, start=start)
    z0 = SCALE * pipe.vae.encode(2 * image.movedim(-1, 1) - 1).latent_dist.mode()
    wanted = plain(predictor(pipe), pipe.scheduler, z0, NEUTRAL, ATTRIBUTE, (12, 4, 3), 3, method, 3.0)
    difference = [(ours[n] - wanted[swap]).abs().max() for n, swap in enumerate((None, 12, 3))]
    assert max(difference) < limit, difference
    assert (ours[2] - wanted[4]).abs().max() > 10 * limit  # a swap one step late would be seen


@pytest.mark.parametrize(("pad", "token"), [("!", 0), ("<|endoftext|>", 49407)])
def test_the_tokenizers_files_decide_what_pads_a_prompt(run, models, random_model, pad, token):
    folder = random_model(models / "diffusers" / "sd2-padded", pad=pad)
    pipe, clip = pipeline(folder), loaded(run, folder)[1]
    for text in ("", NEUTRAL, ATTRIBUTE):
        ours = encoded(clip, text)[0][0]
        assert (ours - pipe.encode_prompt(text, "cpu", 1, False)[0]).abs().max() < 1e-5
    assert clip.tokenize("")["h"][0][-1][0] == token


def test_a_tokenizer_that_pads_with_another_word_is_refused(run, models, random_model):
    folder = random_model(models / "diffusers" / "sd2-padded")
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / "tokenizer" / file).write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    with pytest.raises(ValueError, match="checkpoint: sd2-padded/tokenizer pads prompts with '.PAD.'"):
        loaded(run, folder)


def test_a_file_saved_by_core_is_the_same_model(run, models, folders):
    import comfy.sd

    for prediction, keys in (("epsilon", {}), ("v_prediction", {"v_pred": torch.tensor([])})):
        model, clip, vae, _ = loaded(run, folders[prediction])
        file = models / "checkpoints" / "saved-cxr.safetensors"
        file.parent.mkdir(exist_ok=True)
        comfy.sd.save_checkpoint(str(file), model, clip, vae, extra_keys=keys)
        names = load_file(file)
        assert "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight" in names
        parts = {part: json.loads((folders[prediction] / part / "config.json").read_text()) for part in PARTS}
        file.with_suffix(".json").write_text(json.dumps(parts))
        if prediction == "epsilon":
            with pytest.raises(
                ValueError, match="saved-cxr.safetensors does not say whether its model.*'pred"
            ):
                run("MedicalCheckpointLoader", checkpoint=file.name)
            again = run("MedicalCheckpointLoader", checkpoint=file.name, prediction="epsilon")
        else:
            again = run("MedicalCheckpointLoader", checkpoint=file.name)
        assert torch.equal(encoded(again[1], ATTRIBUTE)[0][0], encoded(clip, ATTRIBUTE)[0][0])
        pair = [traversed(run, made, clip, (3,), steps=5) for made in (model, again[0])]
        assert torch.equal(*pair)


PARTS = ("unet", "text_encoder")


def test_a_single_file_with_all_of_open_clip_is_read_at_its_last_layer_but_one(
    run, models, folders, text_of_open_clip
):
    network, states = text_of_open_clip
    whole = {
        f"model.diffusion_model.{k}": v for k, v in pipeline(folders["epsilon"]).unet.state_dict().items()
    }
    whole |= {f"cond_stage_model.model.{k}": v for k, v in network.items()}
    whole |= {f"first_stage_model.{k}": v for k, v in pipeline(folders["epsilon"]).vae.state_dict().items()}
    file = models / "checkpoints" / "stability-cxr.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in whole.items()}, file, {"modelspec.prediction_type": "v"})
    unet = json.loads((folders["epsilon"] / "unet" / "config.json").read_text())
    file.with_suffix(".json").write_text(
        json.dumps({"unet": unet, "text_encoder": {"num_attention_heads": 4, "hidden_act": "gelu"}})
    )
    model, clip, _, _ = run("MedicalCheckpointLoader", checkpoint=file.name)
    assert model.model.model_type.name == "V_PREDICTION"
    tokens = [token for token, _ in clip.tokenize(NEUTRAL)["h"][0]]
    assert (encoded(clip, NEUTRAL)[0][0] - states(torch.tensor([tokens]))).abs().max() < 1e-5


@pytest.fixture(scope="module")
def text_of_open_clip():
    """Weights of a small OpenCLIP text encoder, and its states at the last layer but one."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(3)
    network = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16},
        text_cfg={"width": 32, "heads": 4, "layers": 4},
    ).eval()

    def states(tokens):
        x = network.token_embedding(tokens) + network.positional_embedding
        turned = not network.transformer.batch_first
        x = x.transpose(0, 1) if turned else x
        for layer in network.transformer.resblocks[:-1]:
            x = layer(x, attn_mask=network.attn_mask)
        return network.ln_final(x.transpose(0, 1) if turned else x)

    text = {k: v for k, v in network.state_dict().items() if not k.startswith(("visual.", "attn_mask"))}
    return text, states


def test_a_unet_alone_takes_the_bases_prediction_and_heads(run, models, folders, pack, demo):
    pipe = pipeline(folders["v_prediction"])
    with torch.no_grad():
        pipe.unet.conv_out.weight *= 1.5
    training = models / "diffusers" / "run" / "checkpoint-500"
    pipe.unet.save_pretrained(training / "unet_ema")
    (models / "diffusion_models").mkdir(exist_ok=True)
    save_file(pipe.unet.state_dict(), models / "diffusion_models" / "trained.safetensors")
    wanted = reference(pipe, (3,), steps=8)
    for choice in ("diffusers/run/checkpoint-500/unet_ema", "trained.safetensors"):
        model, clip, _, _ = loaded(run, folders["v_prediction"], unet=choice)
        assert (traversed(run, model, clip, (3,), steps=8) - wanted).abs().max() < 1e-4
        origin = pack.nodes.model_building.origin(model)
        assert origin["prediction"] == "v_prediction"
        file = choice if "." in choice else "diffusion_pytorch_model.safetensors"
        base = "diffusers/sd2-chest-v"
        assert sorted(origin["sha256"]) == sorted(
            [
                f"{base}/text_encoder/model.safetensors",
                f"{base}/vae/diffusion_pytorch_model.safetensors",
                f"diffusion_models/{file}" if "." in choice else f"{choice}/{file}",
            ]
        )
    with pytest.raises(
        ValueError, match="unet: the U-Net attends to text of width 32, the text encoder gives 64"
    ):
        run("MedicalCheckpointLoader", unet="trained.safetensors")


def test_heads_that_comfyui_cannot_have_are_refused(run, models, random_model):
    folder = random_model(models / "diffusers" / "sd2-odd", attention_head_dim=(2, 8, 8))
    with pytest.raises(ValueError, match="levels, 32, 64, 64 wide, have .2, 8, 8. heads, and ComfyUI knows"):
        loaded(run, folder)
    assert loaded(run, folder, heads=4)[0].model.model_config.unet_config["num_head_channels"] == 8
