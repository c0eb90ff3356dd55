"""MedTraverse for ComfyUI. This file only wires.

ComfyUI is imported inside the entry point, so that tools may import the pack without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes.extension import MedTraverseExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> MedTraverseExtension:
    """Return the pack's extension, which lists its nodes."""
    from .nodes.between_prompts import serve_decoded_images
    from .nodes.extension import MedTraverseExtension
    from .nodes.medical_preview import serve_previews

    serve_previews()
    serve_decoded_images()
    return MedTraverseExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
