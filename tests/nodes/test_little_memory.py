"""Less memory or precision than one would like: calls and blocks get smaller, weights lie elsewhere or are
halved, and the result is the same.
"""

import weakref

import comfy.cli_args
import comfy.model_management
import pytest
import torch

SHORT = {"steps": 8, "swap_steps": "5,2", "width": 64, "height": 64, "cfg": 3.0, "patients": 3}
SCALE = 0.18215


def watched(model, before):
    """Return a clone of a MODEL that calls ``before(rows, tensor)`` before every call of the U-Net."""

    def wrapper(apply_model, arguments):
        before(len(arguments["input"]), arguments["input"])
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.fixture(scope="module")
def plain(traverse):
    return traverse(**SHORT).latents


def test_a_smaller_call_is_kept_and_grows_again_and_nothing_of_the_failed_one_is_held(
    traverse, demo, pack, monkeypatch, plain
):
    monkeypatch.setattr(pack.nodes.call_size, "PATIENCE", 3)
    sizes, failed = [], []

    def before(rows, tensor):
        assert all(reference() is None for reference in failed)
        sizes.append(rows)
        if rows > 6 and len(sizes) < 20:
            failed.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory")

    trajectory = traverse(model=watched(demo[0], before), rows_per_call=8, **SHORT)
    assert failed and len(failed) <= 4
    assert max(sizes[-10:]) > 6
    assert trajectory.settings["unet"]["rows_per_call"] < 4
    assert (trajectory.latents - plain).abs().max() < 1e-4


def test_a_block_whose_latents_do_not_fit_is_halved(traverse, pack, monkeypatch, plain):
    guider, blocks = pack.nodes.guider.TraversalGuider, []
    sample = guider.sample

    def full(self, noise, *args, **kwargs):
        blocks.append(self.plan.patients)
        if self.plan.patients > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(self, noise, *args, **kwargs)

    monkeypatch.setattr(guider, "sample", full)
    assert (traverse(**SHORT).latents - plain).abs().max() < 1e-4
    assert blocks == [3, 2, 1, 1, 1]


def test_a_compiled_model_meets_few_sizes(traverse, demo, plain):
    """What core's TorchCompileModel leaves on a MODEL is enough for it; here nothing is compiled."""
    sizes = []
    model = watched(demo[0], lambda rows, _: sizes.append(rows))
    model.model_options["torch_compile_kwargs"] = {"backend": "none"}
    trajectory = traverse(model=model, rows_per_call=8, **SHORT)
    assert set(sizes) <= {2, 4, 8, 16}
    assert trajectory.settings["unet"]["compiled"]
    assert (trajectory.latents - plain).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("flag", "dtype", "bound"),
    [("fp16_unet", torch.float16, 0.03), ("bf16_unet", torch.bfloat16, 0.3)],
)
def test_half_precision_stays_near(run, traverse, monkeypatch, plain, flag, dtype, bound):
    """Weights and arithmetic in half precision, as on a card; the largest latent is about 3."""
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    model = run("MedicalCheckpointLoader", domain="CheXpert")[0]
    assert next(model.model.diffusion_model.parameters()).dtype == dtype
    model.set_model_compute_dtype(dtype)
    trajectory = traverse(model=model, **SHORT)
    assert trajectory.latents.dtype == torch.float32
    difference = SCALE * (trajectory.latents - plain).abs().max().item()
    assert 0 < difference < bound, difference


def test_weights_that_are_loaded_in_part_give_the_same(run, traverse, monkeypatch, plain):
    model = run("MedicalCheckpointLoader", domain="CheXpert")[0]
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **kwargs: None)
    model.load(model.load_device, lowvram_model_memory=2**20)
    assert model.model.model_lowvram
    assert (traverse(model=model, **SHORT).latents - plain).abs().max() < 1e-4


@pytest.mark.parametrize("left", [1, 2, 3, 7, 9, 10, 27, 64, 65, 200])
def test_a_compiled_models_calls_take_all_rows_and_fill_up_little(pack, left):
    sizes = pack.nodes.call_size.fixed_sizes(64)
    assert sizes == (64, 16, 4, 1)
    rows, filled, calls = left, 0, 0
    while rows:
        count, size = pack.nodes.call_size.next_call(rows, sizes)
        assert 0 < count <= size and size in sizes
        rows, filled, calls = rows - count, filled + size, calls + 1
    assert filled <= 1.6 * left + 3 and calls <= left / 64 + 5


def test_the_table_of_cards_is_what_the_functions_say(demo, node_classes):
    """On both versions of ComfyUI; the README has it word for word."""
    from benchmarks.memory import table
    from launcher.comfyui import PACK

    text = (PACK / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(table(demo[0])) in text
