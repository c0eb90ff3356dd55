"""Models in the forms in which people have them, put where a user puts them, are sampled on a live server."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from medtraverse.lora import convert
from medtraverse.remote.client import NodeFailed

diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
PROMPT = "Normal chest radiograph (PA) embedding:cxr-token"


@pytest.fixture(scope="module")
def models(base, random_model, tmp_path_factory):
    """Folders and files of small random models under ``models``, as libraries and trainers leave them."""
    root, elsewhere = base / "models", tmp_path_factory.mktemp("elsewhere")
    whole = random_model(root / "diffusers" / "sd2-cxr")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(whole)
    pipe.save_pretrained(root / "diffusers" / "bin-cxr", safe_serialization=False)
    # transformers no longer writes PyTorch files.
    text = root / "diffusers" / "bin-cxr" / "text_encoder"
    torch.save(load_file(text / "model.safetensors"), text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    first = random_model(elsewhere / "sd1-cxr", version=1)
    for variant in ("fp16", "non_ema"):
        diffusers.StableDiffusionPipeline.from_pretrained(first).save_pretrained(
            elsewhere / variant, variant=variant
        )
        (root / "diffusers" / f"{variant}-cxr").symlink_to(elsewhere / variant, target_is_directory=True)
    training = root / "diffusers" / "run-cxr" / "checkpoint-500"
    for name in ("unet", "unet_ema"):
        pipe.unet.save_pretrained(training / name)
    pipe.text_encoder.save_pretrained(training / "text_encoder")
    pipe.vae.register_to_config(scaling_factor=0.25)
    pipe.vae.save_pretrained(root / "diffusers" / "sd-vae-ft-mse")
    (root / "vae").mkdir(exist_ok=True)
    save_file(
        {f"first_stage_model.{k}": v.contiguous() for k, v in pipe.vae.state_dict().items()},
        root / "vae" / "ft.safetensors",
    )
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = peft.utils.get_peft_model_state_dict(pipe.unet)
    loras = root / "loras"
    loras.mkdir(exist_ok=True)
    pipe.save_lora_weights(loras, unet_lora_layers=diffusers.utils.convert_state_dict_to_diffusers(layers))
    convert(loras / "pytorch_lora_weights.safetensors", loras / "cxr-lora.safetensors")
    (root / "embeddings").mkdir(exist_ok=True)
    token = {"<cxr>": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}
    torch.save(token, root / "embeddings" / "cxr-token.bin")
    return root


def traversal(graph, checkpoint, unet="from checkpoint", lora="", prompt="Normal chest radiograph", **loader):
    """Add a short traversal, decoded, and its figure, whose file holds the settings; return that node."""
    loaded = graph.add(
        "MedicalCheckpointLoader", checkpoint=checkpoint, unet=unet, domain="CheXpert", **loader
    )
    model, clip = loaded[0], loaded[1]
    if lora:
        laid = graph.add(
            "LoraLoader", model=model, clip=clip, lora_name=lora, strength_model=0.5, strength_clip=0.5
        )
        model, clip = laid[0], laid[1]
    prompts = graph.add(
        "MedicalAttributePrompts",
        clip=clip,
        domain=loaded[3],
        neutral="auto",
        attributes="",
        extra_attributes=f"effusion = {prompt}, large effusion",
        neutral_prompt=prompt,
        negative_prompt="",
    )
    sampled = graph.sampler(
        model, prompts, width=64, height=64, seed=3, steps=3, cfg=3.0, swap_steps="1,0", cache_mb=0
    )
    images = graph.add("VAEDecode", samples=sampled[0], vae=loaded[2])
    graph.add("PreviewImage", images=images[0])
    cosine = graph.add("LatentDirectionCosine", trajectory=sampled[1], published=False)
    saved = graph.add(
        "SaveTraversalFigure",
        drawing=cosine[3],
        filename_prefix="models/figure",
        vector="none",
        table=True,
        dpi=50,
    )
    saved.loaded, saved.sampled = loaded, sampled
    return saved


def settings(client, result, saved):
    (picture,) = result.files(saved.id)
    texts = Image.open(io.BytesIO(client.fetch(picture))).info
    return json.loads(texts["medtraverse"])["trajectories"][0]["settings"]


def test_folders_loras_embeddings_and_vaes_are_offered_and_sampled(client, graph, models, base):
    info = client.object_info("MedicalCheckpointLoader")["MedicalCheckpointLoader"]["input"]
    offered = {
        name: entry[1].get("options") or entry[0]
        for entries in info.values()
        for name, entry in entries.items()
        if name in ("checkpoint", "unet", "vae_alone")
    }
    folders = ["diffusers/sd2-cxr", "diffusers/bin-cxr", "diffusers/fp16-cxr", "diffusers/non_ema-cxr"]
    assert set(folders) < set(offered["checkpoint"])
    training = [f"diffusers/run-cxr/checkpoint-500/{name}" for name in ("unet", "unet_ema")]
    assert [choice for choice in offered["unet"] if "sd2-cxr" in choice or choice in training] == training
    vaes = ["diffusers/sd-vae-ft-mse", "ft.safetensors"]
    assert [choice for choice in offered["vae_alone"] if choice in vaes] == vaes
    plain = {folder: traversal(graph, folder) for folder in folders}
    trained = [traversal(graph, folders[0], unet=unet) for unet in training]
    other_vaes = [traversal(graph, folders[0], vae_alone=vae) for vae in vaes]
    laid = {
        name: traversal(graph, folders[0], lora=f"{name}.safetensors", prompt=PROMPT)
        for name in ("cxr-lora", "pytorch_lora_weights")
    }
    kept = traversal(graph, folders[0], prompt=PROMPT)
    model, clip, vae = (plain[folders[0]].loaded[slot] for slot in range(3))
    graph.add("CheckpointSave", model=model, clip=clip, vae=vae, filename_prefix="saved/sd2-cxr")
    result = client.run(graph)

    told = {
        node.id: settings(client, result, node) for node in (*plain.values(), *trained, *laid.values(), kept)
    }
    shas = {folder: told[node.id]["model"]["sha256"] for folder, node in plain.items()}
    assert all(
        len(files) == 3 and all(name.startswith(folder) for name in files) for folder, files in shas.items()
    )
    assert {name.rsplit(".")[-1] for name in shas["diffusers/bin-cxr"]} == {"bin"}
    for node, unet in zip(trained, training):
        names = sorted(told[node.id]["model"]["sha256"])
        assert names == sorted(
            [
                f"{unet}/diffusion_pytorch_model.safetensors",
                "diffusers/run-cxr/checkpoint-500/text_encoder/model.safetensors",
                "diffusers/sd2-cxr/vae/diffusion_pytorch_model.safetensors",
            ]
        )
    assert (
        "diffusers/sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
        in settings(client, result, other_vaes[0])["model"]["sha256"]
    )
    converted, unconverted = (told[laid[name].id] for name in laid)
    assert set(converted["files"]["sha256"]) == {"embeddings/cxr-token.bin", "loras/cxr-lora.safetensors"}
    (lora,) = converted["loras"]
    assert lora["applied"] == lora["layers"] > 10 and lora["strength"] == 0.5
    assert converted["model"]["patched_weights"] == lora["layers"]
    (lora,) = unconverted["loras"]
    assert lora["applied"] == 0 and unconverted["model"]["patched_weights"] == 0
    (said,) = result.outputs[laid["pytorch_lora_weights"].sampled.id]["text"]
    assert said.startswith(f"loras/pytorch_lora_weights.safetensors: 0 of {lora['layers']} of its changes")
    assert said in (base / "server.log").read_text(encoding="utf-8", errors="replace")
    tables = [cosines(client, result, node) for node in (kept, *laid.values())]
    assert tables[0] == tables[2] != tables[1]


def cosines(client, result, saved):
    """The numbers of a traversal's figure, which show whether latents are the same."""
    (table,) = result.files(saved.id, "files")
    return client.fetch(table)


def test_a_file_that_core_saved_is_sampled_as_safetensors_and_pickled(client, graph, models, base):
    (saved,) = (base / "output" / "saved").glob("sd2-cxr*.safetensors")
    target = models / "checkpoints"
    target.mkdir(exist_ok=True)
    shutil.copy(saved, target / "core-cxr.safetensors")
    torch.save({"state_dict": load_file(saved), "global_step": 7}, target / "pickled-cxr.ckpt")
    parts = {
        part: json.loads((models / "diffusers" / "sd2-cxr" / part / "config.json").read_text())
        for part in ("unet", "text_encoder")
    }
    for name in ("core-cxr", "pickled-cxr"):
        (target / f"{name}.json").write_text(json.dumps(parts))
    files = [
        # Core writes what the model predicts into the header; a pickled file has none.
        traversal(graph, "core-cxr.safetensors"),
        traversal(graph, "pickled-cxr.ckpt", prediction="epsilon"),
        traversal(graph, "diffusers/sd2-cxr"),
    ]
    result = client.run(graph)
    first, *others = (cosines(client, result, node) for node in files)
    assert others == [first, first]


def test_a_pickled_file_of_stable_diffusion_2_is_asked_what_it_predicts(client, graph):
    traversal(graph, "pickled-cxr.ckpt")
    with pytest.raises(NodeFailed, match="pickled-cxr.ckpt does not say whether its model of Stable Diff"):
        client.run(graph)
