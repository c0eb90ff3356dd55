"""Checkpoints as diffusers and transformers save them: read, or refused by their true reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medtraverse import checkpoint
from medtraverse.checkpoint import read_checkpoint, read_unet, weight_files

diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
DEMO = Path(__file__).parents[2] / "demo" / "weights" / "phantom-sd"
WIDTH = 64


def unet(**changes):
    torch.manual_seed(0)
    config = diffusers.UNet2DConditionModel.load_config(DEMO / "unet")
    return diffusers.UNet2DConditionModel.from_config({**config, **changes}).eval()


def text_config(**changes):
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": WIDTH}
    return transformers.CLIPTextConfig(**{**sizes, "projection_dim": 16, **changes})


@pytest.fixture(scope="module")
def parts():
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
    )
    return {"unet": unet(), "text_encoder": transformers.CLIPTextModel(text_config()), "vae": vae}


@pytest.fixture
def save(tmp_path, parts):
    """``save(unet={...}, ...)`` writes a diffusers folder.

    The settings go to the `save_pretrained` of each part.
    """

    def write(folder=tmp_path / "chest", text_encoder=None, **settings):
        for name, part in (parts | ({"text_encoder": text_encoder} if text_encoder else {})).items():
            part.save_pretrained(folder / name, **settings)
        return folder

    return write


def same(read, module):
    wanted = {key: value for key, value in module.state_dict().items() if "position_ids" not in key}
    return read.keys() == wanted.keys() and all(torch.equal(read[key], wanted[key]) for key in wanted)


def same_text(read, module):
    """transformers 5 has no prefix in its keys."""
    wanted = {key.removeprefix("text_model."): value for key, value in module.state_dict().items()}
    read = {key.removeprefix("text_model."): value for key, value in read.items()}
    return all(torch.equal(read[key], wanted[key]) for key in read) and len(read) > 10


def make_bin(folder):
    """As older versions saved: PyTorch files."""
    for file in list(folder.rglob("*.safetensors")):
        stem = (
            file.stem.replace("model", "pytorch_model") if file.parent.name == "text_encoder" else file.stem
        )
        torch.save(load_file(file), file.with_name(f"{stem}.bin"))
        file.unlink()


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, lambda folder: None),
        ({"variant": "fp16"}, lambda folder: None),
        ({"variant": "non_ema"}, lambda folder: None),
        ({"max_shard_size": "300KB"}, lambda folder: None),
        ({"max_shard_size": "300KB", "variant": "fp16"}, lambda folder: None),
        ({}, make_bin),
    ],
    ids=["plain", "fp16", "non_ema", "sharded", "sharded fp16", "bin"],
)
def test_every_form_of_a_diffusers_folder_is_read(save, parts, settings, change):
    folder = save(**settings)
    if "max_shard_size" in settings:
        assert len(list((folder / "unet").glob("*-of-*"))) > 1
    change(folder)
    read = read_checkpoint(folder)
    assert same(read.unet, parts["unet"]) and same(read.vae, parts["vae"])
    assert same_text(read.text_encoder, parts["text_encoder"])
    assert (read.unet_heads, read.text_heads) == (4, 2)
    on_disk = {path for path in folder.rglob("*.*") if path.suffix in (".bin", ".safetensors")}
    assert set(weight_files(folder).values()) == on_disk


def test_full_precision_and_averaged_weights_are_preferred(save, parts):
    folder = save()
    for variant in ("fp16", "non_ema"):
        other = unet()
        torch.nn.init.ones_(other.conv_in.weight)
        other.save_pretrained(folder / "unet", variant=variant)
    assert same(read_checkpoint(folder).unet, parts["unet"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: transformers.CLIPTextModelWithProjection(text_config()),
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=text_config().to_dict(),
                vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
                projection_dim=16,
            )
        ),
    ],
    ids=["CLIPTextModelWithProjection", "CLIPModel"],
)
def test_text_encoders_with_a_projection_or_an_image_encoder_are_read(save, make):
    model = make()
    read = read_checkpoint(save(text_encoder=model))
    assert all(key.startswith("text_model.") for key in read.text_encoder) and read.text_heads == 2
    prefixed = any(key.startswith("text_model.") for key in model.state_dict())
    assert same_text(read.text_encoder, model if prefixed else model.text_model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: torch.nn.DataParallel(net).state_dict(),
        lambda net: torch.compile(net).state_dict(),
        lambda net: torch.nn.ModuleDict({"unet": net}).state_dict(),
        lambda net: torch.nn.ModuleDict(
            {"unet": net, "controlnet": diffusers.ControlNetModel.from_unet(net)}
        ).state_dict(),
        lambda net: torch.nn.DataParallel(torch.nn.ModuleDict({"model": net})).state_dict(),
    ],
    ids=["DataParallel", "compiled", "unet.", "unet. beside a ControlNet", "module.model."],
)
def test_a_unet_alone_is_read_through_its_wrappers(tmp_path, parts, wrap):
    torch.save({"state_dict": wrap(parts["unet"])}, tmp_path / "a.pt")
    weights, heads = read_unet(tmp_path / "a.pt")
    assert same(weights, parts["unet"]) and heads is None


def test_a_training_checkpoint_brings_its_own_text_encoder(save, parts, tmp_path):
    base, run = save(), tmp_path / "run" / "checkpoint-500"
    for name in ("unet", "unet_ema"):
        parts["unet"].save_pretrained(run / name)
    assert same_text(read_checkpoint(base, run / "unet").text_encoder, parts["text_encoder"])
    trained = transformers.CLIPTextModel(text_config(num_attention_heads=4))
    trained.save_pretrained(run / "text_encoder")
    for name in ("unet", "unet_ema"):
        read = read_checkpoint(base, run / name)
        assert same_text(read.text_encoder, trained) and read.text_heads == 4
        assert list(weight_files(run / name)) == [
            "diffusion_pytorch_model.safetensors",
            "../text_encoder/model.safetensors",
        ]


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
REFUSED = {
    "instruct-pix2pix": (lambda: unet(in_channels=8).state_dict(), "takes 8 channels.*instruct-pix2pix"),
    "depth": (lambda: unet(in_channels=5).state_dict(), "takes 5 channels"),
    "unCLIP": (
        lambda: unet(class_embed_type="projection", projection_class_embeddings_input_dim=8).state_dict(),
        "is of a Stable Diffusion 2.1 unCLIP model",
    ),
    "SDXL": (
        lambda: unet(**SDXL).state_dict(),
        "is of a Stable Diffusion XL model, and this loader reads Stable Diffusion 1.x and 2.x; load it with "
        "Load Checkpoint",
    ),
    "Flux": (
        lambda: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)},
        "is of a Flux model, .*; choose a model of Stable Diffusion 1, 2 or XL",
    ),
    "LoRA of kohya": (
        lambda: {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(1)},
        "is a LoRA.*models/loras.*Load LoRA behind this node",
    ),
    "ControlNet": (
        lambda: {"control_model.weird": torch.zeros(1)},
        "these are not the weights of a Stable Diffusion U-Net .its keys begin with control_model.weird",
    ),
    "two of them": (
        lambda: torch.nn.ModuleDict({"a": unet(), "b": unet()}).state_dict(),
        "holds several U-Nets .a., b..",
    ),
}


@pytest.mark.parametrize(("make", "fault"), REFUSED.values(), ids=REFUSED)
def test_other_files_in_the_place_of_a_unet_are_named(tmp_path, make, fault):
    save_file({key: value.contiguous() for key, value in make().items()}, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="^unet: .*" + fault):
        read_unet(tmp_path / "mine.safetensors")


def test_a_lora_that_diffusers_saved_is_named_in_every_slot(tmp_path):
    layers = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 64)
    }
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    (file,) = tmp_path.glob("*.safetensors")
    for read, name in ((read_unet, "unet"), (checkpoint.read_single_file, "checkpoint")):
        with pytest.raises(ValueError, match=f"^{name}: {file.name} is a LoRA"):
            read(file)


def single(net, **more):
    return {
        **{f"{checkpoint.UNET}{key}": value for key, value in net.state_dict().items()},
        checkpoint.VAE + "decoder.conv_in.weight": torch.zeros(1),
        checkpoint.TEXT + "embeddings.token_embedding.weight": torch.ones(1, WIDTH),
        checkpoint.TEXT + "final_layer_norm.weight": torch.ones(1),
        **more,
    }


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("embedder.model.visual.class_embedding", "Stable Diffusion 2.1 unCLIP"),
        ("conditioner.embedders.1.model.ln_final.weight", "Stable Diffusion XL"),
    ],
)
def test_single_files_of_other_models_are_named(tmp_path, parts, key, model):
    weights = {k: v for k, v in single(parts["unet"]).items() if not k.startswith(checkpoint.TEXT)}
    save_file({**weights, key: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"checkpoint: a.safetensors is of a {model} model"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_heads_are_found_or_asked_for_and_never_guessed(tmp_path, parts, save):
    file, config = tmp_path / "mine.safetensors", json.dumps(dict(parts["unet"].config))
    save_file(single(parts["unet"]), file)
    with pytest.raises(
        ValueError, match="mine.safetensors does not say how many.*64 wide.*'heads'.*mine.json"
    ):
        read_checkpoint(file)
    assert read_checkpoint(file, heads=2).unet_heads == 2
    for sidecar in (
        config,
        json.dumps({"unet": json.loads(config), "text_encoder": {"num_attention_heads": 2}}),
    ):
        file.with_suffix(".json").write_text(sidecar)
        assert read_checkpoint(file).unet_heads == 4
    assert read_checkpoint(file).text_heads == 2
    for other in ("[1]", "{", '{"steps": 3}'):
        file.with_suffix(".json").write_text(other)
        with pytest.raises(ValueError, match="does not say how many"):
            read_checkpoint(file)
    save_file(single(parts["unet"]), file, metadata={"config": config})
    assert read_checkpoint(file).unet_heads == 4
    wide = unet(block_out_channels=(320, 320, 320), attention_head_dim=5)
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    base = save()
    assert read_checkpoint(base, tmp_path / "wide.safetensors").unet_heads == 8
    assert read_checkpoint(base, heads=2).unet_heads == 2
    shutil.rmtree(base / "unet")
    parts["unet"].save_pretrained(base / "unet")
    (base / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match="checkpoint: chest does not say how many"):
        read_checkpoint(base)


def test_a_single_file_says_its_prediction_type_by_a_key(tmp_path, parts):
    for keys, expected in (((), "epsilon"), (("v_pred",), "v_prediction")):
        save_file({**single(parts["unet"]), **{k: torch.zeros(0) for k in keys}}, tmp_path / "a.safetensors")
        read = checkpoint.read_single_file(tmp_path / "a.safetensors")
        assert checkpoint.sampling_settings(read.scheduler)[0] == expected
        assert "text_model.final_layer_norm.weight" in read.text_encoder
    save_file(single(parts["unet"], v_pred=torch.zeros(0), ztsnr=torch.zeros(0)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr = True, which is not supported"):
        checkpoint.sampling_settings(checkpoint.read_single_file(tmp_path / "a.safetensors").scheduler)


def test_missing_parts_and_broken_config_files_are_named(save):
    folder = save()
    shutil.rmtree(folder / "vae")
    with pytest.raises(
        ValueError,
        match="chest/vae holds no weights .diffusion_pytorch_model or model or pytorch_model, .safetens",
    ):
        read_checkpoint(folder)
    for content in ("{", "[1]"):
        (folder / "medtraverse.json").write_text(content)
        with pytest.raises(ValueError, match="chest/medtraverse.json is not a JSON object"):
            checkpoint.declared_domains(folder)
    (folder / "medtraverse.json").write_text('{"domains": ["ISIC"]}')
    assert checkpoint.declared_domains(folder) == ("ISIC",)
    assert checkpoint.declared_domains(folder.parent) == ()


def second(**changes):
    """A U-Net of Stable Diffusion 2's layout."""
    return unet(**{"use_linear_projection": True, "attention_head_dim": [2, 3, 4], **changes})


def test_a_model_of_stable_diffusion_2_is_asked_what_it_predicts(tmp_path, save):
    file = tmp_path / "mine.safetensors"
    for metadata, said in (
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.predict_key": "v"}, "v_prediction"),
        ({"modelspec.prediction_type": "flow"}, None),
        (None, None),
    ):
        save_file(single(second()), file, metadata)
        if said is None:
            with pytest.raises(
                ValueError, match="^checkpoint: mine.safetensors does not say whether its model"
            ):
                read_checkpoint(file, heads=2)
        else:
            assert read_checkpoint(file, heads=2).scheduler == {"prediction_type": said}
        assert (
            read_checkpoint(file, heads=2, prediction="v_prediction").scheduler["prediction_type"][0] == "v"
        )
    file.with_suffix(".json").write_text('{"scheduler": {"prediction_type": "epsilon"}}')
    assert read_checkpoint(file, heads=2).scheduler == {"prediction_type": "epsilon"}
    # Over a base whose folder says nothing of it the U-Net alone is asked too; one of version 1 is not.
    folder = save()
    second().save_pretrained(tmp_path / "run" / "unet")
    with pytest.raises(ValueError, match="^unet: unet does not say whether its model of Stable Diffusion 2"):
        read_checkpoint(folder, tmp_path / "run" / "unet")
    assert read_checkpoint(folder).scheduler is None


def test_a_unet_over_another_base_is_told_where_its_own_is(save, tmp_path):
    folder = save()
    for width, base in (
        (768, "Stable Diffusion 1.4 or 1.5"),
        (1024, "2.1, which the Hub has under sd2-comm"),
    ):
        second(cross_attention_dim=width).save_pretrained(tmp_path / f"{width}" / "unet")
        fault = f"^unet: the U-Net attends to text of width {width}, the text encoder gives 64; .*{base}"
        with pytest.raises(ValueError, match=fault):
            read_checkpoint(folder, tmp_path / f"{width}" / "unet")


def test_heads_of_stable_diffusion_2_are_a_number_a_level(save, tmp_path):
    folder = save()
    second().save_pretrained(folder / "unet")
    assert read_checkpoint(folder, prediction="epsilon").unet_heads == (2, 3, 4)
    assert read_checkpoint(folder, heads=4, prediction="epsilon").unet_heads == (4, 6, 8)
    wide = second(block_out_channels=(320, 320, 320), attention_head_dim=5)
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    read = read_checkpoint(folder, tmp_path / "wide.safetensors", prediction="epsilon")
    assert read.unet_heads == (5, 5, 5)


@pytest.mark.parametrize("layers", [3, 24, 23])
def test_open_clips_text_encoder_is_read_and_its_last_layer_known(tmp_path, layers):
    """At OpenCLIP-H's width the number of layers tells; the projection tells at others."""
    open_clip = pytest.importorskip("open_clip")
    width = 32 if layers == 3 else 1024
    with torch.device("meta" if layers > 3 else "cpu"):
        network = open_clip.transformer.TextTransformer(
            width=width, heads=4, layers=layers, mlp_ratio=1 / 16 if layers > 3 else 4, output_dim=16
        )
    text = {
        key: torch.zeros(1).expand(value.shape) if value.is_meta else value
        for key, value in network.state_dict().items()
    }
    text["token_embedding.weight"] = torch.zeros(2, width)
    for projection in (True, False):
        if not projection:
            text.pop("text_projection")
        weights = {k: v for k, v in single(second()).items() if not k.startswith(checkpoint.TEXT)}
        weights |= {f"cond_stage_model.model.{key}": value for key, value in text.items()}
        torch.save(weights, tmp_path / "a.ckpt")
        read = checkpoint.read_single_file(tmp_path / "a.ckpt")
        assert read.text_whole is (projection if layers == 3 else layers == 24)
        assert len(read.text_encoder) == 4 + 16 * layers
        value = text["transformer.resblocks.2.attn.in_proj_weight"]
        for place, name in enumerate("qkv"):
            key = f"text_model.encoder.layers.2.self_attn.{name}_proj.weight"
            assert torch.equal(read.text_encoder[key], value[place * width : (place + 1) * width])
    assert read.text_activation == ("quick_gelu" if width == 32 else "gelu")


def test_folders_of_other_pipelines_are_named(save, tmp_path):
    folder = save()
    for index, model in (
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["a", "b"]}, "Stable Diffusion XL"),
        ({"_class_name": "StableDiffusion3Pipeline", "text_encoder_2": ["a", "b"]}, "StableDiffusion3"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=f"^checkpoint: chest is of a {model} model"):
            read_checkpoint(folder)
    unet().save_pretrained(tmp_path / "microsoft-RadEdit" / "unet")
    with pytest.raises(ValueError, match="^unet: RadEdit's U-Net attends to text of BioViL-T"):
        read_unet(tmp_path / "microsoft-RadEdit" / "unet")
