"""Networks of the pack's own inside ComfyUI's memory management, and its progress bar."""

import comfy.model_management
import comfy.model_patcher
import comfy.utils


def managed(module):
    """Return a module as a ModelPatcher, which ``load_models_gpu`` puts on the device."""
    return comfy.model_patcher.ModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def progress_of(total):
    """Return a callback (done, total) that shows progress and stops where the user cancelled."""
    bar = comfy.utils.ProgressBar(total)

    def progress(done, _):
        bar.update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return progress
