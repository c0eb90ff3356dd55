"""TrajectoryGrid and TrajectoryFilm: the images of a trajectory side by side, and in
motion (Figs 1, 3 and 6).
"""

from typing import Any

import torch
from comfy_api.latest import io

from ..medtraverse import trajectory as bundle
from ..medtraverse.figures.film import film
from ..medtraverse.figures.grid import grid_table, strip, strip_frames, trajectory_grid
from ..medtraverse.trajectory import CURVE
from .figure_image import drawing, figure_image
from .managed import cancellable
from .schema import schema
from .sockets import CATEGORY, Figure, Trajectory, checked_sockets
from .views import shown, trajectory_view

IMAGES = "Its images: VAE Decode of the LATENT beside it, in the same order."


def first_patients(
    trajectory: bundle.Trajectory, images: torch.Tensor, max_patients: int
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return images [P, A, N, H, W, 3] and seeds of the first patients."""
    trajectory.check_rows(images)
    # the index is cut, not the images: gathered for all patients they would be copied twice
    index = trajectory.index[:max_patients].to(images.device)
    return images[index], trajectory.seeds[:max_patients]


class TrajectoryGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="TrajectoryGrid",
            display_name="Trajectory Grid",
            category=CATEGORY,
            search_aliases=["figure", "image grid", "counterfactual figure", "contact sheet"],
            essentials_category="Medical",
            description="Rows are patients and attributes, columns neutral and λ = 45 … 5, or frames of a "
            "curve.",
            inputs=[
                Trajectory.Input(
                    "trajectory",
                    tooltip="The trajectory, or its curve frames, that the images were decoded from.",
                ),
                io.Image.Input("images", tooltip=IMAGES),
                io.Int.Input(
                    "max_patients",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="How many patients to show, the first ones.",
                ),
                io.Int.Input(
                    "frames_shown",
                    default=10,
                    min=2,
                    max=1000,
                    tooltip="For a curve: how many frames to show, evenly chosen, both ends included.",
                ),
                io.String.Input("title", default="", tooltip="Title above the grid."),
                io.Int.Input(
                    "dpi",
                    default=100,
                    min=30,
                    max=600,
                    tooltip="Dots per inch. At 100 a 128-pixel image is shown pixel for pixel; 300 for "
                    "print.",
                ),
            ],
            outputs=[
                io.Image.Output("figure", display_name="figure", tooltip="The grid as an image."),
                Figure.Output(
                    "drawing",
                    display_name="drawing",
                    tooltip="The grid for Save Figure, with a table of its cells.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        trajectory: bundle.Trajectory,
        images: torch.Tensor,
        max_patients: int,
        frames_shown: int,
        title: str,
        dpi: int,
    ) -> Any:
        pictures, seeds = cancellable(lambda _: first_patients(trajectory, images, max_patients))
        if trajectory.kind == CURVE:
            count = min(frames_shown, pictures.shape[2])
            figure = cancellable(
                lambda _: strip(
                    pictures,
                    trajectory.attributes,
                    trajectory.colours,
                    trajectory.points,
                    seeds,
                    count,
                    title,
                )
            )
            frames = strip_frames(pictures.shape[2], count)
            points = ("neutral", *(trajectory.points[n] for n in frames[1:]))
        else:
            figure = cancellable(
                lambda _: trajectory_grid(
                    pictures, trajectory.attributes, trajectory.colours, trajectory.points, seeds, title
                )
            )
            points = trajectory.points
        image, table = figure_image(figure, dpi), grid_table(trajectory.attributes, points, seeds)
        made = drawing("TrajectoryGrid", figure, table, [trajectory], max_patients=max_patients, title=title)
        return io.NodeOutput(image, made, ui=shown(cls, image, view=trajectory_view(trajectory, images)))


class TrajectoryFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="TrajectoryFilm",
            display_name="Trajectory Film",
            category=CATEGORY,
            search_aliases=["animation", "video frames", "morph"],
            description="Pictures for a video: per frame of the curve, each patient's neutral image and "
            "every attribute beside it.",
            inputs=[
                Trajectory.Input("trajectory", tooltip="Curve frames from Bézier Latent Interpolate."),
                io.Image.Input("images", tooltip=IMAGES),
                io.Int.Input(
                    "max_patients",
                    default=2,
                    min=1,
                    max=100,
                    tooltip="How many patients to show, the first ones.",
                ),
                io.Boolean.Input(
                    "there_and_back", default=True, tooltip="Play to the end and back to neutral."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "frames", display_name="frames", tooltip="One picture per frame, for Create Video."
                )
            ],
        )

    @classmethod
    @checked_sockets
    def execute(
        cls, trajectory: bundle.Trajectory, images: torch.Tensor, max_patients: int, there_and_back: bool
    ) -> Any:
        pictures, seeds = cancellable(lambda _: first_patients(trajectory, images, max_patients))
        frames = torch.from_numpy(
            cancellable(lambda _: film(pictures, trajectory.attributes, trajectory.colours, seeds))
        )
        played = torch.cat([frames, frames.flip(0)[1:]]) if there_and_back else frames
        # The film has no viewer; by its images the curve's own viewer shows pictures instead of latents.
        return io.NodeOutput(played, ui=trajectory_view(trajectory, images))
