"""Works through the patients of a study: sample, join by the curve, decode, judge, measure, and let go.

One patient at a time, in calls that look alike for all of them. So a patient's figures depend on nothing but
its seed and the settings: neither on the size of a block, nor on who else was computed, where, or when.
"""

import hashlib
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch

from ..medtraverse.classifiers.self_check import has_colour
from ..medtraverse.curve import interpolate
from ..medtraverse.digest import hashes, versions
from ..medtraverse.direction import direction_cosines
from ..medtraverse.identity import MEASURES, patient_similarity
from ..medtraverse.perceptual import PerceptualDistance
from ..medtraverse.study.block import Block, joined
from ..medtraverse.study.store import Identity, Store
from ..medtraverse.traversal import TraversalSettings
from .evaluation_cache import fingerprint
from .graph import upstream
from .managed import managed
from .model_building import origin
from .provenance import files_of
from .run_traversal import Conditionings, traverse

# Whose neutral images every patient is compared with: always the same, so that no figure depends on which
# patients happen to be in a run.
CONTROLS = (0, 1, 2, 3)
# Images at a time, the same for every patient: other numbers could round otherwise.
DECODED, JUDGED = 8, 16
# What of a node's inputs is a text for the encoder.
_WORDS = ("text", "prompt")
_neutrals: "weakref.WeakKeyDictionary[Any, dict[str, torch.Tensor]]" = weakref.WeakKeyDictionary()
_digests: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Curve:
    """A curve through each trajectory, and which of its frames are decoded and judged."""

    method: str
    frames: int
    kept: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Work:
    """What the patients of a study are made with.

    ``settings`` are those of any patient: seed and number are set for each.
    """

    model: Any
    conditionings: Conditionings
    settings: TraversalSettings
    vae: Any
    judge: Any
    curve: Curve | None
    perceptual: PerceptualDistance | None
    rows_per_call: int


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient's part of a block, and its final latents [rows, C, h, w]."""

    seed: int
    block: Block
    latents: np.ndarray


class Progress:
    """The study's one progress bar, filled by the sampler of each patient in turn."""

    def __init__(self, patients: int) -> None:
        self.patients, self.done = max(1, patients), 0
        self.bar = comfy.utils.ProgressBar(1000 * self.patients)

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        """As core's bar: steps of the patient at work."""
        # a tenth of a patient's time or less is left for judging
        share = 900 * value / max(1, total)
        self.bar.update_absolute(int(1000 * self.done + share), 1000 * self.patients, preview)

    def finished(self, patients: int) -> None:
        """So many patients are done."""
        self.done = patients
        self.bar.update_absolute(1000 * patients, 1000 * self.patients)


def make_patients(
    work: Work, seeds: Sequence[int], progress: Progress, told: Callable[[str], None]
) -> Iterator[Patient]:
    """Yield the patients of some seeds, one after another; can be cancelled at any step."""
    controls = control_neutrals(work)
    for seed in seeds:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield make_patient(work, seed, controls, progress, told)


def make_patient(
    work: Work, seed: int, controls: torch.Tensor, progress: Any, told: Callable[[str], None]
) -> Patient:
    """Sample, decode, judge and measure one patient.

    ``controls`` [R, H, W, 3] are the neutral images of CONTROLS.
    """
    began = time.monotonic()
    settings = replace(work.settings, seed=seed, patients=1)
    latents, cost = traverse(
        work.model, work.conditionings, settings, work.rows_per_call, bar=progress, told=told
    )
    index = settings.plan.index()[0]
    points = latents[index]
    images = decoded(work.vae, latents)
    swap = judged(work.judge, images)[index]
    curve = swap[:, :0]
    if work.curve is not None:
        kept = list(work.curve.kept)
        frames = torch.stack(
            [interpolate(each, work.curve.frames, work.curve.method, "parameter")[kept] for each in points]
        )
        # a curve begins in the neutral latent, which has been judged
        rest = [judged(work.judge, decoded(work.vae, each)) for each in frames]
        curve = torch.cat([swap[:, :1], torch.stack(rest)], dim=1)
    cosines = direction_cosines(points[:, 0], points[:, 1:])
    own, other = similarity(work, seed, images, index, controls)
    made = {
        "versions": versions(),
        "seconds": time.monotonic() - began,
        "unet": cost,
        "colour": has_colour(images[:JUDGED]),
    }
    block = Block(
        (seed,),
        swap[None].numpy(),
        curve[None].numpy(),
        cosines[None].numpy(),
        {name: values[None].numpy() for name, values in own.items()},
        {name: values[None].numpy() for name, values in other.items()},
        made,
    )
    return Patient(seed, block, latents.numpy())


def similarity(
    work: Work, seed: int, images: torch.Tensor, index: torch.Tensor, controls: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return how like the patient's images [rows, H, W, 3] are to its own neutral, and to the controls'."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    others = controls[[place for place, control in enumerate(CONTROLS) if control != seed]]
    if work.perceptual is not None:
        comfy.model_management.load_models_gpu([_patcher(work.perceptual)], force_full_load=True)
    measured = patient_similarity(
        images[index],
        torch.cat([images[index[0, :1]], others]),
        work.perceptual,
        comfy.model_management.get_torch_device(),
    )
    own = {name: values[0] for name, values in measured.items()}
    return own, {name: values[1:].mean(0) for name, values in measured.items()}


def decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the images [N, H, W, 3] of latents, a few at a time."""
    parts = []
    for few in latents.split(DECODED):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(vae.decode(few).float().cpu())
    return torch.cat(parts).clamp(0, 1)


def judged(judge: Any, images: torch.Tensor) -> torch.Tensor:
    """Return a classifier's probabilities [N, labels] of images, a few at a time."""
    judge.load(images[:JUDGED])

    def heard(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    probabilities: torch.Tensor = judge.classifier.predict(images, JUDGED, heard)
    return probabilities


def control_neutrals(work: Work) -> torch.Tensor:
    """Return the neutral images [R, H, W, 3] of CONTROLS, sampled once for a model and settings."""
    settings = replace(
        work.settings,
        seed=CONTROLS[0],
        patients=1,
        # one late swap: the sampler wants a branch, and this costs one row
        swap_steps=(work.settings.steps - 2,),
        prompts=work.settings.prompts[:1],
    )
    conditionings = replace(work.conditionings, attributes=work.conditionings.attributes[:1])
    prompts = [fingerprint(part) for part in (conditionings.neutral, conditionings.negative)]
    key = f"{settings} {prompts} {vae_digest(work.vae)}"
    kept = _neutrals.setdefault(work.model, {})
    if key not in kept or None in prompts:
        quiet = _Quiet()
        rows = [
            traverse(
                work.model,
                conditionings,
                replace(settings, seed=seed),
                work.rows_per_call,
                bar=quiet,
                told=quiet.tell,
            )[0][:1]
            for seed in CONTROLS
        ]
        kept.clear()
        kept[key] = torch.cat([decoded(work.vae, row) for row in rows])
    return kept[key]


class _Quiet:
    """A progress bar that shows nothing."""

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


_patchers: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def _patcher(distance: PerceptualDistance) -> Any:
    if distance.module not in _patchers:
        _patchers[distance.module] = managed(distance.module)
    return _patchers[distance.module]


def identity_of(
    work: Work, attributes: Any, labels: Sequence[str], graph: Mapping[str, Any], node_id: str
) -> Identity:
    """Return what a study of this work is: settings, and digests of every file that has a part."""
    settings = work.settings.report()
    for volatile in ("seed", "patients"):
        settings.pop(volatile)
    perceptual = work.perceptual.name if work.perceptual else "none"
    parts = ("model", "neutral", "negative", "attributes")
    nodes = list(upstream(graph, node_id, parts))
    prompts = (settings["neutral_prompt"], *settings["prompts"].values())
    judge = work.judge.classifier
    weights = {
        "model": _one([*hashes(origin(work.model) or {}).values(), *files_of(nodes, prompts).values()])
        or _state_digest(work.model.model),
        "vae": vae_digest(work.vae, files_of(upstream(graph, node_id, ("vae",)))),
        "classifier": _one([judge.sha256]),
    }
    return Identity(
        {
            **settings,
            "attributes": [item.name for item in attributes.attributes],
            "colours": [item.colour for item in attributes.attributes],
            "labels": [list(item.labels) for item in attributes.attributes],
            "aliases": {name: list(words) for name, words in attributes.aliases.items()},
            "judged": list(labels),
            "input_size": judge.input_size,
            "curve": None
            if work.curve is None
            else {
                "method": work.curve.method,
                "frames": work.curve.frames,
                "kept": list(work.curve.kept),
            },
            "controls": list(CONTROLS),
            "measures": [*MEASURES, *([perceptual] if work.perceptual else [])],
            "perceptual": perceptual,
            "words": sorted(
                {
                    f"{name}: {value}"
                    for node in nodes
                    for name, value in node.get("inputs", {}).items()
                    if isinstance(value, str) and value.strip() and any(word in name for word in _WORDS)
                }
            ),
        },
        weights,
    )


def vae_digest(vae: Any, files: Mapping[str, str] | None = None) -> str:
    """Return a digest of a VAE: of the files that it was read from, else of its weights."""
    patcher = getattr(vae, "patcher", None)
    known = hashes((patcher and origin(patcher)) or {})
    return _one([*known.values(), *(files or {}).values()]) or _state_digest(
        getattr(vae, "first_stage_model", None)
    )


def _one(digests: Sequence[str]) -> str:
    """One digest of several, whatever their order; empty without any."""
    each = sorted(set(filter(None, digests)))
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest() if each else ""


def _state_digest(module: Any) -> str:
    """Return a digest of a module's weights, taken once; "unknown" for what is none."""
    if module is None:
        return "unknown"
    if module not in _digests:
        digest = hashlib.sha256()
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        _digests[module] = digest.hexdigest()
    return _digests[module]


def together(patients: Sequence[Patient]) -> Block:
    """Return some patients as one block."""
    block = joined([patient.block for patient in patients])
    seconds = sum(patient.block.made["seconds"] for patient in patients)
    return replace(block, made={**block.made, "seconds": round(seconds, 2)})


class BlockWriter:
    """Gathers patients and writes a block of them whenever it is full.

    Parameters
    ----------
    store : Store
    size : int
        Patients to a block.
    pictured : set of int
        The seeds whose latents are kept.
    check : callable
        Called before each writing; raises where the folder is another's by now.
    """

    def __init__(self, store: Store, size: int, pictured: set[int], check: Callable[[], None]) -> None:
        self.store, self.size, self.pictured, self.check = store, size, pictured, check
        self.waiting: list[Patient] = []

    def add(self, patient: Patient) -> Block | None:
        """Take a patient; return the block where that filled one."""
        self.waiting.append(patient)
        return self.flush() if len(self.waiting) >= self.size else None

    def flush(self) -> Block | None:
        """Write what waits; return it, None where nothing does."""
        if not self.waiting:
            return None
        self.check()
        kept = [patient for patient in self.waiting if patient.seed in self.pictured]
        if kept:
            self.store.keep_latents(
                [patient.seed for patient in kept], np.stack([patient.latents for patient in kept])
            )
        block = together(self.waiting)
        self.store.add(block)
        self.waiting = []
        return block
