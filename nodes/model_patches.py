"""Patches on a MODEL that a traversal cannot carry, refused by name.

In a traversal a batch holds some rows of several patients, cut as memory allows. A patch is right there if
each row's output depends on that row alone, which holds for nearly all of ComfyUI's. Those below mix rows,
remember rows by their place, skip steps, or draw at random in every call.
"""

import inspect
from typing import Any

# The first part of the qualified name of a patch's function: the node's title, and why it is refused.
REFUSED = {
    "SelfAttentionGuidance": (
        "Self-Attention Guidance",
        "it keeps one U-Net call's attention, which here holds some of the rows only",
    ),
    "EasyCacheHolder": (
        "EasyCache",
        "it reuses the previous call's outputs by their place in the batch, which here are other rows",
    ),
    "LazyCacheHolder": (
        "LazyCache",
        "it skips whole steps, so that a prompt would be swapped later than λ says",
    ),
    "Mahiro": ("Mahiro", "it averages over the batch, so that a patient would depend on those beside it"),
    "RenormCFG": ("RenormCFG", "it compares the norm of one latent alone"),
    "VideoLinearCFGGuidance": (
        "VideoLinearCFGGuidance",
        "it takes rows for frames of a video, each with a guidance of its own",
    ),
    "VideoTriangleCFGGuidance": (
        "VideoTriangleCFGGuidance",
        "it takes rows for frames of a video, each with a guidance of its own",
    ),
    "TemporalScoreRescaling": ("Temporal Score Rescaling", "it reads the σ of one latent alone"),
    "TomePatchModel": ("ToMe", "it merges tokens at random, anew in every call"),
    "NAGuidance": (
        "Normalized Attention Guidance",
        "it needs both prompts in one U-Net call, which a shared unconditional half does not have",
    ),
    "IndexListContextHandler": ("Context Windows", "they take rows for frames of a video"),
}


def refuse_patches(model: Any) -> None:
    """Raises ValueError for a MODEL with a patch that a traversal cannot carry."""
    names = [_owner(function) for function in _functions(model.model_options)]
    names += [type(holder).__name__ for holder in _holders(model.model_options)]
    for name in names:
        if name in REFUSED:
            title, reason = REFUSED[name]
            raise ValueError(
                f"model: {title} cannot be used in a traversal, because {reason}; remove that patch."
            )
    for function in _functions(model.model_options):
        if (
            _owner(function) == "HyperTile"
            and inspect.getclosurevars(function).nonlocals.get("swap_size", 0) > 2
        ):
            raise ValueError(
                "model: HyperTile with a swap_size over 2 draws its tiles at random in every call; set it "
                "to 2 or less."
            )


def _owner(function: Any) -> str:
    """Return the class of the node in whose method a function was made."""
    return getattr(function, "__qualname__", "").split(".")[0]


def _functions(options: dict[str, Any]) -> list[Any]:
    """Return the functions that a MODEL's options hold, those on attention included."""
    lists = [options.get(f"sampler_{when}_cfg_function", ()) for when in ("pre", "post")]
    lists += options.get("transformer_options", {}).get("patches", {}).values()
    return [options.get("sampler_cfg_function"), *(function for functions in lists for function in functions)]


def _holders(options: dict[str, Any]) -> list[Any]:
    """Return the objects that keep the state of a patch."""
    return [options.get("context_handler"), options.get("transformer_options", {}).get("easycache")]
