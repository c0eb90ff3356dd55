"""LatentDirectionCosine, LatentTSNE and IdentityPreservation: what the latents and images of a
trajectory say (Figs 4 and 5).
"""

import json
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..medtraverse import trajectory as bundle
from ..medtraverse.direction import measure_directions
from ..medtraverse.identity import measure_identity
from ..medtraverse.latent_map import map_trajectory
from ..medtraverse.perceptual import ALEXNET, CHOICES, perceptual_distance
from ..medtraverse.weights import find_weights
from .figure_image import drawing, figure_image
from .managed import cancellable, managed, percent_progress, progress_of
from .schema import schema
from .sockets import CATEGORY, Figure, Trajectory, checked_sockets
from .sources import fingerprint, metric_folders
from .views import map_view, shown

MORE = ("trajectory_2", "trajectory_3", "trajectory_4")


class LatentDirectionCosine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="LatentDirectionCosine",
            display_name="Latent Direction Cosine",
            category=CATEGORY,
            search_aliases=["disentanglement", "latent direction", "cosine similarity"],
            description="Cosine between the direction from neutral to λ and that to the largest λ: how far "
            "the trajectory bends (Fig. 5).",
            inputs=[
                Trajectory.Input("trajectory", tooltip="Trajectory of Prompt Swap KSampler."),
                io.Boolean.Input(
                    "published",
                    default=True,
                    tooltip="Draw the paper's values, dashed, where there are any for the domain.",
                ),
                *(
                    Trajectory.Input(
                        name, optional=True, tooltip="A further trajectory with the same swap steps."
                    )
                    for name in MORE
                ),
            ],
            outputs=[
                io.Image.Output(
                    "figure",
                    display_name="figure",
                    tooltip="Mean over patients per attribute, with one standard deviation.",
                ),
                io.String.Output(
                    "cosines_csv",
                    display_name="cosines_csv",
                    tooltip="Cosine of every patient, attribute and λ, as CSV.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Means and standard deviations as JSON."
                ),
                Figure.Output(
                    "drawing",
                    display_name="drawing",
                    tooltip="The figure for Save Figure, with its numbers and the paper's.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        trajectory: bundle.Trajectory,
        published: bool,
        trajectory_2: bundle.Trajectory | None = None,
        trajectory_3: bundle.Trajectory | None = None,
        trajectory_4: bundle.Trajectory | None = None,
    ) -> Any:
        trajectories = [trajectory, *filter(None, (trajectory_2, trajectory_3, trajectory_4))]
        result = cancellable(lambda _: measure_directions(trajectories, published))
        drawn, report = result.figure(), json.dumps(result.report())
        figure = figure_image(drawn)
        made = drawing(
            "LatentDirectionCosine", drawn, result.csv_with_published, trajectories, published=published
        )
        return io.NodeOutput(figure, result.csv, report, made, ui=shown(cls, figure, report=report))


class LatentTSNE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="LatentTSNE",
            display_name="Latent t-SNE",
            category=CATEGORY,
            search_aliases=["t-SNE", "latent map", "embedding plot", "disentanglement"],
            description="t-SNE of final latents; each trajectory is joined from neutral to its smallest λ "
            "(Fig. 4).",
            inputs=[
                Trajectory.Input(
                    "trajectory", tooltip="Trajectory of Prompt Swap KSampler, or curve frames."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Its images, for thumbnails: VAE Decode of the LATENT beside it.",
                ),
                io.Float.Input(
                    "perplexity",
                    default=0.0,
                    min=0.0,
                    max=500.0,
                    step=0.5,
                    tooltip="Effective number of neighbours, below the number of latents. 0 chooses it; the "
                    "paper used 2 for 20 points.",
                ),
                io.Int.Input(
                    "seed",
                    default=500,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Random state of t-SNE. The paper: 500.",
                ),
                io.Boolean.Input(
                    "thumbnails",
                    default=True,
                    tooltip="Draw images beside the ends of each trajectory, when images are wired.",
                ),
            ],
            outputs=[
                io.Image.Output("figure", display_name="figure", tooltip="The map."),
                io.String.Output(
                    "coordinates_csv",
                    display_name="coordinates_csv",
                    tooltip="Coordinates of every latent, as CSV.",
                ),
                Figure.Output(
                    "drawing",
                    display_name="drawing",
                    tooltip="The map for Save Figure, with its coordinates.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        trajectory: bundle.Trajectory,
        perplexity: float,
        seed: int,
        thumbnails: bool,
        images: torch.Tensor | None = None,
    ) -> Any:
        result = map_trajectory(trajectory, perplexity, seed, percent_progress())
        drawn = cancellable(lambda _: result.figure(images if thumbnails else None))
        figure, table = figure_image(drawn), result.csv
        made = drawing(
            "LatentTSNE",
            drawn,
            table,
            [trajectory],
            perplexity=perplexity,
            seed=seed,
            library=result.library,
        )
        view = map_view(trajectory, result.coordinates, result.perplexity, seed, images)
        return io.NodeOutput(figure, table, made, ui=shown(cls, figure, view=view))


class IdentityPreservation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="IdentityPreservation",
            display_name="Identity Preservation",
            category=CATEGORY,
            search_aliases=["LPIPS", "SSIM", "patient identity", "similarity"],
            description="SSIM, MSE, correlation and LPIPS (or ST-LPIPS) of every point's image to the "
            "patient's own neutral, beside those to other patients'.",
            inputs=[
                Trajectory.Input(
                    "trajectory",
                    tooltip="The trajectory, or its curve frames, that the images were decoded from.",
                ),
                io.Image.Input(
                    "images", tooltip="Its images: VAE Decode of the LATENT beside it, in the same order."
                ),
                io.Int.Input(
                    "controls",
                    default=4,
                    min=1,
                    max=100,
                    tooltip="With how many other patients each image is compared.",
                ),
                io.Combo.Input(
                    "perceptual",
                    options=list(CHOICES),
                    default=CHOICES[0],
                    optional=True,
                    tooltip="Perceptual distance. auto: LPIPS if its AlexNet weights are at hand, else "
                    "ST-LPIPS, else none. Nothing is downloaded.",
                ),
            ],
            outputs=[
                io.String.Output("table", display_name="table", tooltip="Per attribute and point, as CSV."),
                io.String.Output("report", display_name="report", tooltip="The same as JSON."),
                io.Image.Output(
                    "figure",
                    display_name="figure",
                    tooltip="Perceptual distance (1 − SSIM without one) to the own neutral, beside other "
                    "patients'.",
                ),
                Figure.Output(
                    "drawing", display_name="drawing", tooltip="The figure for Save Figure, with its numbers."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls, trajectory: Any = None, images: Any = None, controls: Any = None, perceptual: Any = CHOICES[0]
    ) -> str:
        return json.dumps([fingerprint(find_weights(ALEXNET, metric_folders())), controls, perceptual])

    @classmethod
    @checked_sockets
    def execute(
        cls,
        trajectory: bundle.Trajectory,
        images: torch.Tensor,
        controls: int,
        perceptual: str = CHOICES[0],
    ) -> Any:
        distance = perceptual_distance(perceptual, metric_folders())
        if distance:
            patcher = managed(distance.module)
            comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        device = comfy.model_management.get_torch_device()
        wanted = perceptual != "none"
        result = cancellable(
            lambda report: measure_identity(trajectory, images, controls, distance, wanted, report, device),
            progress_of(trajectory.patients),
        )
        drawn, table, report = result.figure(), result.csv, json.dumps(result.report())
        figure = figure_image(drawn)
        used = {"perceptual distance": result.perceptual}
        made = drawing("IdentityPreservation", drawn, table, [trajectory], **used)
        return io.NodeOutput(table, report, figure, made, ui=shown(cls, figure, table, report))
