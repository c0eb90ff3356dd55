"""What is laid over a model, a VAE alone or a LoRA, against diffusers; and what the settings say of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def models():
    import folder_paths

    root = Path(folder_paths.models_dir)
    yield root
    for name in ("diffusers", "vae", "loras"):
        for path in (root / name).iterdir() if (root / name).is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def vae():
    """A VAE of random weights, as wide as the demo's, with a scale of its own."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(5)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64),
        scaling_factor=0.25,
    ).eval()


def old_names(weights):
    """The names that diffusers gave the attention before 2023, which sd-vae-ft-mse still has."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in weights.items():
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        renamed[key] = value
    assert renamed.keys() != weights.keys()
    return renamed


@pytest.mark.parametrize(
    "form", ["folder", "old folder", "file beside its config", "first_stage_model.", "Lightning"]
)
def test_a_vae_alone_takes_the_place_of_the_checkpoints(run, pack, models, vae, form, demo):
    weights, scale, choice = vae.state_dict(), None, "sd-vae-cxr.safetensors"
    (models / "vae").mkdir(exist_ok=True)
    if "folder" in form:
        choice, scale, folder = "diffusers/sd-vae-ft-mse", 0.25, models / "diffusers" / "sd-vae-ft-mse"
        vae.save_pretrained(folder)
        if form == "old folder":
            save_file(old_names(weights), folder / "diffusion_pytorch_model.safetensors")
    elif form == "file beside its config":
        choice, scale = "mine/diffusion_pytorch_model.safetensors", 0.25
        vae.save_pretrained(models / "vae" / "mine")
    elif form == "first_stage_model.":
        save_file({f"first_stage_model.{k}": v for k, v in weights.items()}, models / "vae" / choice)
    else:
        choice = "vae-ft.ckpt"
        beside = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
        torch.save({"state_dict": {**weights, **beside}, "epoch": 1}, models / "vae" / choice)
    model, _, loaded, _ = run("MedicalCheckpointLoader", domain="CheXpert", vae_alone=choice)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (loaded.decode(latents) - wanted).abs().max() < 1e-5
    assert model.get_model_object("latent_format").scale_factor == (scale or 0.18215)
    named = pack.nodes.model_building.origin(model)
    place = choice if "diffusers/" in choice else f"vae/{choice}"
    (file,) = [name for name in named["sha256"] if name.startswith(place)]
    assert named["vae_alone"] == choice and len(named["sha256"]) == 3, file
    assert "MedTraverse demo (phantoms)/vae/diffusion_pytorch_model.safetensors" not in named["sha256"]


def test_other_files_in_the_place_of_a_vae_are_named(run, models, vae):
    (models / "vae").mkdir(exist_ok=True)
    for weights, fault in (
        (
            {"conv_in.weight": torch.zeros(1)},
            "vae_alone: a.safetensors is no VAE of Stable Diffusion .its keys",
        ),
        ({"decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}, "vae_alone: this is not the VAE"),
    ):
        save_file(weights, models / "vae" / "a.safetensors")
        with pytest.raises(ValueError, match=fault):
            run("MedicalCheckpointLoader", domain="CheXpert", vae_alone="a.safetensors")
    vae.save_pretrained(models / "vae" / "mine")
    config = models / "vae" / "mine" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shift_factor": 0.1}))
    with pytest.raises(ValueError, match="vae_alone: the VAE's config.json shifts its latents"):
        run(
            "MedicalCheckpointLoader", domain="CheXpert", vae_alone="mine/diffusion_pytorch_model.safetensors"
        )
    with pytest.raises(ValueError, match="vae_alone: there is no 'gone'; the choices are 'from checkpoint'"):
        run("MedicalCheckpointLoader", domain="CheXpert", vae_alone="gone")


@pytest.fixture
def lora(pack, models, tmp_path):
    """diffusers' U-Net with a LoRA of random weights, and its file as saved and as converted."""
    diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    from medtraverse.lora import convert

    unet = diffusers.UNet2DConditionModel.from_pretrained(
        pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd" / "unet"
    ).float()
    torch.manual_seed(6)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    (models / "loras").mkdir(exist_ok=True)
    diffusers.loaders.StableDiffusionLoraLoaderMixin.save_lora_weights(
        models / "loras",
        unet_lora_layers=diffusers.utils.convert_state_dict_to_diffusers(
            peft.utils.get_peft_model_state_dict(unet)
        ),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    convert(models / "loras" / "pytorch_lora_weights.safetensors", models / "loras" / "cxr.safetensors")
    return unet.eval()


def laid(model, file, strength=1.0):
    """What core's Load LoRA makes of a MODEL."""
    import comfy.sd
    import comfy.utils

    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file)), strength, 0)[0]


def test_a_converted_lora_is_diffusers_own(pack, demo, lora, models):
    import comfy.model_management

    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text, time = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    patched = laid(demo[0], models / "loras" / "cxr.safetensors")
    with torch.inference_mode():
        wanted = lora(latents, time, text).sample
        comfy.model_management.load_models_gpu([patched], force_patch_weights=True)
        ours = patched.model.diffusion_model(latents, time, context=text)
        comfy.model_management.load_models_gpu([demo[0]], force_patch_weights=True)
        plain = demo[0].model.diffusion_model(latents, time, context=text)
    assert (ours - wanted).abs().max() < 1e-4 and (plain - wanted).abs().max() > 0.05


def test_how_much_of_a_lora_is_applied_is_told(pack, demo, lora, models, random_model, run, caplog):
    provenance = pack.nodes.provenance

    def told(model, name, strength=0.5):
        node = {"class_type": "LoraLoader", "inputs": {"lora_name": name, "strength_model": strength}}
        return provenance.loras_of([node], model)

    layers = sum(hasattr(module, "lora_A") for module in lora.modules())
    (whole,) = told(demo[0], "cxr.safetensors")
    assert whole == {"file": "loras/cxr.safetensors", "strength": 0.5, "applied": layers, "layers": layers}
    (nothing,) = told(demo[0], "pytorch_lora_weights.safetensors")
    assert (nothing["applied"], nothing["layers"]) == (0, layers)
    assert provenance.doubts([whole]) == []
    (line,) = provenance.doubts([nothing])
    assert f"0 of {layers} of its changes to the U-Net were applied" in line and line in caplog.text
    assert told(demo[0], "cxr.safetensors", 0) == told(demo[0], "gone.safetensors") == []
    # A change of another width has a known name, and core leaves it out with an error in the log.
    weights = load_file(models / "loras" / "cxr.safetensors")
    first = next(key for key in weights if key.endswith("attn2_to_k.lora_down.weight"))
    weights[first] = torch.zeros(4, 7)
    save_file(weights, models / "loras" / "wide.safetensors")
    assert told(demo[0], "wide.safetensors")[0]["applied"] == layers - 1


def test_the_graph_names_files_of_cores_loaders_and_embeddings(pack, models, tmp_path):
    import folder_paths

    provenance, upstream = pack.nodes.provenance, pack.nodes.graph.upstream
    (models / "loras" / "chest").mkdir(parents=True, exist_ok=True)
    (models / "loras" / "chest" / "a.safetensors").write_bytes(b"lora")
    embeddings = Path(folder_paths.get_folder_paths("embeddings")[0])
    embeddings.mkdir(exist_ok=True)
    (embeddings / "cxr.pt").write_bytes(b"vector")
    graph = {
        "1": {"inputs": {"lora_name": "chest/a.safetensors", "model": ["9", 0]}},
        "2": {"inputs": {"text": "a chest embedding:cxr, embedding:gone embedding:../loras/chest/a"}},
        "3": {"inputs": {"model": ["1", 0], "neutral": ["2", 0], "vae": ["4", 0]}},
        "4": {"inputs": {"vae_name": "chest/a.safetensors"}},
        "9": {"inputs": {"back": ["3", 0]}},
    }
    try:
        nodes = list(upstream(graph, "3", ("model", "neutral")))
        assert nodes == [graph["2"], graph["1"], graph["9"]]
        assert set(provenance.files_of(nodes)) == {"loras/chest/a.safetensors", "embeddings/cxr.pt"}
        assert provenance.files_of([], ["embedding:cxr"]) == provenance.files_of([graph["2"]])
        assert list(upstream(graph, "8")) == []
    finally:
        (embeddings / "cxr.pt").unlink()
