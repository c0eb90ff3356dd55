"""The list of the pack's nodes."""

from comfy_api.latest import ComfyExtension, io

from .nodes_classifier import CFRTEvaluator, MedicalClassifierLoader
from .nodes_counterfactual import MinimalCounterfactual
from .nodes_curve import BezierLatentInterpolate, TrajectorySelect
from .nodes_distribution import DistributionDistance
from .nodes_loader import MedicalCheckpointLoader
from .nodes_measures import IdentityPreservation, LatentDirectionCosine, LatentTSNE
from .nodes_medical_image import LoadMedicalImage, SaveMedicalImage
from .nodes_pictures import TrajectoryFilm, TrajectoryGrid
from .nodes_projection import ProjectToLatent
from .nodes_prompts import AttributeConditioning, MedicalAttributePrompts
from .nodes_sampler import PromptSwapKSampler
from .nodes_save_figure import SaveTraversalFigure
from .nodes_study import MedicalStudy

NODES = [
    MedicalCheckpointLoader,
    MedicalAttributePrompts,
    AttributeConditioning,
    ProjectToLatent,
    PromptSwapKSampler,
    MinimalCounterfactual,
    BezierLatentInterpolate,
    TrajectorySelect,
    MedicalClassifierLoader,
    CFRTEvaluator,
    LatentTSNE,
    LatentDirectionCosine,
    IdentityPreservation,
    DistributionDistance,
    MedicalStudy,
    TrajectoryGrid,
    TrajectoryFilm,
    SaveTraversalFigure,
    LoadMedicalImage,
    SaveMedicalImage,
]


class MedTraverseExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
