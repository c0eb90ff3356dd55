"""The loaders under ComfyUI's dynamic VRAM, which it turns on by itself for NVIDIA cards since 0.33.

No card is needed: `main.py` sets one flag, under which core's Linear layers are empty until a file is loaded,
and exchanges the class that wraps models.
"""

import dataclasses

import comfy.model_patcher
import pytest
import torch
from safetensors.torch import load_file, save_file

memory = (
    pytest.importorskip("comfy.memory_management")
    if hasattr(comfy.model_patcher, "CoreModelPatcher")
    else None
)
needs_dynamic_vram = pytest.mark.skipif(memory is None, reason="this ComfyUI has no dynamic VRAM")


class Streaming(comfy.model_patcher.ModelPatcher):
    """A patcher that says what `ModelPatcherDynamic` says; that class itself becomes a plain one on a CPU."""

    def is_dynamic(self):
        return True


@pytest.fixture
def lazy(monkeypatch):
    """Core's Linear layers are empty until they are loaded, as `main.py` makes them for an NVIDIA card."""
    monkeypatch.setattr(memory, "aimdo_enabled", True)


@pytest.fixture
def streaming(monkeypatch):
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Streaming, raising=False)


@pytest.fixture(scope="module")
def weights(pack):
    return load_file(next((pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd" / "unet").glob("*.safetensors")))


@pytest.fixture
def put(tmp_path, pack, monkeypatch):
    """``put(weights)`` offers a U-Net as the choice `mine` of the loader."""

    def save(tensors):
        save_file(tensors, tmp_path / "isic.safetensors")
        monkeypatch.setitem(pack.nodes.sources.DEMO_UNETS, "mine (ISIC)", tmp_path / "isic.safetensors")
        return "mine (ISIC)"

    return save


def forward(model):
    generator = torch.Generator().manual_seed(0)
    latents, text = (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.randn(2, 77, 64, generator=generator),
    )
    return model.model.diffusion_model(latents, torch.tensor([981.0, 1.0]), context=text)


def encode(clip):
    return clip.encode_from_tokens(clip.tokenize("a chest X-ray with pleural effusion"))


@needs_dynamic_vram
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_with_empty_layers_the_same_model_is_loaded(run, put, weights, monkeypatch, dtype):
    choice = put({key: value.to(dtype) for key, value in weights.items()})
    plain = run("MedicalCheckpointLoader", unet=choice)
    monkeypatch.setattr(memory, "aimdo_enabled", True)
    lazy = run("MedicalCheckpointLoader", unet=choice)
    assert torch.equal(forward(plain[0]), forward(lazy[0])) and torch.equal(encode(plain[1]), encode(lazy[1]))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain[2].decode(latents), lazy[2].decode(latents))
    for first, second in zip(plain.args[:2], lazy.args[:2]):
        patchers = [getattr(item, "patcher", item) for item in (first, second)]
        states = [patcher.model.state_dict() for patcher in patchers]
        assert states[0].keys() == states[1].keys()
        assert all(
            torch.equal(states[0][key], states[1][key]) for key in states[0] if "projection" not in key
        )


@needs_dynamic_vram
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w, key: {k: v for k, v in w.items() if k != key}, "keys missing"),
        (lambda w, key: {**w, key: w[key][:-1].contiguous()}, "keys of another shape"),
    ],
)
def test_a_linear_layer_that_does_not_fit_is_named(run, put, weights, lazy, change, fault):
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    with pytest.raises(ValueError, match=f"unet: .*{fault}.*attn1.to_q"):
        run("MedicalCheckpointLoader", unet=put(change(weights, key)))


@needs_dynamic_vram
@pytest.mark.parametrize("change", [lambda value: None, lambda value: value[:, :-1].contiguous()])
def test_a_text_encoder_that_does_not_fit_is_named(pack, lazy, change):
    parts = pack.medtraverse.checkpoint.read_checkpoint(pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd")
    key = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    text = {**parts.text_encoder, key: change(parts.text_encoder[key])}
    kept = {name: value for name, value in text.items() if value is not None}
    with pytest.raises(ValueError, match="text encoder does not fit CLIP.*self_attn.q_proj"):
        pack.nodes.model_building.build_clip(dataclasses.replace(parts, text_encoder=kept))


def test_cores_patcher_is_used_and_keeps_the_tensors_of_the_file(run, put, weights, streaming):
    model = run("MedicalCheckpointLoader", unet=put({k: v.double() for k, v in weights.items()}))[0]
    assert type(model) is Streaming
    # Copied into the model's own tensors they would have its type.
    assert model.model.diffusion_model.time_embed[0].weight.dtype == torch.float64


def test_the_factories_that_core_asks_for_make_the_same_model_anew(run, streaming):
    model, clip, vae, _ = run("MedicalCheckpointLoader", domain="CheXpert")
    for patcher in (model, clip.patcher, vae.patcher):
        factory, files = patcher.cached_patcher_init
        again = factory(*files)
        states = patcher.model.state_dict(), again.model.state_dict()
        assert again.model is not patcher.model and states[0].keys() == states[1].keys()
        # The projection is not in the file, and nothing reads it.
        unequal = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
        assert not [key for key in unequal if "text_projection" not in key]
    factory, files = model.cached_patcher_init
    plain = factory(*files, disable_dynamic=True)
    assert type(factory(*files)) is Streaming and type(plain) is comfy.model_patcher.ModelPatcher
    assert {value.dtype for value in plain.model.diffusion_model.state_dict().values()} == {torch.float32}


@needs_dynamic_vram
def test_core_clones_a_streaming_model_for_compilation_hooks_and_a_further_gpu(run, streaming, lazy):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    model, clip, vae, _ = run("MedicalCheckpointLoader", domain="CheXpert")
    plain = model.clone(disable_dynamic=True)
    compiled = TorchCompileModel.execute(model, "inductor")[0]
    assert type(plain) is type(compiled) is comfy.model_patcher.ModelPatcher
    assert plain.get_attachment("medtraverse.origin") == model.get_attachment("medtraverse.origin")
    further = model.deepclone_multigpu(new_load_device=torch.device("cpu"))
    assert further.model is not model.model and further.is_dynamic()
    assert torch.equal(forward(plain), forward(further.clone(disable_dynamic=True)))
    assert torch.equal(encode(clip.clone(disable_dynamic=True)), encode(clip))
    assert vae.patcher.deepclone_multigpu().model is not vae.patcher.model
