"""MedTraverse for ComfyUI. This file only wires: ComfyUI is imported inside the entry point, so tools may
import the pack without it.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes.extension import MedTraverseExtension

    return MedTraverseExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
