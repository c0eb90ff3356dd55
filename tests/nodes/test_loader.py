"""MedicalCheckpointLoader against diffusers, in every form that it reads, and its errors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def folder(pack):
    return pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"


@pytest.fixture(scope="module")
def parts(folder):
    return {
        name: load_file(next((folder / name).glob("*.safetensors")))
        for name in ("unet", "vae", "text_encoder")
    }


@pytest.fixture
def models(pack):
    """ComfyUI's models folder of this test run, emptied afterwards."""
    from pathlib import Path

    import folder_paths

    root = Path(folder_paths.models_dir)
    yield root
    for name in ("checkpoints", "diffusers", "diffusion_models"):
        # Emptied, not removed: ComfyUI keeps the folders in mind and looks at them again.
        for path in (root / name).iterdir() if (root / name).is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def put(weights, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def test_unet_vae_and_text_encoder_equal_diffusers(demo, folder):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    model, clip, vae, domain = demo
    latents, steps = (
        torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
        torch.tensor([981.0, 1.0]),
    )
    text = torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(1))
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    ours = model.model.diffusion_model(latents, steps, context=text)
    assert (ours - unet(latents, steps, text).sample).abs().max() < 1e-4
    auto = diffusers.AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    picture = (auto.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents) - picture).abs().max() < 1e-4
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    prompt = "a dermoscopic image with melanoma (MEL) with a ruler visible"
    tokens = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    from medtraverse.prompts import literal

    assert (clip.encode_from_tokens(clip.tokenize(literal(prompt))) - encoder(tokens)[0]).abs().max() < 1e-4
    assert domain.size == 128


def test_the_demo_model_comes_first_and_auto_knows_its_domain(run, node_classes):
    schema = node_classes["MedicalCheckpointLoader"].GET_SCHEMA()
    assert schema.inputs[0].options[0] == schema.inputs[0].default == "MedTraverse demo (phantoms)"
    assert run("MedicalCheckpointLoader")[3].name == "CheXpert"


@pytest.mark.parametrize(
    ("choice", "file", "domain"),
    [
        ("MedTraverse demo CheXpert (phantoms)", "phantom-chexpert", "CheXpert"),
        ("MedTraverse demo ISIC (phantoms)", "phantom-isic", "ISIC"),
        ("MedTraverse demo CheXpert, confounded (phantoms)", "phantom-confounded", "CheXpert"),
    ],
)
def test_the_bundled_unets_are_laid_over_the_demo_model(run, node_classes, pack, demo, choice, file, domain):
    assert choice in node_classes["MedicalCheckpointLoader"].GET_SCHEMA().inputs[1].options[1:4]
    model, _, vae, medical_domain = run("MedicalCheckpointLoader", unet=choice)
    weights, key = load_file(pack.nodes.sources.DEMO_WEIGHTS / f"{file}.safetensors"), "time_embed.0.weight"
    assert torch.equal(
        model.model.diffusion_model.state_dict()[key].half(), weights["time_embedding.linear_1.weight"]
    )
    assert not torch.equal(
        model.model.diffusion_model.state_dict()[key], demo[0].model.diffusion_model.state_dict()[key]
    )
    pairs = zip(vae.first_stage_model.state_dict().values(), demo[2].first_stage_model.state_dict().values())
    assert medical_domain.name == domain and all(torch.equal(a, b) for a, b in pairs)


def test_a_unet_alone_is_laid_over_its_base(run, parts, models, demo):
    weights = {key: value * 1.01 for key, value in parts["unet"].items()}
    put(weights, models / "diffusion_models" / "isic-unet.safetensors")
    model, _, _, domain = run("MedicalCheckpointLoader", unet="isic-unet.safetensors")
    key = "time_embed.0.weight"
    assert domain.name == "ISIC"
    assert torch.equal(
        model.model.diffusion_model.state_dict()[key].half(), weights["time_embedding.linear_1.weight"]
    )
    assert not torch.equal(
        model.model.diffusion_model.state_dict()[key], demo[0].model.diffusion_model.state_dict()[key]
    )


def test_a_diffusers_folder_and_a_single_file_are_the_same_model(run, folder, models, demo, pack):
    shutil.copytree(folder, models / "diffusers" / "chest-model")
    model, clip, vae, domain = run("MedicalCheckpointLoader", checkpoint="diffusers/chest-model")
    assert domain.name == "CheXpert" and domain.size == 128
    single = {
        f"model.diffusion_model.{k}": v.contiguous()
        for k, v in model.model.diffusion_model.state_dict().items()
    }
    single |= {
        f"first_stage_model.{k}": v.contiguous() for k, v in vae.first_stage_model.state_dict().items()
    }
    single |= {
        f"cond_stage_model.transformer.{k}": v.contiguous()
        for k, v in clip.cond_stage_model.clip_l.transformer.state_dict().items()
        if "text_projection" not in k
    }
    put(single, models / "checkpoints" / "my-cxr.safetensors")
    with pytest.raises(ValueError, match="my-cxr.safetensors does not say how many attention heads"):
        run("MedicalCheckpointLoader", checkpoint="my-cxr.safetensors")
    again = run("MedicalCheckpointLoader", checkpoint="my-cxr.safetensors", heads=4)
    for first, second in (
        (model.model.diffusion_model, again[0].model.diffusion_model),
        (vae.first_stage_model, again[2].first_stage_model),
    ):
        pairs = zip(first.state_dict().values(), second.state_dict().values())
        assert all(torch.equal(a, b) for a, b in pairs)
    assert again[3].size == 512


def test_a_file_saved_by_core_is_the_same_model_once_its_heads_are_known(run, folder, models, demo, caplog):
    import comfy.sd

    model, clip, vae, _ = demo
    file = models / "checkpoints" / "saved-cxr.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    comfy.sd.save_checkpoint(str(file), model, clip, vae)
    shutil.copy(folder / "unet" / "config.json", file.with_suffix(".json"))
    again = run("MedicalCheckpointLoader", checkpoint=file.name)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1))
    made = [
        loaded[0].model.diffusion_model(latents, torch.tensor([981.0]), context=text)
        for loaded in (demo, again)
    ]
    assert torch.equal(*made)
    assert "heads the text encoder has, which is 64 wide; 1 are taken" in caplog.text
    configs = {
        part: json.loads((folder / part / "config.json").read_text()) for part in ("unet", "text_encoder")
    }
    file.with_suffix(".json").write_text(json.dumps(configs))
    caplog.clear()
    named = run("MedicalCheckpointLoader", checkpoint=file.name)
    assert "heads" not in caplog.text
    encoded = [
        clip.encode_from_tokens_scheduled(clip.tokenize("chest"))[0][0] for clip in (demo[1], named[1])
    ]
    assert torch.equal(*encoded)
    file.with_suffix(".json").unlink()
    other = run("MedicalCheckpointLoader", checkpoint=file.name, heads=8)
    assert not torch.allclose(
        other[0].model.diffusion_model(latents, torch.tensor([981.0]), context=text), made[0], atol=1e-3
    )
    with pytest.raises(
        ValueError, match="heads: 3 does not divide the widths of the U-Net's levels, 64, 96, 128"
    ):
        run("MedicalCheckpointLoader", checkpoint=file.name, heads=3)


def test_a_training_checkpoint_is_loaded_with_its_text_encoder_and_both_are_in_the_origin(
    run, pack, folder, models
):
    target = models / "diffusers" / "chest-run" / "checkpoint-500"
    for part in ("unet", "text_encoder"):
        shutil.copytree(folder / part, target / part)
    (weights,) = (target / "text_encoder").glob("*.safetensors")
    put({key: value * 1.01 for key, value in load_file(weights).items()}, weights)
    choice = "diffusers/chest-run/checkpoint-500/unet"
    model, clip, _, domain = run("MedicalCheckpointLoader", unet=choice)
    assert domain.name == "CheXpert"
    encoder = clip.cond_stage_model.clip_l.transformer.text_model
    wanted = next(value for key, value in load_file(weights).items() if "token_embedding" in key)
    assert torch.equal(encoder.embeddings.token_embedding.weight, wanted.float())
    read = pack.nodes.model_building.origin(model)["sha256"]
    demo_model = "MedTraverse demo (phantoms)"
    assert sorted(read) == sorted(
        [
            f"{demo_model}/vae/diffusion_pytorch_model.safetensors",
            f"{choice}/diffusion_pytorch_model.safetensors",
            "diffusers/chest-run/checkpoint-500/text_encoder/model.safetensors",
        ]
    )


def test_lora_reaches_every_attention_of_the_unet(demo):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(demo[0].model, {})
    assert sum(key.endswith("attn2_to_k") and key.startswith("lora_unet") for key in keys) >= 4


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"prediction_type": "sample"}, "prediction_type = 'sample'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule"),
    ],
)
def test_a_schedule_that_would_go_silently_wrong_is_refused(run, folder, models, change, fault):
    target = models / "diffusers" / "chest-model"
    shutil.copytree(folder, target)
    config = target / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ValueError, match="scheduler_config.json has " + fault):
        run("MedicalCheckpointLoader", checkpoint="diffusers/chest-model")


def test_v_prediction_is_honoured(run, folder, models):
    import comfy.model_sampling

    target = models / "diffusers" / "chest-model"
    shutil.copytree(folder, target)
    config = target / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    model = run("MedicalCheckpointLoader", checkpoint="diffusers/chest-model")[0]
    assert isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("chest.safetensors", b"not a checkpoint", "chest.safetensors could not be read as safetensors"),
        ("chest.safetensors", None, "has no U-Net"),
    ],
)
def test_broken_checkpoints_are_named(run, models, name, content, fault):
    path = models / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if content else put({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="checkpoint: .*" + fault):
        run("MedicalCheckpointLoader", checkpoint=name)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "conv_out.bias"}, "keys missing"),
        (lambda w: {**w, "surplus.weight": torch.zeros(1)}, "not those of Stable Diffusion; .*surplus"),
        (
            lambda w: {k: v for k, v in w.items() if not k.startswith("down_blocks")},
            "not the weights of a Stable Diffusion U-Net",
        ),
        (lambda w: {**w, "conv_out.weight": torch.zeros(4, 32, 3, 3)}, "another shape"),
    ],
)
def test_a_unet_of_another_architecture_is_named(run, parts, models, change, fault):
    put(change(parts["unet"]), models / "diffusion_models" / "isic.safetensors")
    with pytest.raises(ValueError, match="unet: .*" + fault):
        run("MedicalCheckpointLoader", unet="isic.safetensors")


@pytest.mark.parametrize(
    ("lost", "fault"),
    [
        (range(1, 12), "input blocks"),
        (range(2, 12), "keys"),
        ((1,), "input blocks"),
        ((2,), "input blocks"),
        (range(12), "."),
    ],
)
def test_a_damaged_unet_in_original_keys_is_named(run, pack, parts, models, lost, fault):
    weights = pack.nodes.model_building._original_keys(dict(parts["unet"]), "unet")
    weights = {
        key: value
        for key, value in weights.items()
        if not key.startswith(tuple(f"input_blocks.{block}." for block in lost))
    }
    put(weights, models / "diffusion_models" / "isic.safetensors")
    with pytest.raises(ValueError, match=f"unet: .*{fault}"):
        run("MedicalCheckpointLoader", unet="isic.safetensors")


@pytest.mark.parametrize(
    "inputs", [{"checkpoint": "../../secret.safetensors"}, {"unet": "/etc/passwd"}, {"domain": "MRI"}]
)
def test_choices_that_are_not_offered_are_refused_with_the_good_ones(run, inputs):
    with pytest.raises(ValueError, match=f"{next(iter(inputs))}: there is no .*the choices are"):
        run("MedicalCheckpointLoader", **inputs)


def test_a_missing_model_says_so(run, pack, monkeypatch, tmp_path):
    monkeypatch.setattr(pack.nodes.sources, "DEMO_WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="checkpoint: 'MedTraverse demo .phantoms.' is missing"):
        run("MedicalCheckpointLoader", domain="CheXpert")


def test_a_missing_unet_says_so(run, pack, monkeypatch, tmp_path):
    choice = "MedTraverse demo ISIC (phantoms)"
    monkeypatch.setitem(pack.nodes.sources.DEMO_UNETS, choice, tmp_path / "phantom-isic.safetensors")
    with pytest.raises(ValueError, match="unet: 'MedTraverse demo ISIC .phantoms.' is missing"):
        run("MedicalCheckpointLoader", unet=choice)
