"""MinimalCounterfactual: the fewest changed steps at which a classifier changes its mind about an image."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io

from ..medtraverse.counterfactual import APPEARS, GOALS, Counterfactuals, Target, minimal_swaps
from ..medtraverse.digest import versions
from ..medtraverse.figures.drawing import Drawing
from ..medtraverse.figures.pair import difference_colours
from ..medtraverse.labels import position
from ..medtraverse.projection import Start as StartBundle
from ..medtraverse.prompts import AttributeSet
from ..medtraverse.traversal import TraversalSettings, parse_swap_steps
from . import samplers
from .figure_image import figure_image
from .live import say
from .model_building import origin
from .nodes_projection import AT_ONCE
from .nodes_sampler import check_start
from .run_traversal import Conditionings, traverse
from .schema import schema
from .sockets import CATEGORY, Attributes, Classifier, Figure, Start, checked_sockets
from .traversal_inputs import SWAP_STEPS, attribute_set
from .views import compare_view, shown


class MinimalCounterfactual(io.ComfyNode):
    """For each image and attribute the largest λ at which the classifier finds the target, and nothing else.

    The search and its measures are in ``medtraverse/counterfactual.py``.
    """

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="MinimalCounterfactual",
            display_name="Minimal Counterfactual",
            category=CATEGORY,
            search_aliases=["explanation", "what if", "counterfactual explanation", "smallest change"],
            essentials_category="Medical",
            description="Finds for each image and attribute the largest λ at which the classifier finds the "
            "target and no other label, and shows what changed and what else moved.",
            inputs=[
                io.Model.Input("model", tooltip="The fine-tuned model."),
                io.Conditioning.Input(
                    "neutral", tooltip="Prompt of the images as they are, as in Project to Latent."
                ),
                io.Conditioning.Input("negative", tooltip="Conditioning of the negative prompt."),
                io.MultiType.Input(
                    "attributes",
                    types=[Attributes, io.Conditioning],
                    tooltip="Attributes to add; or one plain CONDITIONING, such as the normal prompt, to "
                    "remove a finding.",
                ),
                Start.Input("start", tooltip="The images, from Project to Latent."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                Classifier.Input("image_classifier", tooltip="Judges whether a branch passes."),
                io.Combo.Input(
                    "goal",
                    options=list(GOALS),
                    default=APPEARS,
                    tooltip="Whether the target label shall appear or disappear.",
                ),
                io.String.Input(
                    "label",
                    default="",
                    tooltip="The classifier's label that is the target; empty takes the attribute's own.",
                ),
                io.Float.Input(
                    "probability",
                    default=0.5,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="The target must be above it (to disappear: below 1 less it), and no other label "
                    "may newly be.",
                ),
                io.Int.Input("steps", default=50, min=2, max=999, tooltip="Sampling steps. The paper: 50."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance of image and branches alike. 3 moves less, and draws less.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=samplers.scheduler_names(),
                    default=samplers.DIFFUSERS_DDIM,
                    tooltip="diffusers_ddim is the paper's. The sampler is DDIM.",
                ),
                io.String.Input(
                    "swap_steps",
                    default=SWAP_STEPS,
                    tooltip="The coarse λ, tried from the largest down; single steps follow in between.",
                ),
                io.Boolean.Input(
                    "null_control",
                    default=True,
                    tooltip="Also swaps each image to its own prompt, which must change nothing, and tells "
                    "the number.",
                ),
                io.Int.Input(
                    "rows_per_call",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Latents per U-Net call; 0 chooses by free memory.",
                ),
                io.Image.Input(
                    "truth",
                    optional=True,
                    tooltip="True counterfactuals, where they are known, for the viewer: one for each image "
                    "and attribute.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "originals",
                    display_name="originals",
                    tooltip="The image of each pair: per image, each attribute.",
                ),
                io.Image.Output(
                    "counterfactuals", display_name="counterfactuals", tooltip="Its minimal counterfactual."
                ),
                io.Image.Output(
                    "differences",
                    display_name="differences",
                    tooltip="Signed difference of brightness, in colours for all eyes.",
                ),
                io.Image.Output("figure", display_name="figure", tooltip="The pairs and their differences."),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="λ, probabilities and what else moved, one line a pair, as CSV.",
                ),
                io.String.Output("report", display_name="report", tooltip="The same and settings as JSON."),
                Figure.Output(
                    "drawing", display_name="drawing", tooltip="The figure for Save Figure, with its table."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        model: Any,
        neutral: Any,
        negative: Any,
        attributes: Any,
        start: StartBundle,
        vae: Any,
        image_classifier: Any,
        goal: str,
        label: str,
        probability: float,
        steps: int,
        cfg: float,
        scheduler: str,
        swap_steps: str,
        null_control: bool,
        rows_per_call: int,
        truth: torch.Tensor | None = None,
    ) -> Any:
        attributes = attribute_set(attributes, label.strip() or "attribute")
        if goal not in GOALS:
            raise ValueError(f"goal: there is no {goal!r}; the choices are {', '.join(GOALS)}.")
        swaps = parse_swap_steps(swap_steps, steps)
        check_start(start, neutral, "ddim", 0, 0)
        columns = target_columns(attributes, image_classifier.classifier.labels, label.strip())
        search = Search(
            model, neutral, negative, attributes, start, vae, image_classifier, steps, cfg, scheduler
        )
        search.rows_per_call = rows_per_call
        targets = [Target(column, goal, probability) for column in columns]
        pairs = [(p, a) for p in range(len(start.seeds)) for a in range(len(targets))]
        if truth is not None and len(truth) != len(pairs):
            raise ValueError(
                f"truth: there are {len(truth)} images for {len(pairs)} pairs; give one for each image and "
                "attribute, or none."
            )
        result = search.result(pairs, targets, swaps, null_control)
        figure = result.figure()
        image, report, table = figure_image(figure), json.dumps(result.report()), result.csv
        drawing = Drawing(figure, table, result.settings)
        view = compare_view(result.before, result.after, result.names(), result.facts(), truth)
        text = "\n".join(result.names())
        return io.NodeOutput(
            result.before,
            result.after,
            torch.from_numpy(difference_colours(result.before, result.after)),
            image,
            table,
            report,
            drawing,
            ui=shown(cls, image, text, report, view),
        )


def target_columns(attributes: AttributeSet, labels: Sequence[str], label: str) -> list[int]:
    """Return the classifier's column of each attribute's target. Raises ValueError where there is none."""
    if not attributes.attributes:
        raise ValueError("attributes: none is given; name at least one in Medical Attribute Prompts.")
    columns = []
    for attribute in attributes.attributes:
        wanted = (label,) if label else attribute.labels or (attribute.name,)
        if len(wanted) > 1:
            raise ValueError(f"label: {attribute.name!r} stands for {' and '.join(wanted)}; name the target.")
        column = position(wanted[0], labels, attributes.aliases)
        if column is None:
            raise ValueError(
                f"label: the classifier judges {', '.join(labels)}, not {wanted[0]!r}; name one of these."
            )
        columns.append(column)
    return columns


class Search:
    """Samples, decodes and judges branches as they are asked for, and remembers each."""

    rows_per_call = 0

    def __init__(
        self,
        model: Any,
        neutral: Any,
        negative: Any,
        attributes: AttributeSet,
        start: StartBundle,
        vae: Any,
        image_classifier: Any,
        steps: int,
        cfg: float,
        scheduler: str,
    ) -> None:
        self.model, self.vae, self.judge = model, vae, image_classifier
        self.conditionings, self.attributes = Conditionings(neutral, (), negative), attributes
        self.start, self.rows = start, 0
        height, width = (8 * side for side in start.latents.shape[2:])
        self.settings = TraversalSettings(
            seed=start.seeds[0],
            patients=len(start.seeds),
            steps=steps,
            cfg=cfg,
            sampler="ddim",
            scheduler=scheduler,
            swap_steps=(0,),
            noise="cpu",
            width=width,
            height=height,
            domain=attributes.domain,
            neutral=attributes.neutral,
            neutral_prompt=attributes.neutral_prompt,
            prompts=(),
        )
        self.images: dict[tuple[int, int, int], torch.Tensor] = {}
        self.probabilities: dict[tuple[int, int, int], np.ndarray] = {}

    def result(
        self, pairs: list[tuple[int, int]], targets: list[Target], swaps: tuple[int, ...], null: bool
    ) -> Counterfactuals:
        """Search every pair of patient and attribute."""
        before = self.decoded(self.start.latents)
        original = self.judge.predict(before).double().numpy()

        def passing(branches: Sequence[tuple[tuple[int, int], int]]) -> list[bool]:
            self.run([(p, a, step) for (p, a), step in branches])
            return [
                bool(targets[a].passes(self.probabilities[p, a, step], original[p]))
                for (p, a), step in branches
            ]

        found = minimal_swaps(pairs, swaps, passing)
        chosen = [(p, a, step if (step := found[p, a]) is not None else min(swaps)) for p, a in pairs]
        patients = [p for p, _ in pairs]
        return Counterfactuals(
            before[patients],
            torch.stack([self.images[branch] for branch in chosen]),
            tuple(self.start.seeds[p] for p in patients),
            tuple(self.attributes.attributes[a].name for _, a in pairs),
            tuple(step for _, _, step in chosen),
            tuple(found[pair] is not None for pair in pairs),
            tuple(targets[a] for _, a in pairs),
            tuple(self.judge.classifier.labels),
            original[patients],
            np.stack([self.probabilities[branch] for branch in chosen]),
            self.null(before, chosen) if null else np.full(len(pairs), np.nan),
            {
                "node": "MinimalCounterfactual",
                **self.settings.report(),
                "prompts": {item.name: item.prompt for item in self.attributes.attributes},
                "swap_steps": list(swaps),
                "start": self.start.describe(),
                "unet_rows": self.rows,
                "branches": len(self.images),
                "model": origin(self.model),
                "classifier": {"name": self.judge.name, "sha256": self.judge.classifier.sha256},
                "versions": versions(),
            },
        )

    def run(self, branches: Sequence[tuple[int, int, int]]) -> None:
        """Sample and judge branches (patient, attribute, λ); patients with the same λ run together."""
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        wanted: dict[tuple[int, int], list[int]] = {}
        for p, a, step in branches:
            if (p, a, step) not in self.images:
                wanted.setdefault((p, a), []).append(step)
        for (p, a), own in wanted.items():
            groups.setdefault((a, tuple(own)), []).append(p)
        for (a, steps), patients in groups.items():
            name = self.attributes.attributes[a].name
            say(f"{name}: {len(patients)} of {len(self.start.seeds)} images at λ = {steps[0]}")
            latents = self.sampled(patients, self.attributes.attributes[a].conditioning, steps)
            images = self.decoded(latents.flatten(0, 1))
            found = self.judge.predict(images).double().numpy()
            keys = [(p, a, step) for p in patients for step in steps]
            self.images.update(zip(keys, images))
            self.probabilities.update(zip(keys, found))

    def sampled(self, patients: Sequence[int], conditioning: Any, steps: tuple[int, ...]) -> torch.Tensor:
        """Return latents [patients, steps, C, h, w] of the swap to one conditioning."""
        part = self.start.part(patients)
        settings = replace(
            self.settings,
            seed=part.seeds[0],
            patients=len(patients),
            swap_steps=steps,
            prompts=(("attribute", ""),),
        )
        conditionings = Conditionings(
            self.conditionings.neutral, (conditioning,), self.conditionings.negative
        )
        latents, cost = traverse(self.model, conditionings, settings, self.rows_per_call, 0, None, part)
        self.rows += cost["rows"]
        chosen: torch.Tensor = latents[settings.plan.index()[:, 0, 1:]]
        return chosen

    def null(self, before: torch.Tensor, chosen: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Return the largest change of a pixel in a swap to the image's own prompt, at each pair's λ, [N]."""
        changes: dict[tuple[int, int], float] = {}
        for step in sorted({step for _, _, step in chosen}):
            patients = sorted({p for p, _, own in chosen if own == step})
            latents = self.sampled(patients, self.conditionings.neutral, (step,))[:, 0]
            images = self.decoded(latents)
            for p, image in zip(patients, images):
                changes[p, step] = float((image - before[p]).abs().max())
        return np.array([changes[p, step] for p, _, step in chosen])

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images [N, H, W, 3] of a LATENT, on the CPU."""
        images = []
        for part in latents.split(AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            images.append(self.vae.decode(part).float().cpu())
        return torch.cat(images).clamp(0, 1)
