"""What ``python -m medtraverse train unet`` leaves, in ComfyUI: listed, loaded, sampled; a LoRA applied."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from demo.phantoms.layouts import write_chexpert, write_isic
from medtraverse.__main__ import main

FILE = "mine-cxr.safetensors"


@pytest.fixture
def comfyui():
    """The base directory of this test run's ComfyUI, without what the test has put into it afterwards."""
    import folder_paths

    base = Path(folder_paths.models_dir).parent
    domain = Path(folder_paths.get_user_directory()) / "medtraverse" / "domains" / "mine-cxr.json"
    yield base
    for path in (domain, *(base / "models" / kind / FILE for kind in ("diffusion_models", "loras"))):
        path.unlink(missing_ok=True)
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_chexpert(folder, 12)
    return folder


def as_mimic(films, folder):
    """The films as MIMIC-CXR-JPG has them: numbered folders, three gzipped tables."""
    table = pd.read_csv(films / "CheXpert-v1.0" / "train.csv")
    frame = pd.DataFrame(
        {
            "dicom_id": [f"{number:08x}-0c5a" for number in table.index],
            "subject_id": 10_000_032 + table.index,
            "study_id": 50_414_267 + table.index,
            "ViewPosition": table["AP/PA"],
            "split": ["train"] * 10 + ["validate", "test"],
        }
    )
    for path, row in zip(table.Path, frame.itertuples()):
        image = folder / f"files/p10/p{row.subject_id}/s{row.study_id}/{row.dicom_id}.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes((films / path).read_bytes())
    labels = table.iloc[:, 5:]
    tables = {
        "chexpert": pd.concat([frame[["subject_id", "study_id"]], labels[sorted(labels)]], axis=1),
        "metadata": frame[["dicom_id", "subject_id", "study_id", "ViewPosition"]],
        "split": frame[["dicom_id", "study_id", "subject_id", "split"]],
    }
    for name, content in tables.items():
        content.to_csv(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False)


def as_isic(folder):
    """Lesions as ISIC 2019 has them, with the artefacts' table that users download."""
    truth = write_isic(folder, 12)
    table = pd.read_csv(truth)
    names = table.pop("image")
    artefacts = table.iloc[:, 9:] * 0.9 + 0.05
    pd.concat([names, table.iloc[:, :9]], axis=1).to_csv(truth, index=False)
    artefacts.insert(0, "image", names)
    artefacts.to_csv(folder / "isic_inferred_wocarcinoma.csv")


CHEST = ["Chest X-ray showing Pleural Effusion", "Chest X-ray showing Support Devices"]
LAYOUTS = {
    "chexpert": CHEST,
    "mimic-cxr-jpg": CHEST,
    "isic2019": [f"{{neutral}} showing {name}" for name in ("hair", "gel bubble", "ruler", "ink")],
}


def train(pack, films, out, comfyui, *further):
    base = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    command = ["train", "unet", "--data", films, "--base", base, "--out", out, "--install", comfyui]
    command += ["--name", "mine-cxr", "--rate", "1e-3", "--batch", "2", "--device", "cpu", *further]
    # The nodes' fixtures hold inference mode, which a training has to leave.
    assert main([str(word) for word in command]) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_updates_on_a_data_set_are_sampled(pack, run, films, layout, tmp_path, comfyui, capsys):
    data = films
    if layout != "chexpert":
        data = tmp_path / "data"
        data.mkdir()
        as_isic(data) if layout == "isic2019" else as_mimic(films, data)
    train(
        pack, data, tmp_path / "run", comfyui, "--steps", 20, "--accumulation", 1, "--save-precision", "fp32"
    )
    assert "update 20/20" in capsys.readouterr().out
    assert layout in (tmp_path / "run" / "README.md").read_text()
    schema = run.classes["MedicalCheckpointLoader"].define_schema()
    listed = {item.id: item for item in schema.inputs}
    assert FILE in listed["unet"].options and "mine-cxr" in listed["domain"].options
    model, clip, _, domain = run("MedicalCheckpointLoader", unet=FILE).args
    assert domain.name == "mine-cxr" and domain.size == 128
    prompts = LAYOUTS[layout]
    assert [item.prompt for item in domain.select()] == prompts
    from diffusers import UNet2DConditionModel

    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text, time = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    trained = UNet2DConditionModel.from_pretrained(tmp_path / "run" / "best" / "unet")
    base = UNet2DConditionModel.from_pretrained(
        pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd" / "unet", torch_dtype=torch.float32
    )
    with torch.inference_mode():
        ours = model.model.diffusion_model(latents, time, context=text)
        assert (ours - trained(latents, time, text).sample).abs().max() < 1e-4
        assert (ours - base(latents, time, text).sample).abs().max() > 0.01
    neutral, negative, attributes, _ = run("MedicalAttributePrompts", clip=clip, domain=domain).args
    trajectory = run(
        "PromptSwapKSampler",
        model=model,
        neutral=neutral,
        negative=negative,
        attributes=attributes,
        steps=4,
        swap_steps="1",
    )[1]
    assert trajectory.latents.shape[0] == 1 + len(prompts) and trajectory.latents.isfinite().all()


def test_a_lora_is_applied_whole_by_core_s_loader(pack, demo, films, tmp_path, comfyui, caplog):
    import comfy.model_management
    import comfy.sd
    from comfy.utils import load_torch_file
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, set_peft_model_state_dict

    from medtraverse.lora import changed_layers

    further = ["--method", "lora", "--rank", 3, "--alpha", 6, "--lora-layers", "all", "--train-text-encoder"]
    train(pack, films, tmp_path / "run", comfyui, "--steps", 3, "--accumulation", 1, *further)
    weights = load_torch_file(str(comfyui / "models" / "loras" / FILE))
    unet, text = changed_layers(weights)
    caplog.clear()
    model, clip = comfy.sd.load_lora_for_models(demo[0], demo[1], weights, 1.0, 1.0)
    assert not [record for record in caplog.records if "NOT LOADED" in record.message.upper()]
    assert len(model.patches) == len(unet) and len(clip.patcher.patches) == len(text) == 8
    # diffusers' own network with the same weights.
    network = UNet2DConditionModel.from_pretrained(
        pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd" / "unet", torch_dtype=torch.float32
    )
    names = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
    network.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=names))
    kohya = {
        f"lora_unet_{name.replace('.', '_')}": name
        for name, module in network.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(kohya) == unet
    halves = {"lora_A": "lora_down", "lora_B": "lora_up"}
    state = {
        f"{name}.{half}.weight": weights[f"{key}.{other}.weight"].float()
        for key, name in kohya.items()
        for half, other in halves.items()
    }
    assert not set_peft_model_state_dict(network, state).unexpected_keys
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context, time = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    with torch.inference_mode():
        wanted = network(latents, time, context).sample
        comfy.model_management.load_models_gpu([model], force_patch_weights=True)
        ours = model.model.diffusion_model(latents, time, context=context)
        comfy.model_management.load_models_gpu([demo[0]], force_patch_weights=True)
        plain = demo[0].model.diffusion_model(latents, time, context=context)
    assert (ours - wanted).abs().max() < 1e-4 < (plain - wanted).abs().max()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3]
