"""MedicalClassifierLoader and CFRTEvaluator: judge the images of a trajectory with an image classifier."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..medtraverse import classifier as judging
from ..medtraverse import trajectory as bundle
from ..medtraverse.classifiers.chosen_labels import parse_labels
from ..medtraverse.classifiers.judge import ACTIVATIONS
from ..medtraverse.classifiers.self_check import has_colour
from ..medtraverse.evaluation import evaluate
from ..medtraverse.flip_rate import THRESHOLD
from . import sources
from .figure_image import drawing, figure_image
from .live import say
from .managed import cancellable, managed, progress_of
from .schema import schema
from .sockets import CATEGORY, Classifier, Figure, Trajectory, checked_sockets
from .views import cfrt_view, shown

NONE, AUTO = "none", "auto"
# What loaders with these settings judge, so that their files are not read twice.
_LABELS: dict[str, tuple[str, ...]] = {}


class LoadedClassifier:
    """A classifier inside ComfyUI's memory management."""

    def __init__(self, classifier: judging.Classifier, name: str) -> None:
        self.classifier, self.name = classifier, name
        self.patchers = [managed(classifier.module)]

    def with_others(self, others: LoadedClassifier) -> LoadedClassifier:
        """Return both as one, each network still under the one patcher that moves it."""
        joined = LoadedClassifier(
            self.classifier.with_others(others.classifier), f"{self.name} + {others.name}"
        )
        joined.patchers = [*self.patchers, *others.patchers]
        return joined

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities [N, labels] of images [N, H, W, 3]; shows progress and can be cancelled."""
        self.load(images)
        return cancellable(
            lambda report: self.classifier.predict(images, progress=report), progress_of(len(images))
        )

    def features(
        self, images: torch.Tensor, progress: Callable[[int, int], None] | None = None
    ) -> torch.Tensor:
        """Return pooled features [N, C] of images [N, H, W, 3]; as predict else."""
        self.load(images)
        return cancellable(lambda report: self.classifier.features(images, progress=report), progress)

    def load(self, images: torch.Tensor) -> None:
        """Put the networks on the device, with room to judge images."""
        comfy.model_management.load_models_gpu(
            self.patchers, memory_required=self.classifier.memory(len(images)), force_full_load=True
        )


class MedicalClassifierLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        names = list(sources.classifier_paths())
        return schema(
            node_id="MedicalClassifierLoader",
            display_name="Load Medical Classifier",
            category=CATEGORY,
            search_aliases=["EfficientNet", "chest X-ray classifier", "torchxrayvision", "CLIP zero-shot"],
            essentials_category="Medical",
            description="Loads an image classifier from models/classifiers: the paper's EfficientNets, a "
            "folder of transformers, timm or CLIP, or weights of torchvision or torchxrayvision.",
            inputs=[
                io.Combo.Input(
                    "classifier",
                    options=names,
                    default=names[0],
                    tooltip="The classifier. Those that ship judge the demo model's images.",
                ),
                io.Combo.Input(
                    "second_classifier",
                    options=[NONE, *names],
                    default=NONE,
                    tooltip="A further one for other attributes, as the paper's pair for support devices "
                    "and pleural effusion.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    tooltip="Empty takes the file's. Else all names in order, or only those wanted, as "
                    "label = logit. For CLIP, label = prompt.",
                ),
                io.Int.Input(
                    "input_size",
                    default=0,
                    min=0,
                    max=2048,
                    tooltip="Image side for the classifier in pixels; 0 takes the file's (512 for the "
                    "paper's).",
                ),
                io.Combo.Input(
                    "activation",
                    options=[AUTO, *ACTIVATIONS],
                    default=AUTO,
                    optional=True,
                    tooltip="sigmoid: several labels may be present at once. softmax: exactly one is. auto "
                    "takes what the file says.",
                ),
                Classifier.Input(
                    "others",
                    optional=True,
                    tooltip="A classifier from another of these nodes; this one's labels are put before its.",
                ),
            ],
            outputs=[
                Classifier.Output(
                    "image_classifier", display_name="classifier", tooltip="The classifier, for CFRT."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        classifier: Any,
        second_classifier: Any = NONE,
        labels: Any = "",
        input_size: Any = 0,
        activation: Any = AUTO,
        others: Any = None,
    ) -> str:
        paths = sources.classifier_paths()
        files = sources.fingerprint(paths.get(classifier), paths.get(second_classifier))
        return json.dumps([files, labels, input_size, activation])

    @classmethod
    @checked_sockets
    def execute(
        cls,
        classifier: str,
        second_classifier: str,
        labels: str,
        input_size: int,
        activation: str = AUTO,
        others: LoadedClassifier | None = None,
    ) -> Any:
        loaded = cls._load(classifier, second_classifier, labels, input_size, activation)
        for note in loaded.notes:
            logging.warning("MedTraverse: %s", note)
        if loaded.notes:
            say("\n".join(loaded.notes))
        judge = LoadedClassifier(loaded, classifier)
        return io.NodeOutput(judge if others is None else judge.with_others(others))

    @classmethod
    def labels_of(cls, **inputs: Any) -> tuple[str, ...]:
        """Return the labels that a node with these inputs, `others` left out, judges.

        Raises ValueError as the node itself does.
        """
        key = cls.fingerprint_inputs(**inputs)
        if key not in _LABELS:
            cls._load(**inputs)
        return _LABELS[key]

    @classmethod
    def _load(
        cls,
        classifier: str,
        second_classifier: str = NONE,
        labels: str = "",
        input_size: int = 0,
        activation: str = AUTO,
    ) -> judging.Classifier:
        if activation not in (AUTO, *ACTIVATIONS):
            raise ValueError(
                f"activation: there is no {activation!r}; choose {AUTO}, {' or '.join(ACTIVATIONS)}."
            )
        paths = sources.classifier_paths()
        chosen = [sources.pick(paths, classifier, "classifier")]
        if second_classifier != NONE:
            chosen.append(sources.pick(paths, second_classifier, "second_classifier"))
        loaded = cancellable(
            lambda _: judging.load_classifier(
                chosen,
                labels=parse_labels(labels) or None,
                input_size=input_size or None,
                activation=None if activation == AUTO else activation,
            )
        )
        key = cls.fingerprint_inputs(classifier, second_classifier, labels, input_size, activation)
        _LABELS[key] = loaded.labels
        return loaded


class CFRTEvaluator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="CFRTEvaluator",
            display_name="CFRT Evaluator",
            category=CATEGORY,
            search_aliases=[
                "classifier flip rate",
                "counterfactual",
                "disentanglement",
                "evaluate attributes",
            ],
            essentials_category="Medical",
            description="CFRT (Classifier Flip Rate along a Trajectory): the share of patients in whom the "
            "target attribute rose more than every other, averaged over the far part. Beside it the flip "
            "rate: "
            "in whom it passes a threshold.",
            inputs=[
                Trajectory.Input(
                    "trajectory",
                    tooltip="The trajectory, or its curve frames, that the images were decoded from.",
                ),
                io.Image.Input(
                    "images", tooltip="Its images: VAE Decode of the LATENT beside it, in the same order."
                ),
                Classifier.Input(
                    "image_classifier",
                    display_name="classifier",
                    tooltip="Judges every attribute in every image.",
                ),
                io.String.Input(
                    "far_points",
                    default="",
                    tooltip="Far part, such as 5,10,15 or 30-49; empty takes the paper's (λ 5,10,15; "
                    "frames 30–49).",
                ),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    tooltip="Flip rate: the probability that the target must pass, anywhere on the "
                    "trajectory, where the neutral image does not.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "figure",
                    display_name="figure",
                    tooltip="CFRT with 95 % intervals beside the published values, and the flip rate.",
                ),
                io.String.Output(
                    "table", display_name="table", tooltip="CFRT, mean Δ and flip rate per attribute as text."
                ),
                io.String.Output(
                    "patients_csv",
                    display_name="patients_csv",
                    tooltip="Success, leaked attribute, Δ and first flip of every patient, as CSV.",
                ),
                io.String.Output("report", display_name="report", tooltip="Everything as JSON."),
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
        images: torch.Tensor,
        image_classifier: LoadedClassifier,
        far_points: str,
        threshold: float = THRESHOLD,
    ) -> Any:
        result = evaluate(
            trajectory,
            images,
            image_classifier.predict,
            image_classifier.classifier.labels,
            far_points,
            threshold,
        )
        judging_grey = image_classifier.classifier.grey and has_colour(images[:16])
        doubts = result.doubts(images.shape[1:3], image_classifier.classifier.input_size, judging_grey)
        for doubt in doubts:
            logging.warning("MedTraverse: %s", doubt)
        drawn = result.figure()
        figure = figure_image(drawn)
        judge = {"name": image_classifier.name, "sha256": image_classifier.classifier.sha256}
        report = json.dumps(
            {
                **result.report(),
                "doubts": doubts,
                "classifier": judge["name"],
                "classifier_sha256": judge["sha256"],
            }
        )
        text, view = "\n".join([result.table, *doubts]), cfrt_view(result, result.published)
        made = drawing(
            "CFRTEvaluator",
            drawn,
            result.csv,
            [trajectory],
            far_points=list(result.far),
            labels=list(result.labels),
            threshold=threshold,
            classifier=judge,
        )
        return io.NodeOutput(
            figure,
            result.table,
            result.patients_csv,
            report,
            made,
            ui=shown(cls, figure, text, report, view),
        )
