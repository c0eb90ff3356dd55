"""What the step loop asks of a device, counted on one that is none: copies, waits, new tensors."""

import comfy.model_management
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from tests.nodes.second_device import PLACE, Device, inner, outer

SHORT = {"steps": 7, "swap_steps": "3,1", "width": 64, "height": 64, "rows_per_call": 256, "cfg": 3.0}


@pytest.fixture
def measured(traverse, demo, monkeypatch):
    """``measured(**inputs)``: a trajectory on the second device, counts from first to last call, and calls.

    ComfyUI's guider and samplers run there; the U-Net's own arithmetic is done on the CPU.
    """
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (2**33, 2**33) if torch_free_too else 2**33,
    )
    model, seen = demo[0].clone(), []

    def on_the_cpu(apply_model, arguments):
        seen.append(seen[0].counts.copy())
        with _disable_current_modes():
            x, timestep, options = tree_map(
                inner, (arguments["input"], arguments["timestep"], dict(arguments["c"]))
            )
            return outer(apply_model(x, timestep, **options))

    model.load_device = PLACE
    model.set_model_unet_function_wrapper(on_the_cpu)

    def call(**inputs):
        with Device() as device:
            seen[:] = [device]
            trajectory = traverse(model=model, **{**SHORT, **inputs})
        return trajectory, seen[-1] - seen[1], len(seen) - 1

    return call


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_the_loop_asks_as_much_of_a_device_for_many_patients_as_for_few(measured, traverse, sampler):
    """No copy, wait or new tensor a row; one wait a step; tables once for a swap, not for a step."""
    inputs = {"sampler": sampler, "scheduler": "karras"}
    few, counts, calls = measured(patients=2, **inputs)
    many, more, as_many = measured(patients=4, **inputs)
    assert (len(many.latents), as_many) == (2 * len(few.latents), calls)
    assert counts == more and counts["down"] == 0 and counts["waits"] <= 7
    _, longer, _ = measured(patients=2, steps=9, **inputs)
    assert longer["up"] == counts["up"] and longer["waits"] <= 9
    if sampler == "ddim":
        plain = traverse(patients=2, **{**SHORT, **inputs})
        assert (plain.latents - few.latents).abs().max() < 1e-4


def test_the_cache_takes_one_copy_a_call_and_gives_two_an_evaluation(measured):
    _, counts, calls = measured(patients=3, cache_mb=64)
    assert counts["down"] == calls - 1  # what follows the last call is not counted
    fewer, again, _ = measured(patients=3, cache_mb=64, swap_steps="3,2,1")
    assert fewer.settings["unet"]["reused"] > 90
    assert again["up"] <= counts["up"] + 4 * 7


def test_a_tensor_left_on_the_cpu_fails():
    with Device(), pytest.raises(AssertionError, match="left on the CPU"):
        torch.zeros(3, device=PLACE) + torch.zeros(3)


def test_a_latent_that_core_keeps_on_the_card_reaches_curve_and_viewer(run):
    """As with --gpu-only."""
    with Device() as device:
        latents = outer(torch.randn(3, 4, 8, 8))
        result = run("BezierLatentInterpolate", source={"samples": latents}, frames=4)
    assert device.counts["down"] >= 1 and result[0]["samples"].device.type == "cpu"
    assert "view" in result.ui["medtraverse_view"][0]
