"""The list of the pack's nodes."""

from comfy_api.latest import ComfyExtension

from .classifier import CFRTEvaluator, MedicalClassifierLoader
from .curve import BezierLatentInterpolate, TrajectorySelect
from .loader import MedicalCheckpointLoader
from .measures import IdentityPreservation, LatentDirectionCosine, LatentTSNE
from .pictures import TrajectoryFilm, TrajectoryGrid
from .prompts import AttributeConditioning, MedicalAttributePrompts
from .sampler import PromptSwapKSampler
from .save_figure import SaveTraversalFigure

NODES = [
    MedicalCheckpointLoader,
    MedicalAttributePrompts,
    AttributeConditioning,
    PromptSwapKSampler,
    BezierLatentInterpolate,
    TrajectorySelect,
    MedicalClassifierLoader,
    CFRTEvaluator,
    LatentTSNE,
    LatentDirectionCosine,
    IdentityPreservation,
    TrajectoryGrid,
    TrajectoryFilm,
    SaveTraversalFigure,
]


class MedTraverseExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES
