"""ProjectToLatent: a real image as a patient, from which trajectories start in place of noise (Fig. 1)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..medtraverse import familiarity, projection
from ..medtraverse.notice import NOTICE
from . import sources
from .evaluation_cache import fingerprint
from .managed import progress_of
from .model_building import origin
from .probe import model_errors
from .schema import schema
from .sockets import CATEGORY, Classifier, Start, checked_sockets
from .views import shown

MOST_SEED = 0xFFFFFFFFFFFFFFFF - 100000
AT_ONCE = 16


class ProjectToLatent(io.ComfyNode):
    """Fig. 1 of TehraniNasab, Kumar, Arbel 2025 begins at an image that was projected onto the latents.

    How is told in ``medtraverse/projection.py``. The node encodes; the sampler draws the path.
    """

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="ProjectToLatent",
            display_name="Project to Latent",
            category=CATEGORY,
            search_aliases=["inversion", "real image", "DDIM inversion", "counterfactual", "img2img"],
            essentials_category="Medical",
            description="Makes each image a patient from whom Prompt Swap KSampler starts in place of noise, "
            "and says how well the model knows such images.",
            inputs=[
                io.Model.Input("model", tooltip="The fine-tuned model that will traverse."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Image.Input("images", tooltip="One image a patient, at the model's size."),
                io.Conditioning.Input(
                    "neutral",
                    tooltip="Prompt of the images as they are, the same that Prompt Swap KSampler gets as "
                    "neutral. Of a film with an effusion: the effusion's.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(projection.METHODS),
                    default=projection.OWN_NOISE,
                    tooltip="Path from noise to the image. Own noise at each step moves anatomy least; one "
                    "noise draws what the first does not, such as hair.",
                ),
                io.Int.Input(
                    "seed",
                    default=1500,
                    min=0,
                    max=MOST_SEED,
                    control_after_generate=True,
                    tooltip="Seed of the first image's path; the next images have the next seeds.",
                ),
                io.Boolean.Input(
                    "automatic_region",
                    default=False,
                    tooltip="Keeps each branch, in the end, to where its latent has clearly changed; the "
                    "rest stays the image. Costs nothing.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the image may change, such as painted in the mask editor; one for all "
                    "images, or one each. An empty mask leaves the whole image free.",
                ),
                Classifier.Input(
                    "image_classifier",
                    optional=True,
                    tooltip="Its doubt about the images is told too.",
                ),
            ],
            outputs=[
                Start.Output(
                    "start", display_name="start", tooltip="The patients, for start of Prompt Swap KSampler."
                ),
                io.Image.Output(
                    "round_trip",
                    display_name="images",
                    tooltip="The images as the VAE gives them back: the neutral images of the trajectories.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="PSNR of the VAE's round trip, latent norm, the model's error and the "
                    "classifier's doubt of each image, as JSON.",
                ),
            ],
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        model: Any,
        vae: Any,
        images: torch.Tensor,
        neutral: Any,
        method: str,
        seed: int,
        automatic_region: bool,
        mask: torch.Tensor | None = None,
        image_classifier: Any = None,
    ) -> Any:
        if method not in projection.METHODS:
            raise ValueError(
                f"method: there is no {method!r}; the choices are {', '.join(projection.METHODS)}."
            )
        images = checked_images(images, model, vae)
        free = checked_mask(mask, images)
        seeds = tuple(range(seed, seed + len(images)))
        latents, decoded = round_trip(vae, images)
        latent_format = model.get_model_object("latent_format")
        scaled = latent_format.process_in(latents)
        values = {
            "round_trip": familiarity.psnr(decoded, images).tolist(),
            "latent_norm": familiarity.latent_norm(scaled).tolist(),
        }
        error = model_errors(model, neutral, scaled, seeds)
        if error is not None:
            values["model_error"] = error.tolist()
        if image_classifier is not None:
            values["doubt"] = familiarity.doubt(image_classifier.predict(images)).tolist()
        known = known_images(model, image_classifier)
        far = familiarity.sentences(values, known)
        start = projection.Start(
            latents,
            seeds,
            method,
            None if free is None else projection.latent_mask(free, latents.shape[2:]),
            automatic_region,
            fingerprint(neutral),
        )
        report = {
            "images": [
                {"seed": each, **{name: finite(rows[n]) for name, rows in values.items()}, "far": far[n]}
                for n, each in enumerate(seeds)
            ],
            "known_images": known,
            "model": model_name(model),
            "classifier": None if image_classifier is None else image_classifier.classifier.sha256,
            "quantiles": list(familiarity.QUANTILES),
            "empty_mask": mask is not None and free is None,
            **start.describe(),
            "notice": NOTICE,
        }
        text = told(values, far, known, report["empty_mask"])
        return io.NodeOutput(
            start, decoded, json.dumps(report), ui=shown(cls, text=text, report=json.dumps(report))
        )


def checked_images(images: torch.Tensor, model: Any, vae: Any) -> torch.Tensor:
    """Return images [N, H, W, 3] that the VAE takes. Raises ValueError for sizes and VAEs that do not fit."""
    height, width = images.shape[1:3]
    if width % 8 or height % 8:
        raise ValueError(
            f"images: {width}×{height} cannot be used; give multiples of 8 (512 for the paper's models)."
        )
    channels = model.get_model_object("latent_format").latent_channels
    own = getattr(vae, "latent_channels", channels)
    if own != channels:
        raise ValueError(
            f"vae: its latents have {own} channels, the model's {channels}; wire the VAE of this model."
        )
    if not torch.isfinite(images).all():
        raise ValueError("images: some values are no numbers; wire images as a loader gives them.")
    return images.expand(-1, -1, -1, 3) if images.shape[-1] == 1 else images[..., :3]


def checked_mask(mask: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor | None:
    """Return a mask [1 or N, H, W]; None for none, or one in which nothing is painted."""
    if mask is None:
        return None
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len(mask) not in (1, len(images)):
        raise ValueError(
            f"mask: there are {len(mask)} for {len(images)} images; give one for all, or one for each."
        )
    return mask if mask.max() > 0 else None


def round_trip(vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents [N, C, h, w] of images, and the images as the VAE gives them back, on the CPU."""
    latents: list[torch.Tensor] = []
    decoded: list[torch.Tensor] = []
    progress = progress_of(len(images))
    for part in images.split(AT_ONCE):
        latents.append(vae.encode(part).float().cpu())
        decoded.append(vae.decode(latents[-1]).float().cpu())
        progress(sum(map(len, latents)), len(images))
        comfy.model_management.throw_exception_if_processing_interrupted()
    return torch.cat(latents), torch.cat(decoded).clamp(0, 1)


def known_images(model: Any, image_classifier: Any) -> dict[str, list[float]] | None:
    """Return the quantiles of images that a model knows; None where nothing is stored with its weights.

    A classifier's doubt is compared where the quantiles are that classifier's.
    """
    loaded = origin(model)
    if loaded is None:
        return None
    path = sources.known_images_path(loaded["checkpoint"], loaded["unet"])
    if path is None:
        return None
    known, judge = familiarity.read_known(path)
    if image_classifier is None or image_classifier.classifier.sha256 not in judge:
        known.pop("doubt", None)
    return known


def model_name(model: Any) -> str | None:
    """Return the files that a model was loaded from; None where it came from elsewhere."""
    loaded = origin(model)
    return None if loaded is None else " + ".join(filter(None, (loaded["checkpoint"], loaded["unet"])))


def finite(value: float) -> float | None:
    """Return a number for JSON, which has no ∞: None in its place."""
    return round(value, 6) if abs(value) < float("inf") else None


def told(
    values: Mapping[str, Sequence[float]],
    far: Sequence[str],
    known: Mapping[str, Any] | None,
    empty_mask: bool,
) -> str:
    """Return the lines on the node, of which the first are seen at once: what is far, then the figures."""
    lines = [f"{sentence[0].upper()}{sentence[1:]}" for sentence in far if sentence]
    if known is None:
        lines.append("Nothing is stored of the images that this model knows.")
    elif not any(far):
        lines.append("As images that this model knows.")
    if empty_mask:
        lines.append("The mask is empty: the whole image may change.")
    figures = []
    for name, measure in familiarity.MEASURES.items():
        if name in values:
            low, high = (familiarity.told(end(values[name]), measure.unit) for end in (min, max))
            figures.append(f"{measure.name} {low if low == high else f'{low} … {high}'}")
    return "\n".join([*lines, "; ".join(figures)])
