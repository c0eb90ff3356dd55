"""What the readers of checkpoints say about files that would go silently or cryptically wrong."""

import pytest
import torch
from safetensors.torch import save_file

from medtraverse import checkpoint

PARTS = {
    checkpoint.UNET + "x": torch.zeros(1),
    checkpoint.VAE + "x": torch.zeros(1),
    checkpoint.TEXT + "final_layer_norm.weight": torch.ones(1),
}


def test_a_single_file_says_its_prediction_type_by_a_key(tmp_path):
    for keys, expected in (((), "epsilon"), (("v_pred",), "v_prediction")):
        save_file({**PARTS, **{key: torch.zeros(0) for key in keys}}, tmp_path / "a.safetensors")
        read = checkpoint.read_single_file(tmp_path / "a.safetensors")
        assert checkpoint.sampling_settings(read.scheduler)[0] == expected
        assert list(read.text_encoder) == ["text_model.final_layer_norm.weight"]
    save_file({**PARTS, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr = True, which is not supported"):
        checkpoint.sampling_settings(checkpoint.read_single_file(tmp_path / "a.safetensors").scheduler)


def test_python_objects_in_a_checkpoint_are_refused_and_never_recommended(tmp_path):
    torch.save({"state_dict": PARTS, "callback": tmp_path}, tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match="a.ckpt is cut off, or holds Python objects.*convert it to safetensors"
    ) as fault:
        checkpoint.read_weights(tmp_path / "a.ckpt")
    assert "weights_only" not in str(fault.value)


def test_sharded_weights_and_broken_config_files_are_named(tmp_path):
    folder = tmp_path / "chest"
    (folder / "unet").mkdir(parents=True)
    save_file(PARTS, folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="chest/unet holds none of .*sharded weights"):
        checkpoint.read_diffusers(folder)
    for content in ("{", "[1]"):
        (folder / "medtraverse.json").write_text(content)
        with pytest.raises(ValueError, match="chest/medtraverse.json is not a JSON object"):
            checkpoint.declared_domains(folder)
    (folder / "medtraverse.json").write_text('{"domains": ["ISIC"]}')
    assert checkpoint.declared_domains(folder) == ("ISIC",)
    assert checkpoint.declared_domains(tmp_path) == ()
