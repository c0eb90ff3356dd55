"""BezierLatentInterpolate joins latents by a curve (Fig. 6); TrajectorySelect keeps some of a trajectory."""

from typing import Any

import torch
from comfy_api.latest import io

from ..medtraverse.curve import METHODS, SPACINGS, interpolate
from ..medtraverse.predictions import far_points
from ..medtraverse.trajectory import SWAP, Trajectory, control_points
from .managed import cancellable
from .schema import schema
from .sockets import CATEGORY, checked_sockets
from .sockets import Trajectory as TrajectorySocket
from .views import latent_view


class BezierLatentInterpolate(io.ComfyNode):
    """Latents joined by a Bézier curve through control points: Fig. 6 of TehraniNasab, Kumar, Arbel 2025."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="BezierLatentInterpolate",
            display_name="Bézier Latent Interpolate",
            category=CATEGORY,
            search_aliases=["interpolate latents", "slerp", "morph", "latent curve"],
            has_intermediate_output=True,
            description=(
                "One curve per patient and attribute through neutral, λ=45 … 5. The paper's is a Bézier "
                "curve of degree 9 with 50 frames."
            ),
            inputs=[
                io.MultiType.Input(
                    "source",
                    types=[TrajectorySocket, io.Latent],
                    tooltip="A trajectory, or a LATENT batch whose entries are the control points in order.",
                ),
                io.Int.Input(
                    "frames",
                    default=50,
                    min=2,
                    max=10000,
                    tooltip="Frames per curve, both ends included. The paper: 50.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="bezier",
                    tooltip=(
                        "bezier is the paper's and touches only the ends; linear, slerp and catmull-rom "
                        "pass through every point."
                    ),
                ),
                io.Combo.Input(
                    "spacing",
                    options=list(SPACINGS),
                    default="parameter",
                    tooltip=(
                        "parameter: evenly in the curve's parameter, as in the paper. arc length: frames "
                        "equally far apart."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="Frames: per patient, per attribute, from neutral to the smallest λ.",
                ),
                TrajectorySocket.Output(
                    "trajectory",
                    display_name="trajectory",
                    tooltip="The same frames with seeds, attributes and settings.",
                ),
            ],
        )

    @classmethod
    @checked_sockets
    def execute(cls, source: Trajectory | dict[str, Any], frames: int, method: str, spacing: str) -> Any:
        if isinstance(source, Trajectory):
            if source.kind != SWAP:
                raise ValueError(
                    "source: these are frames of a curve already; wire the trajectory of Prompt Swap "
                    "KSampler."
                )
            trajectory, kept = source, {}
        else:
            trajectory, kept = (
                control_points(source["samples"].cpu()),
                {k: v for k, v in source.items() if k not in ("samples", "noise_mask", "batch_index")},
            )
        points = trajectory.gather(trajectory.latents)
        curves = cancellable(
            lambda _: torch.stack(
                [
                    torch.stack([interpolate(attribute, frames, method, spacing) for attribute in patient])
                    for patient in points
                ]
            )
        )
        curve = trajectory.curve(curves, {"frames": frames, "method": method, "spacing": spacing})
        return io.NodeOutput({**kept, "samples": curve.latents}, curve, ui=latent_view(curve))


class TrajectorySelect(io.ComfyNode):
    """Some patients, attributes and points of a trajectory."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="TrajectorySelect",
            display_name="Trajectory Select",
            category=CATEGORY,
            search_aliases=["pick patients", "latent from batch"],
            description=(
                "Keeps some patients, attributes and points of a trajectory, so that only those are decoded "
                "and judged."
            ),
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="A trajectory, or curve frames."),
                io.Int.Input(
                    "patients",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="How many patients to keep, the first ones; 0 keeps all.",
                ),
                io.String.Input(
                    "attributes", default="", tooltip="Attributes to keep, comma-separated; empty keeps all."
                ),
                io.String.Input(
                    "points",
                    default="",
                    tooltip=(
                        "Swap steps or frames to keep, such as 5,10,15 or 30-49, beside the neutral; empty "
                        "keeps all."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="Latents of what is kept."),
                TrajectorySocket.Output(
                    "selection",
                    display_name="trajectory",
                    tooltip="What is kept, for the nodes that take its images.",
                ),
            ],
        )

    @classmethod
    @checked_sockets
    def execute(cls, trajectory: Trajectory, patients: int, attributes: str, points: str) -> Any:
        names = [name.strip() for name in attributes.split(",") if name.strip()]
        chosen = far_points(points, trajectory.points[1:]) if points.strip() else None
        kept = trajectory.select(patients or None, names or None, chosen)
        return io.NodeOutput({"samples": kept.latents}, kept)
