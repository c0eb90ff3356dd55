"""The list of the pack's nodes."""

from comfy_api.latest import ComfyExtension

from .loader import MedicalCheckpointLoader
from .prompts import AttributeConditioning, MedicalAttributePrompts
from .sampler import PromptSwapKSampler

NODES = [
    MedicalCheckpointLoader,
    MedicalAttributePrompts,
    AttributeConditioning,
    PromptSwapKSampler,
]


class MedTraverseExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES
