"""MedicalStudy: CFRT and the other measures of any number of patients, in constant memory."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..medtraverse.curve import METHODS
from ..medtraverse.digest import versions
from ..medtraverse.evaluation import Evaluation, judged_columns
from ..medtraverse.flip_rate import THRESHOLD, check_threshold
from ..medtraverse.perceptual import ALEXNET, CHOICES, perceptual_distance
from ..medtraverse.predictions import far_points
from ..medtraverse.prompts import AttributeSet
from ..medtraverse.study import Store, Study
from ..medtraverse.study.block import joined
from ..medtraverse.study.lock import FolderLock, refuse_unwritable
from ..medtraverse.study.pooled import narrow_enough
from ..medtraverse.study.power import patients_for, power_text
from ..medtraverse.study.store import Identity
from ..medtraverse.trajectory import CURVE, SWAP
from ..medtraverse.traversal import parse_swap_steps
from ..medtraverse.weights import find_weights
from . import samplers
from .figure_image import drawing, figure_image
from .live import say
from .nodes_classifier import LoadedClassifier
from .run_study import BlockWriter, Curve, Progress, Work, decoded, identity_of, make_patients
from .run_traversal import Conditionings
from .schema import schema
from .sockets import CATEGORY, Classifier, Figure, checked_sockets
from .sockets import Trajectory as TrajectorySocket
from .sources import fingerprint, metric_folders
from .study_live import LiveTable, summary, table_view
from .traversal_inputs import attribute_set, part_inputs, sampling_inputs, size_inputs, traversal_settings
from .views import shown

NO_CURVE = "none"
# Where a study without a folder of its own lies, below ComfyUI's temp folder.
TEMP = "medtraverse-studies"
OUTPUTS = (
    "figure",
    "table",
    "patients_csv",
    "report",
    "drawing",
    "curve_drawing",
    "cosine_drawing",
    "identity_drawing",
    "trajectory",
    "images",
)


class MedicalStudy(io.ComfyNode):
    """Patients are made one after another and let go; their figures stay, in a folder that goes on growing.

    The measures are those of TehraniNasab, Kumar, Arbel 2025, over as many patients as their tables have.
    """

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="MedicalStudy",
            display_name="Traversal Study",
            category=CATEGORY,
            search_aliases=["CFRT", "cohort", "many patients", "batch evaluation", "large scale"],
            essentials_category="Medical",
            has_intermediate_output=True,
            description="Samples, decodes, judges and measures any number of patients in constant memory. "
            "Cancel keeps what is done, and Run goes on from there.",
            inputs=[
                *part_inputs(),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                Classifier.Input(
                    "image_classifier",
                    display_name="classifier",
                    tooltip="Judges every attribute in every image.",
                ),
                io.String.Input(
                    "folder",
                    default="medtraverse/study",
                    tooltip="Folder of the study below ComfyUI's output. Empty keeps it in the temp folder, "
                    "until ComfyUI starts anew.",
                ),
                io.Int.Input(
                    "first_seed",
                    default=1500,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF - 100000,
                    tooltip="Seed of the first patient; the next patients have the next seeds.",
                ),
                io.Int.Input(
                    "patients",
                    default=200,
                    min=1,
                    max=100000,
                    tooltip="Number of patients (seeds). Those that the folder has are not made again.",
                ),
                io.Int.Input(
                    "block_size",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Patients to a file. Whoever kills ComfyUI loses this many at most; no figure "
                    "depends on it.",
                ),
                *size_inputs(),
                *sampling_inputs(),
                io.Combo.Input(
                    "curve",
                    options=[*METHODS, NO_CURVE],
                    default="bezier",
                    tooltip="Curve through each trajectory, whose frames are judged too. 'none' leaves it "
                    "out, and with it most of the decoding.",
                ),
                io.Int.Input(
                    "frames",
                    default=50,
                    min=2,
                    max=10000,
                    tooltip="Frames per curve, both ends included. The paper: 50.",
                ),
                io.String.Input(
                    "kept_frames",
                    default="30-49",
                    tooltip="Frames that are decoded and judged, such as 30-49 (the paper's far part) or "
                    "1-49.",
                ),
                io.Int.Input(
                    "pictured",
                    default=3,
                    min=0,
                    max=100000,
                    tooltip="How many patients' latents are kept, the first ones: for pictures and maps. All "
                    "else is let go.",
                ),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    tooltip="Flip rate: the probability that the target must pass.",
                ),
                io.Combo.Input(
                    "perceptual",
                    options=list(CHOICES),
                    default="none",
                    optional=True,
                    tooltip="Perceptual distance beside SSIM. auto: LPIPS if its AlexNet weights are at "
                    "hand, else ST-LPIPS, else none. Nothing is downloaded.",
                ),
                io.Float.Input(
                    "interval_width",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    tooltip="Ends the study before its last patient once every attribute's 95 % interval of "
                    "CFRT is this narrow, such as 0.05. 0: never.",
                ),
                io.Int.Input(
                    "rows_per_call",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Latents per U-Net call; 0 chooses by free memory. Give a number where unlike "
                    "cards share a study: results differ by rounding.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Image.Output(
                    "figure",
                    display_name="figure",
                    tooltip="CFRT of the swaps with 95 % intervals beside the published values.",
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="CFRT, mean Δ and flip rate of swaps and of curve frames, as text.",
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
                Figure.Output(
                    "curve_drawing",
                    display_name="curve_drawing",
                    tooltip="CFRT of the curve frames, for Save Figure.",
                ),
                Figure.Output(
                    "cosine_drawing",
                    display_name="cosine_drawing",
                    tooltip="Direction cosines of all patients, for Save Figure.",
                ),
                Figure.Output(
                    "identity_drawing",
                    display_name="identity_drawing",
                    tooltip="Distance to the own neutral beside other patients', for Save Figure.",
                ),
                TrajectorySocket.Output(
                    "trajectory",
                    display_name="trajectory",
                    tooltip="The patients whose latents are kept, for Trajectory Grid, Latent t-SNE and "
                    "others.",
                ),
                io.Image.Output("images", display_name="images", tooltip="Their images."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls, folder: Any = "", patients: Any = 0, perceptual: Any = "none", **others: Any
    ) -> str:
        """What a study's outputs depend on outside the graph: what its folder holds."""
        try:
            held = [path.name for path in Store(place_of(folder)).files()] if str(folder).strip() else []
        except ValueError as error:
            held = [str(error)]
        weights = fingerprint(find_weights(ALEXNET, metric_folders())) if perceptual != "none" else ""
        return json.dumps([held, weights])

    @classmethod
    @checked_sockets
    def execute(
        cls,
        model: Any,
        neutral: Any,
        negative: Any,
        attributes: Any,
        vae: Any,
        image_classifier: LoadedClassifier,
        folder: str,
        first_seed: int,
        patients: int,
        block_size: int,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        sampler: str,
        scheduler: str,
        swap_steps: str,
        noise: str,
        curve: str,
        frames: int,
        kept_frames: str,
        pictured: int,
        threshold: float = THRESHOLD,
        perceptual: str = "none",
        interval_width: float = 0.0,
        rows_per_call: int = 0,
    ) -> Any:
        attributes = attribute_set(attributes)
        labels = image_classifier.classifier.labels
        check(attributes, labels, cfg, threshold, interval_width)
        samplers.check_sampler(sampler)
        settings = traversal_settings(
            attributes,
            width,
            height,
            seed=first_seed,
            patients=1,
            steps=steps,
            cfg=cfg,
            sampler=sampler,
            scheduler=scheduler,
            swap_steps=parse_swap_steps(swap_steps, steps),
            noise=noise,
        )
        work = Work(
            model,
            Conditionings(neutral, tuple(item.conditioning for item in attributes.attributes), negative),
            settings,
            vae,
            image_classifier,
            curve_of(curve, frames, kept_frames),
            perceptual_distance(perceptual, metric_folders()),
            rows_per_call,
        )
        graph, context = (cls.hidden.prompt if cls.hidden else None) or {}, get_executing_context()
        node_id = context.node_id if context else ""
        identity = identity_of(work, attributes, labels, graph, node_id)
        place = place_of(folder, identity)
        wanted = range(first_seed, first_seed + patients)
        study = run(work, identity, place, wanted, block_size, pictured, interval_width, threshold)
        return cls._results(study, work, place, wanted, pictured, threshold, bool(folder.strip()), graph)

    @classmethod
    def _results(
        cls,
        study: Study,
        work: Work,
        place: Path,
        wanted: range,
        pictured: int,
        threshold: float,
        named: bool,
        graph: Any,
    ) -> Any:
        """Return the outputs; of figures and images those that somebody takes."""
        taken = taken_outputs(graph)
        judge = {"name": work.judge.name, "sha256": work.judge.classifier.sha256}
        swaps = study.evaluation(SWAP, threshold=threshold)
        curves = study.evaluation(CURVE, threshold=threshold) if study.curved else None
        doubts = cls._doubts(swaps, work, bool(study.block.made.get("colour")))
        table = lines(study, swaps, curves, wanted, place if named else None)
        text = "\n".join([*table, *doubts])
        say(f"{table[0]}\n{summary(swaps)}")
        report = json.dumps(
            {
                "patients": len(study.seeds),
                "asked": len(wanted),
                "swaps": swaps.report(),
                **({"curve": curves.report()} if curves else {}),
                "direction cosine": study.directions().report(),
                "identity": study.similarity().report(),
                "doubts": doubts,
                "classifier": judge["name"],
                "classifier_sha256": judge["sha256"],
            }
        )

        def cfrt(evaluation: Evaluation) -> Any:
            return drawing(
                "MedicalStudy",
                evaluation.figure(),
                evaluation.csv,
                [evaluation.trajectory],
                far_points=list(evaluation.far),
                labels=list(evaluation.labels),
                threshold=threshold,
                classifier=judge,
            )

        results: dict[str, Any] = {"table": text, "patients_csv": swaps.patients_csv, "report": report}
        if {"figure", "drawing"} & taken:
            results["drawing"] = cfrt(swaps)
            results["figure"] = figure_image(results["drawing"].figure)
        if "curve_drawing" in taken and curves:
            results["curve_drawing"] = cfrt(curves)
        if "cosine_drawing" in taken:
            cosines = study.directions()
            results["cosine_drawing"] = drawing(
                "MedicalStudy", cosines.figure(), cosines.csv_with_published, [study.trajectory()]
            )
        if "identity_drawing" in taken:
            alike = study.similarity()
            used = {"perceptual distance": alike.perceptual}
            results["identity_drawing"] = drawing(
                "MedicalStudy", alike.figure(), alike.csv, [study.trajectory()], **used
            )
        if {"trajectory", "images"} & taken:
            results |= pictures(study, work, place, pictured, "images" in taken)
        files = [] if named else result_files(place, wanted)
        view = table_view(study, threshold)
        return io.NodeOutput(
            *(results.get(name) for name in OUTPUTS),
            ui={
                **shown(cls, results.get("figure"), text, report, view),
                **({"files": files} if files else {}),
            },
        )

    @classmethod
    def _doubts(cls, swaps: Evaluation, work: Work, coloured: bool) -> list[str]:
        """What is suspicious in the classifier's answers; one that takes grey may be given colour."""
        judge = work.judge.classifier
        doubts = swaps.doubts(
            (work.settings.height, work.settings.width), judge.input_size, judge.grey and coloured
        )
        for doubt in doubts:
            logging.warning("MedTraverse: %s", doubt)
        return doubts


def check(
    attributes: AttributeSet, labels: Sequence[str], cfg: float, threshold: float, interval_width: float
) -> None:
    """Refuse what would only be found out after the first patients."""
    if not attributes.attributes:
        raise ValueError("attributes: none is given; name at least one in Medical Attribute Prompts.")
    names = [item.name for item in attributes.attributes]
    wanted = [item.labels for item in attributes.attributes]
    judged_columns(names, wanted, labels, attributes.aliases)
    if all(len(own) != 1 for own in wanted):
        raise ValueError(
            "attributes: none of them stands for a single label, so there is no target to score; name at "
            "least one with one label."
        )
    if len(labels) < 2:
        raise ValueError(
            "classifier: CFRT needs at least 2 labels, as with one no other can leak; load a classifier of "
            "more."
        )
    if not math.isfinite(cfg):
        raise ValueError(f"cfg: {cfg} is no weight of guidance; give a number such as 7.5.")
    check_threshold(threshold)
    if interval_width:
        patients_for(interval_width)


def curve_of(method: str, frames: int, kept: str) -> Curve | None:
    """Return the curve of the inputs; None for none. Raises ValueError for frames that it does not have."""
    if method == NO_CURVE:
        return None
    if method not in METHODS:
        raise ValueError(f"curve: there is no {method!r}; choose {', '.join(METHODS)} or {NO_CURVE}.")
    return Curve(method, frames, tuple(sorted(far_points(kept, range(1, frames)))))


def place_of(folder: str, identity: Identity | None = None) -> Path:
    """Return where a study lies: below ComfyUI's output folder, or in its temp folder by what it is."""
    if not folder.strip():
        said = json.dumps([identity.settings, identity.weights], sort_keys=True) if identity else ""
        name = hashlib.sha256(said.encode()).hexdigest()[:24]
        return Path(folder_paths.get_temp_directory()) / TEMP / name
    output = Path(folder_paths.get_output_directory()).resolve()
    place = (output / folder.strip()).resolve()
    if place == output or not place.is_relative_to(output):
        raise ValueError(
            f"folder: {folder!r} is no folder below ComfyUI's output folder; give a name such as "
            "medtraverse/study."
        )
    return place


def run(
    work: Work,
    identity: Identity,
    place: Path,
    wanted: range,
    block_size: int,
    pictured: int,
    interval_width: float,
    threshold: float,
) -> Study:
    """Make the patients that the folder does not have, and return the study of all that were wanted."""
    store = Store(place)
    if store.exists:
        store.open(identity, versions())  # refuses before anything is waited for
    make_folder(place)
    with FolderLock(place, wait=comfy.model_management.throw_exception_if_processing_interrupted) as lock:
        store = Store(place)
        store.open(identity, versions())
        done = [block for block in store.blocks() if not set(block.seeds).isdisjoint(wanted)]
        had = {seed for block in done for seed in block.seeds}
        missing = [seed for seed in wanted if seed not in had]

        def pooled() -> Study:
            return Study(identity, joined(done)).take(wanted)

        def enough() -> Study | None:
            return narrow_enough(pooled(), wanted, interval_width) if done and interval_width else None

        if study := enough():
            return study
        live, progress = LiveTable(len(wanted), len(missing)), Progress(len(wanted))
        live.summary = power_text(len(wanted), widths=[interval_width] if interval_width else [])
        progress.finished(live.done)
        writer = BlockWriter(store, block_size, set(wanted[:pictured]), lock.check)
        try:
            for patient in make_patients(work, missing, progress, live.tell):
                block = writer.add(patient)
                live.made()
                progress.finished(live.done)
                if block is None:
                    continue
                done.append(block)
                if live.due():
                    live.show(pooled(), threshold)
                if study := enough():
                    return study
        finally:
            # what is made is kept, whatever ends the run
            block = writer.flush()
            if block is not None:
                done.append(block)
        return enough() or pooled()


def make_folder(place: Path) -> None:
    """Make the study's folder. Raises ValueError where that cannot be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse_unwritable(place, error)


def lines(
    study: Study, swaps: Evaluation, curves: Evaluation | None, wanted: range, place: Path | None
) -> list[str]:
    """Return the table as text."""
    enough = "" if len(study.seeds) == len(wanted) else " (the interval is as narrow as asked for)"
    where = f", in {place.relative_to(Path(folder_paths.get_output_directory()).resolve())}" if place else ""
    texts = [
        f"{len(study.seeds)} patients, seeds {study.seeds[0]}–{study.seeds[-1]}{enough}{where}.",
        f"Prompt swaps, far part λ = {', '.join(swaps.far)}",
        swaps.table,
    ]
    if curves:
        texts += [f"Curve, far part frames {curves.far[0]}–{curves.far[-1]}", curves.table]
    return texts


def pictures(study: Study, work: Work, place: Path, pictured: int, decode: bool) -> dict[str, Any]:
    """Return the trajectory of the patients whose latents are kept, and their images; nothing without any."""
    kept = Store(place).latents(study.seeds[:pictured])
    seeds = [seed for seed in study.seeds[: len(kept)] if seed in kept]
    if not seeds:
        return {}
    latents = torch.stack([torch.from_numpy(kept[seed]) for seed in seeds]).float()
    trajectory = study.take(seeds).trajectory(latents=latents)
    images = decoded(work.vae, trajectory.latents) if decode else None
    return {"trajectory": trajectory, "images": images}


def result_files(place: Path, wanted: range) -> list[dict[str, str]]:
    """Return the files of a study in the temp folder as the server gives them out: for who fetches them."""
    temp = Path(folder_paths.get_temp_directory())
    names = ["study.json"]
    for path in sorted(place.glob("*.npz")):
        first, last = map(int, path.stem.split("-")[1:])
        if first <= wanted[-1] and last >= wanted[0]:
            names.append(path.name)
    subfolder = place.relative_to(temp).as_posix()
    return [{"filename": name, "subfolder": subfolder, "type": "temp"} for name in names]


def taken_outputs(graph: Any) -> set[str]:
    """Return which outputs of the running node somebody takes; all where no graph is known."""
    context = get_executing_context()
    if context is None or not graph:
        return set(OUTPUTS)
    links = (value for node in graph.values() for value in node.get("inputs", {}).values())
    return {
        OUTPUTS[link[1]]
        for link in links
        if isinstance(link, list) and len(link) == 2 and str(link[0]) == str(context.node_id)
    }
