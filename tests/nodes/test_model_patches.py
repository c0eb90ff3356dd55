"""Every node of ComfyUI that patches a MODEL: refused, or equal to the unshared run and a patient alone."""

import asyncio
import importlib
import re
from pathlib import Path

import pytest
import torch

from launcher.comfyui import installation

STEPS = {
    "steps": 6,
    "swap_steps": "3,1",
    "width": 64,
    "height": 64,
    "cfg": 4.0,
    "sampler": "euler",
    "scheduler": "karras",
}
# Node and what differs from its defaults. "file" and "operation" stand for what the test makes itself.
EQUAL: dict[str, dict] = {
    "APG": {"momentum": -0.5},
    "UNetSelfAttentionMultiply": {"q": 1.2},
    "UNetCrossAttentionMultiply": {"v": 1.2},
    "UNetTemporalAttentionMultiply": {"self_structural": 1.2},
    "CFGZeroStar": {},
    "CFGNorm": {},
    "CFGOverride": {"cfg": 2.0, "start_percent": 0.3},
    "DifferentialDiffusion": {},
    "Epsilon Scaling": {},
    "FreeU": {},
    "FreeU_V2": {},
    "FreSca": {"freq_cutoff": 2},
    "HyperTile": {"tile_size": 32},
    "HypernetworkLoader": {"hypernetwork_name": "file"},
    "LatentApplyOperationCFG": {"operation": "operation"},
    "LoraLoader": {"lora_name": "file"},
    "LoraLoaderModelOnly": {"lora_name": "file"},
    "LoraLoaderBypass": {"lora_name": "file"},
    "LoraLoaderBypassModelOnly": {"lora_name": "file"},
    "ModelAttentionBackend": {"attention": "pytorch attention"},
    "ModelComputeDtype": {"dtype": "fp32"},
    "ModelMergeAdd": {},
    "ModelMergeBlocks": {"middle": 0.5},
    "ModelMergeSD1": {},
    "ModelMergeSimple": {"ratio": 0.5},
    "ModelMergeSubtract": {"multiplier": 0.1},
    "ModelSamplingContinuousEDM": {"sampling": "eps"},
    "ModelSamplingContinuousV": {},
    "ModelSamplingDiscrete": {"sampling": "eps", "zsnr": True},
    "MultiGPU_WorkUnits": {},
    "PatchModelAddDownscale": {"block_number": 1},
    "PerpNeg": {},
    "PerturbedAttentionGuidance": {},
    "RescaleCFG": {},
    "SelectModelDevice": {},
    "SkipLayerGuidanceDiT": {},
    "SkipLayerGuidanceDiTSimple": {},
    "SkipLayerGuidanceSD3": {},
    "TCFG": {},
}
REFUSED = {
    "ContextWindowsManual": "Context Windows cannot be used .* frames of a video",
    "EasyCache": "EasyCache cannot be used .* by their place in the batch",
    "LazyCache": "LazyCache cannot be used .* skips whole steps",
    "Mahiro": "Mahiro cannot be used .* averages over the batch",
    "NAGuidance": "Normalized Attention Guidance cannot be used .* both prompts",
    "RenormCFG": "RenormCFG cannot be used .* one latent alone",
    "SelfAttentionGuidance": "Self-Attention Guidance cannot be used .* some of the rows only",
    "TemporalScoreRescaling": "Temporal Score Rescaling cannot be used .* one latent alone",
    "TomePatchModel": "ToMe cannot be used .* at random",
    "VideoLinearCFGGuidance": "VideoLinearCFGGuidance cannot be used .* frames",
    "VideoTriangleCFGGuidance": "VideoTriangleCFGGuidance cannot be used .* frames",
    "WanContextWindowsManual": "Context Windows cannot be used .* frames",
}
# Made for models that are no Stable Diffusion U-Net; there is none here to lay them on.
OTHER_MODELS = re.compile(
    r"ChromaRadiance|ARVideo|LTXV|FluxKV|HiDream|MiniMax|ModelSampling(StableCascade|SD3|AuraFlow|Flux|LTXV)"
    r"|ModelMerge(SD2|SDXL|SD3|SD35|Aura|Flux|Mochi|LTXV|Cosmos|WAN|Qwen|Krea)|QwenImage|ZImage|USO|SUPIR|AnimaLL"
    r"|[wW]an(Block|Uni3C|Animate|Infinite)|WanUni3CControlnetApply|ScaleROPE|TripoSplat|ModelNoiseScale"
)
# A compiler or a training run, not a patch of one call.
NOT_RUN = {"TorchCompileModel", "TrainLoraNode", "LoraModelLoader"}


def pytest_generate_tests(metafunc):
    for name, cases in (("equal", EQUAL), ("refused", REFUSED)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases)


@pytest.fixture(scope="module")
def patches():
    """Every node of ComfyUI itself that takes a MODEL and gives one, by id."""
    import nodes

    found = dict(nodes.NODE_CLASS_MAPPINGS)
    # In newer versions nodes_latent and this one import each other, which works from this side only.
    importlib.import_module("comfy_extras.nodes_post_processing")
    for file in sorted(Path(installation().folder, "comfy_extras").glob("nodes_*.py")):
        text = file.read_text(encoding="utf-8")
        if "Model.Output" not in text and '("MODEL"' not in text:
            continue
        module = importlib.import_module(f"comfy_extras.{file.stem}")
        found.update(getattr(module, "NODE_CLASS_MAPPINGS", {}))
        if hasattr(module, "comfy_entrypoint"):

            async def listed(module=module):
                extension = module.comfy_entrypoint()
                return await (
                    await extension if asyncio.iscoroutine(extension) else extension
                ).get_node_list()

            found.update({node.GET_SCHEMA().node_id: node for node in asyncio.run(listed())})
    return {
        name: node
        for name, node in found.items()
        if "MODEL" in node.RETURN_TYPES and "MODEL" in [kind for kind, _ in inputs_of(node).values()]
    }


def inputs_of(node):
    """Type and options of every input of a node."""
    declared = node.INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    return {name: (entry[0], entry[1] if len(entry) > 1 else {}) for name, entry in inputs.items()}


def made(node, inputs):
    """Execute a node of either kind of interface; return its first output."""
    if hasattr(node, "EXECUTE_NORMALIZED"):
        return node.EXECUTE_NORMALIZED(**inputs).args[0]
    return getattr(node(), node.FUNCTION)(**inputs)[0]


@pytest.fixture(scope="module")
def patched(patches, demo, prompts):
    """``patched(node, changed)``: the demo model with a patch on it."""

    # Added to the model, the model itself would make noise that amplifies every rounding.
    tenth = made(patches["ModelMergeSubtract"], {"model1": demo[0], "model2": demo[0], "multiplier": 0.9})

    def call(name, changed):
        if name not in patches:
            pytest.skip("this version of ComfyUI does not have the node")
        node = patches[name]
        inputs = {}
        for key, (kind, options) in inputs_of(node).items():
            if kind == "MODEL":
                inputs[key] = tenth if key == "model2" else demo[0]
            elif kind == "CLIP":
                inputs[key] = demo[1]
            elif kind == "CONDITIONING":
                inputs[key] = prompts[1]
            elif "default" in options:
                inputs[key] = options["default"]
            elif isinstance(kind, list) or "options" in options:
                inputs[key] = (kind if isinstance(kind, list) else options["options"])[0]
        return made(node, {**inputs, **changed})

    return call


@pytest.fixture(scope="module")
def lora(demo):
    """A LoRA file in ``models/loras``, and a hypernetwork in ``models/hypernetworks``."""
    import folder_paths
    from safetensors.torch import save_file

    weights = demo[0].model.diffusion_model.state_dict()
    key = "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    width, context = weights[key].shape[0], weights[key.replace("to_q", "to_k")].shape[1]
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    low = {
        f"{name}.lora_up.weight": torch.randn(width, 4, generator=generator) * 0.1,
        f"{name}.lora_down.weight": torch.randn(4, width, generator=generator) * 0.1,
    }
    layers = {
        "linear.0.weight": torch.randn(context, context, generator=generator) * 0.02,
        "linear.0.bias": torch.zeros(context),
    }
    files = {"loras": low, "hypernetworks": None}
    made = []
    for folder in files:
        target = Path(folder_paths.get_folder_paths(folder)[0]) / "medtraverse-test.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder == "loras":
            save_file(low, target)
        else:
            target = target.with_suffix(".pt")
            torch.save(
                {context: [layers, layers], "layer_structure": [1, 1], "use_layer_norm": False}, target
            )
        made.append(target)
    yield {"loras": made[0].name, "hypernetworks": made[1].name}
    for target in made:
        target.unlink()


def test_every_patch_of_this_version_is_in_a_table(patches):
    told = {*EQUAL, *REFUSED, *NOT_RUN}
    assert [name for name in patches if name not in told and not OTHER_MODELS.search(name)] == []


def test_the_patched_run_equals_the_unshared_one_and_a_patient_alone(
    equal, patched, traverse, prompts, pack, lora, monkeypatch
):
    from comfy_extras import nodes_latent

    changed = dict(EQUAL[equal])
    if "lora_name" in changed:
        changed["lora_name"] = lora["loras"]
    if "hypernetwork_name" in changed:
        changed["hypernetwork_name"] = lora["hypernetworks"]
    if "operation" in changed:
        changed["operation"] = nodes_latent.LatentOperationTonemapReinhard.execute(multiplier=1.0).args[0]
    model = patched(equal, changed)
    inputs = {**STEPS, "model": model, "attributes": prompts[2].attributes[0].conditioning}
    both = traverse(seed=5, patients=2, **inputs)
    alone = traverse(seed=6, patients=1, **inputs)
    scale = both.latents.abs().max()
    assert torch.isfinite(scale)
    assert (alone.latents - both.latents[both.index[1, 0]]).abs().max() / scale < 5e-5
    traversal = importlib.import_module(f"{pack.__name__}.medtraverse.traversal")
    monkeypatch.setattr(traversal.Plan, "sources", lambda plan, step, steps: (torch.arange(plan.rows),) * 2)
    unshared = traverse(seed=5, patients=2, **inputs)
    assert (unshared.latents - both.latents).abs().max() / scale < 5e-5


def test_a_patch_that_mixes_rows_is_refused_by_name(refused, patched, traverse):
    model = patched(refused, {})
    with pytest.raises(ValueError, match=f"^model: {REFUSED[refused]}"):
        traverse(model=model, **STEPS)


def test_hypertile_is_refused_where_it_draws_at_random(patched, traverse):
    with pytest.raises(ValueError, match="^model: HyperTile with a swap_size over 2 draws its tiles"):
        traverse(model=patched("HyperTile", {"swap_size": 4}), **STEPS)


def test_diffusers_ddim_needs_the_sigmas_of_training(patched, traverse):
    model = patched("ModelSamplingDiscrete", {"sampling": "lcm"})
    with pytest.raises(ValueError, match="^scheduler: 'diffusers_ddim' needs the 1000 σ"):
        traverse(model=model, **{**STEPS, "scheduler": "diffusers_ddim"})
