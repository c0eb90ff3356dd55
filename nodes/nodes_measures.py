"""LatentDirectionCosine, LatentTSNE and IdentityPreservation: what the latents and images of a
trajectory say (Figs 4 and 5).
"""

import json

import comfy.model_management
import torch
from comfy_api.latest import io

from ..medtraverse.direction import direction_cosines
from ..medtraverse.figures.cosine_chart import cosine_figure
from ..medtraverse.figures.identity_chart import identity_figure
from ..medtraverse.figures.latent_map_chart import latent_map_figure
from ..medtraverse.identity import identity_table
from ..medtraverse.latent_map import latent_map, library_for, used_perplexity
from ..medtraverse.perceptual import ALEXNET, CHOICES, LEFT_OUT, LPIPS, perceptual_distance
from ..medtraverse.published import published_curve
from ..medtraverse.table import csv_text
from ..medtraverse.trajectory import SWAP
from ..medtraverse.weights import find_weights
from .figure_image import drawing, figure_image
from .managed import managed, progress_of
from .schema import schema
from .sockets import CATEGORY, Figure, Trajectory, checked_sockets
from .sources import fingerprint, metric_folders
from .views import map_view, preview

MORE = ("trajectory_2", "trajectory_3", "trajectory_4")


def finite(values):
    """Return a tensor as a list for JSON, which has no NaN: null in its place."""
    return [None if value != value else value for value in values.tolist()]


def row_names(trajectories):
    """Return attribute names; with their neutral in front where several trajectories would repeat one."""
    names = [name for trajectory in trajectories for name in trajectory.attributes]
    if len(set(names)) == len(names):
        return names
    return [f"{trajectory.neutral} {name}" for trajectory in trajectories for name in trajectory.attributes]


class LatentDirectionCosine(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, trajectory, published, trajectory_2=None, trajectory_3=None, trajectory_4=None):
        trajectories = [
            item for item in (trajectory, trajectory_2, trajectory_3, trajectory_4) if item is not None
        ]
        for item in trajectories:
            if item.kind != SWAP or item.points != trajectory.points:
                raise ValueError(
                    "trajectory: direction cosines need trajectories of Prompt Swap KSampler with the same "
                    "swap steps in the same order."
                )
        names, swap_steps = row_names(trajectories), [int(point) for point in trajectory.points[1:]]
        values, reference, rows = [], {}, []
        for item in trajectories:
            latents = item.gather(item.latents)
            own = row_names(trajectories)[len(values) : len(values) + len(item.attributes)]
            paper = published_curve("direction cosine", item.settings.get("domain", ""), item.neutral)
            for number, (plain, name) in enumerate(zip(item.attributes, own)):
                cosines = direction_cosines(latents[:, number, 0], latents[:, number, 1:])
                values.append(cosines)
                rows += [[name, seed, *line] for seed, line in zip(item.seeds, cosines.tolist())]
                if published and plain in paper:
                    reference[name] = paper[plain]
        colours = [colour for item in trajectories for colour in item.colours]
        patients = max(len(item) for item in values)
        stacked = torch.stack(
            [
                torch.nn.functional.pad(item, (0, 0, 0, patients - len(item)), value=float("nan"))
                for item in values
            ]
        )
        drawn = cosine_figure(stacked, swap_steps, names, colours, reference)
        figure = figure_image(drawn)
        report = json.dumps(
            {
                "swap_steps": swap_steps,
                "patients": patients,
                "mean": {name: finite(item.nanmean(0)) for name, item in zip(names, stacked)},
                "standard_deviation": {
                    name: finite((item - item.nanmean(0)).square().nanmean(0).sqrt())
                    for name, item in zip(names, stacked)
                },
            }
        )
        header = ["attribute", "seed", *map(str, swap_steps)]
        paper = [
            [name, "mean, from the paper", *(known.get(step, "") for step in swap_steps)]
            for name, known in reference.items()
        ]
        made = drawing(
            "LatentDirectionCosine", drawn, csv_text(header, rows + paper), trajectories, published=published
        )
        return io.NodeOutput(
            figure,
            csv_text(header, rows),
            report,
            made,
            ui={**preview(figure, cls), "medtraverse": (report,)},
        )


class LatentTSNE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, trajectory, perplexity, seed, thumbnails, images=None):
        steps = progress_of(100)
        coordinates = latent_map(
            trajectory.latents,
            perplexity,
            seed,
            progress=lambda done, total: steps(round(100 * done / total), 100),
        )
        places = trajectory.gather(coordinates)
        pictures = trajectory.gather(images) if images is not None and thumbnails else None
        drawn = latent_map_figure(
            places, trajectory.attributes, trajectory.colours, trajectory.points, trajectory.seeds, pictures
        )
        figure = figure_image(drawn)
        rows = [
            [trajectory.neutral, attribute, patient, point, *places[p, a, n].tolist()]
            for p, patient in enumerate(trajectory.seeds)
            for a, attribute in enumerate(trajectory.attributes)
            for n, point in enumerate(trajectory.points)
        ]
        table = csv_text(["neutral", "attribute", "seed", "point", "x", "y"], rows)
        made = drawing(
            "LatentTSNE",
            drawn,
            table,
            [trajectory],
            perplexity=perplexity,
            seed=seed,
            library=library_for(len(coordinates)),
        )
        view = map_view(trajectory, coordinates, used_perplexity(len(coordinates), perplexity), seed, images)
        return io.NodeOutput(figure, table, made, ui={**preview(figure, cls), **view})


class IdentityPreservation(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def fingerprint_inputs(cls, trajectory=None, images=None, controls=None, perceptual=CHOICES[0]):
        return json.dumps([fingerprint(find_weights(ALEXNET, metric_folders())), controls, perceptual])

    @classmethod
    @checked_sockets
    def execute(cls, trajectory, images, controls, perceptual=CHOICES[0]):
        distance = perceptual_distance(perceptual, metric_folders())
        if distance:
            patcher = managed(distance.module)
            comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        result = identity_table(
            trajectory.gather(images),
            controls,
            distance,
            progress_of(trajectory.patients),
            comfy.model_management.get_torch_device(),
        )
        header = [
            f"{measure} to {whose}" for whose in ("own neutral", "other patients") for measure in result.own
        ]
        columns = [*result.own.values(), *result.other.values()]
        rows = [
            [attribute, point, *(float(values[a, n]) for values in columns)]
            for a, attribute in enumerate(trajectory.attributes)
            for n, point in enumerate(trajectory.points)
        ]
        used = distance.name if distance else "none" if perceptual == "none" else LEFT_OUT
        table = csv_text(
            ["attribute", "point", *header, "perceptual distance"], [[*row, used] for row in rows]
        )
        report = json.dumps(
            {
                "patients": result.patients,
                "controls": result.controls,
                "points": list(trajectory.points),
                "perceptual distance": used,
                "seeds": list(trajectory.seeds),
                "settings": trajectory.settings,
                **{
                    whose: {
                        attribute: {measure: finite(values[a]) for measure, values in group.items()}
                        for a, attribute in enumerate(trajectory.attributes)
                    }
                    for whose, group in (("own neutral", result.own), ("other patients", result.other))
                },
            }
        )
        drawn = cls.draw(trajectory, result, distance)
        figure = figure_image(drawn)
        shown = {**preview(figure, cls), "text": (table,), "medtraverse": (report,)}
        made = drawing("IdentityPreservation", drawn, table, [trajectory], **{"perceptual distance": used})
        return io.NodeOutput(table, report, figure, made, ui=shown)

    @staticmethod
    def draw(trajectory, result, distance):
        """Return the figure of the perceptual distance, or of 1 − SSIM without one; a swap's
        neutral point is left out as it is 0.
        """
        first = int(trajectory.kind == SWAP)
        groups = result.own_patients, result.other_patients
        own, other = (
            (group[distance.name] if distance else 1 - group["ssim"])[..., first:] for group in groups
        )
        known = {}
        if distance and distance.name == LPIPS and trajectory.kind == SWAP:
            known = published_curve(
                "lpips to neutral", trajectory.settings.get("domain", ""), trajectory.neutral
            )
        return identity_figure(
            own,
            other,
            [int(point) for point in trajectory.points[first:]],
            trajectory.attributes,
            trajectory.colours,
            distance.name if distance else "1 − SSIM",
            trajectory.kind != SWAP,
            known,
        )
