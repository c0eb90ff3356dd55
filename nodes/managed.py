"""Networks of the pack's own inside ComfyUI's memory management, and its progress bar."""

from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import nn

from ..medtraverse.watched import watched

Result = TypeVar("Result")


def managed(module: nn.Module) -> Any:
    """Return a module as a ModelPatcher, which ``load_models_gpu`` puts on the device."""
    return comfy.model_patcher.ModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def progress_of(total: int) -> Callable[[int, int], None]:
    """Return a callback (done, total) that shows progress and stops where the user cancelled."""
    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, _: int) -> None:
        bar.update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return progress


def cancellable(
    work: Callable[[Callable[[int, int], None]], Result], progress: Callable[[int, int], None] | None = None
) -> Result:
    """Return what ``work(report)`` returns; a user who cancels is answered at once, whatever it does.

    For work on numbers, pictures and files. What loads or moves ComfyUI's models belongs to the thread that
    runs prompts, and this is another. ``report`` leads to ``progress``, if there is one.
    """
    inference = torch.is_inference_mode_enabled()  # holds for one thread

    def apart(report: Callable[[int, int], None]) -> Result:
        with torch.inference_mode(inference):
            return work(report)

    def heard(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    return watched(apart, progress or heard)


def percent_progress() -> Callable[[int, int], None]:
    """Return such a callback for work that says itself, each time, how much there is."""
    progress = progress_of(100)
    return lambda done, total: progress(round(100 * done / total), 100)
