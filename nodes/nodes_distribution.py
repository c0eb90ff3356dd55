"""DistributionDistance: FID and KID of generated images to reference images."""

import json
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..medtraverse.distribution import (
    INCEPTION,
    INCEPTION_WEIGHTS,
    Inception,
    check_sets,
    distribution_distance,
    load_inception,
)
from ..medtraverse.notice import NOTICE
from ..medtraverse.weights import find_weights
from .managed import cancellable, managed, progress_of
from .nodes_classifier import LoadedClassifier
from .schema import schema
from .sockets import CATEGORY, Classifier, checked_sockets
from .sources import fingerprint, metric_folders
from .views import shown

EXTRACTORS = ("classifier", "inception")


class LoadedInception:
    """Inception v3 inside ComfyUI's memory management, which forgets it when its patcher goes."""

    def __init__(self, inception: Inception) -> None:
        self.inception, self.patcher = inception, managed(inception.module)

    def features(
        self, images: torch.Tensor, progress: Callable[[int, int], None] | None = None
    ) -> torch.Tensor:
        """Return pooled features [N, 2048] of images [N, H, W, 3]."""
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return cancellable(lambda report: self.inception.features(images, progress=report), progress)


class DistributionDistance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="DistributionDistance",
            display_name="FID / KID",
            category=CATEGORY,
            search_aliases=["FID", "KID", "image quality"],
            description="FID and KID: how far generated images as a set lie from reference images, on a "
            "network's features.",
            inputs=[
                io.Image.Input("images", tooltip="The generated images, all patients in one batch."),
                io.Image.Input("reference_images", tooltip="The images to compare with, of the same size."),
                io.Combo.Input(
                    "extractor",
                    options=list(EXTRACTORS),
                    default=EXTRACTORS[0],
                    tooltip="Whose features: the classifier's pooled ones, or Inception v3's, if "
                    "torch-fidelity and its weights are at hand.",
                ),
                io.Int.Input(
                    "kid_subsets",
                    default=100,
                    min=1,
                    max=10000,
                    tooltip="KID is the mean over this many random subsets.",
                ),
                io.Int.Input(
                    "kid_subset_size",
                    default=50,
                    min=2,
                    max=10000,
                    tooltip="Images in a subset; at most as many as the smaller set has.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFF, tooltip="Chooses the subsets."),
                Classifier.Input(
                    "image_classifier",
                    display_name="classifier",
                    optional=True,
                    tooltip="The classifier, for extractor classifier.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Everything as JSON, the extractor's name among it.",
                ),
                io.String.Output(
                    "table", display_name="table", tooltip="FID, KID, counts and warnings as text."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        images: Any = None,
        reference_images: Any = None,
        extractor: Any = None,
        kid_subsets: Any = None,
        kid_subset_size: Any = None,
        seed: Any = None,
        image_classifier: Any = None,
    ) -> str:
        file = find_weights(INCEPTION_WEIGHTS, metric_folders()) if extractor == "inception" else None
        return json.dumps([fingerprint(file), kid_subsets, kid_subset_size, seed])

    @classmethod
    @checked_sockets
    def execute(
        cls,
        images: torch.Tensor,
        reference_images: torch.Tensor,
        extractor: str,
        kid_subsets: int,
        kid_subset_size: int,
        seed: int,
        image_classifier: LoadedClassifier | None = None,
    ) -> Any:
        check_sets(images, reference_images, kid_subsets, kid_subset_size)
        network, name, digest = cls.network(extractor, image_classifier)
        progress, count = progress_of(len(images) + len(reference_images)), len(images)
        generated = network.features(images, progress=progress)
        reference = network.features(
            reference_images, progress=lambda done, total: progress(count + done, total)
        )
        result = cancellable(
            lambda _: distribution_distance(generated, reference, kid_subsets, kid_subset_size, seed)
        )
        report = json.dumps(
            {**result.report(), "extractor": name, "extractor_sha256": digest, "notice": NOTICE}
        )
        table = result.table(f"{name} (sha256 {digest})" if digest else name)
        return io.NodeOutput(report, table, ui=shown(cls, text=table, report=report))

    @staticmethod
    def network(
        extractor: str, image_classifier: LoadedClassifier | None
    ) -> tuple[LoadedClassifier | LoadedInception, str, str | None]:
        """Return what computes features, its name, and the SHA-256 of a classifier's file."""
        if extractor not in EXTRACTORS:
            raise ValueError(f"extractor: {extractor!r} is unknown; choose {' or '.join(EXTRACTORS)}.")
        if extractor == "classifier":
            if image_classifier is None:
                raise ValueError(
                    "image_classifier: none is wired; wire Load Medical Classifier, or choose the extractor "
                    "inception."
                )
            return image_classifier, f"classifier {image_classifier.name}", image_classifier.classifier.sha256
        inception = LoadedInception(load_inception(metric_folders()))
        return inception, INCEPTION, None
