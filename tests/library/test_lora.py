"""LoRA files as PEFT and diffusers save them, under the keys that ComfyUI knows."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from medtraverse.__main__ import main
from medtraverse.lora import changed_layers, renamed

diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    net = diffusers.UNet2DConditionModel(
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    targets = ["to_k", "to_q", "to_v", "to_out.0", "proj_in"]
    net.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    return net


@pytest.fixture
def saved(unet, tmp_path):
    """``saved(names)`` is the file that diffusers writes, with its own names or with PEFT's."""

    def write(names):
        layers = peft.utils.get_peft_model_state_dict(unet)
        if names == "diffusers":
            layers = diffusers.utils.convert_state_dict_to_diffusers(layers)
        diffusers.loaders.StableDiffusionLoraLoaderMixin.save_lora_weights(
            tmp_path,
            unet_lora_layers=layers,
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        )
        return tmp_path / "pytorch_lora_weights.safetensors"

    return write


@pytest.mark.parametrize("names", ["diffusers", "PEFT"])
def test_a_lora_of_diffusers_gets_the_names_of_comfyui(saved, unet, names, capsys):
    file = saved(names)
    layers = {name for name, module in unet.named_modules() if hasattr(module, "lora_A")}
    assert len(changed_layers(load_file(file))[0]) == len(layers) > 20
    assert main(["lora", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{len(layers)} layers are in ")
    made = load_file(file.with_name("pytorch_lora_weights-comfyui.safetensors"))
    assert len(made) == 3 * len(layers)
    for name in layers:
        module, key = unet.get_submodule(name), f"lora_unet_{name.replace('.', '_')}"
        assert torch.equal(made[f"{key}.lora_down.weight"], module.lora_A["default"].weight)
        assert torch.equal(made[f"{key}.lora_up.weight"], module.lora_B["default"].weight)
        assert made[f"{key}.alpha"] == 8
    assert main(["lora", str(file)]) == 2
    assert "output: " in capsys.readouterr().err


def test_without_metadata_alpha_is_the_rank_and_text_layers_are_told_apart():
    made = renamed(
        {
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": torch.zeros(
                2, 8
            ),
            "base_model.model.mid_block.attentions.0.proj_in.lora_A.default.weight": torch.zeros(3, 8),
            "unet.mid_block.attentions.0.attn1.processor.to_q.lora_A.weight": torch.zeros(3, 8),
        }
    )
    assert set(made) == {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "lora_unet_mid_block_attentions_0_proj_in.alpha",
        "lora_unet_mid_block_attentions_0_attn1_to_q.lora_down.weight",
        "lora_unet_mid_block_attentions_0_attn1_to_q.alpha",
    }
    assert [made[key].item() for key in sorted(made) if key.endswith("alpha")] == [2, 3, 3]
    unet, text = changed_layers(made)
    assert len(unet) == 2 and len(text) == 1


def test_other_files_are_refused(tmp_path, capsys):
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet.safetensors")
    assert main(["lora", str(tmp_path / "unet.safetensors")]) == 2
    assert "file: 'conv_in.weight' is no key of a LoRA" in capsys.readouterr().err
    save_file(
        {"unet.a.lora_A.weight": torch.zeros(2, 2)},
        tmp_path / "odd.safetensors",
        {"lora_adapter_metadata": json.dumps([1])},
    )
    assert (
        main(["lora", str(tmp_path / "odd.safetensors"), "--output", str(tmp_path / "out.safetensors")]) == 0
    )
