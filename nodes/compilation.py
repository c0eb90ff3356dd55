"""A MODEL whose U-Net PyTorch has compiled, by core's own wrapper, and how it is known."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.torch_helpers import set_torch_compile_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# Where core's wrapper, and so its node TorchCompileModel, leaves its settings.
_SETTINGS = "torch_compile_kwargs"
_compiled: weakref.WeakKeyDictionary[ModelPatcher, ModelPatcher] = weakref.WeakKeyDictionary()


def is_compiled(model: ModelPatcher) -> bool:
    """Return whether a MODEL is compiled: by `compiled`, or by core's node."""
    return _SETTINGS in model.model_options


def compiled(model: ModelPatcher) -> ModelPatcher:
    """Return a clone of a MODEL whose U-Net is compiled when it is first called, the same for the same MODEL.

    Each batch size is compiled for itself, which takes from half a minute to minutes; ComfyUI's process keeps
    the result, and PyTorch's cache on the disk most of it.
    """
    if is_compiled(model):
        return model
    if model not in _compiled:
        # Weights that are streamed in cannot be compiled; newer versions of core have a patcher without.
        dynamic = getattr(model, "is_dynamic", bool)()
        clone = model.clone(disable_dynamic=True) if dynamic else model.clone()
        set_torch_compile_wrapper(
            clone, backend="inductor", dynamic=False, options={"guard_filter_fn": _lasting}
        )
        _compiled[model] = clone
    return _compiled[model]


def _lasting(guards: Sequence[Any]) -> list[bool]:
    """Leave out what core changes from call to call and a U-Net does not depend on."""
    return ["transformer_options" not in guard.name for guard in guards]
