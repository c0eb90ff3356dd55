"""Node schemas for every version of ComfyUI that the pack runs on."""

import dataclasses
from typing import Any

from comfy_api.latest import io

# Fields that ComfyUI 0.3.75 does not have yet; nothing but comfort is lost without them.
NEWER = ("search_aliases", "essentials_category", "has_intermediate_output")


def schema(**fields: Any) -> Any:
    """Return ``io.Schema`` of the fields, without those of ``NEWER`` that this version does not know."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known or name not in NEWER})
