"""The files that a graph may name: what stands in the lists of the loaders, and the path of each choice."""

import hashlib
import logging
from pathlib import Path

import folder_paths

from ..medtraverse.domain import load_domains

PACK = Path(__file__).resolve().parent.parent
DEMO_WEIGHTS = PACK / "demo" / "weights"
DEMO_MODEL = "MedTraverse demo (phantoms)"
DEMO_UNETS = {
    "MedTraverse demo CheXpert (phantoms)": DEMO_WEIGHTS / "phantom-chexpert.safetensors",
    "MedTraverse demo ISIC (phantoms)": DEMO_WEIGHTS / "phantom-isic.safetensors",
    "MedTraverse demo CheXpert, confounded (phantoms)": DEMO_WEIGHTS / "phantom-confounded.safetensors",
}
DEMO_CLASSIFIERS = {
    "MedTraverse demo CheXpert": DEMO_WEIGHTS / "classifier-chexpert.safetensors",
    "MedTraverse demo ISIC": DEMO_WEIGHTS / "classifier-isic.safetensors",
}
FROM_CHECKPOINT = "from checkpoint"
CLASSIFIER_FOLDER = "classifiers"
METRICS_FOLDER = "metrics"


def domains():
    """Return all domains by name: the paper's and those in ComfyUI's ``user/medtraverse/domains``.

    Lists of nodes are made from them, so a file that cannot be read is logged: as an error it would take the whole pack away.
    """
    folder = Path(folder_paths.get_user_directory()) / "medtraverse" / "domains"
    return load_domains(folder, report=lambda error: logging.error("MedTraverse: %s", error))


def checkpoint_paths():
    """Return ``{choice: path}`` of the bundled demo model, diffusers folders and single-file checkpoints, in that order."""
    choices = {DEMO_MODEL: DEMO_WEIGHTS / "phantom-sd"}
    for root in folder_paths.get_folder_paths("diffusers"):
        for index in sorted(Path(root).rglob("model_index.json")):
            choices.setdefault(f"diffusers/{index.parent.relative_to(root).as_posix()}", index.parent)
    for name in folder_paths.get_filename_list("checkpoints"):
        choices[name] = Path(folder_paths.get_full_path("checkpoints", name))
    return choices


def unet_paths():
    """Return ``{choice: path}`` of U-Nets alone, the bundled ones first; the first choice, the checkpoint's own U-Net, has the path None."""
    names = folder_paths.get_filename_list("diffusion_models")
    return (
        {FROM_CHECKPOINT: None}
        | DEMO_UNETS
        | {name: Path(folder_paths.get_full_path("diffusion_models", name)) for name in names}
    )


def classifier_paths():
    """Return ``{choice: path}`` of the bundled classifiers and of those in ``models/classifiers``."""
    if CLASSIFIER_FOLDER not in folder_paths.folder_names_and_paths:
        folder = Path(folder_paths.models_dir) / CLASSIFIER_FOLDER
        folder_paths.folder_names_and_paths[CLASSIFIER_FOLDER] = (
            [str(folder)],
            {".safetensors", ".pth", ".pt", ".ckpt"},
        )
    names = folder_paths.get_filename_list(CLASSIFIER_FOLDER)
    return DEMO_CLASSIFIERS | {
        name: Path(folder_paths.get_full_path(CLASSIFIER_FOLDER, name)) for name in names
    }


def metric_folders():
    """Return the folders, ``models/metrics`` first, that may hold the weights of LPIPS and Inception."""
    if METRICS_FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.folder_names_and_paths[METRICS_FOLDER] = (
            [str(Path(folder_paths.models_dir) / METRICS_FOLDER)],
            {".pth"},
        )
    return [Path(folder) for folder in folder_paths.get_folder_paths(METRICS_FOLDER)]


def pick(choices, choice, name):
    """Return the path behind a choice. Raises ValueError with the good ones: the server does not check a V3 combo."""
    if choice not in choices:
        raise ValueError(f"{name}: there is no {choice!r}; the choices are {', '.join(map(repr, choices))}.")
    return choices[choice]


def fingerprint(*paths):
    """Return a digest that changes when one of the files changes, for ComfyUI's cache; saved images hold it, so it shows no path."""
    marks = []
    for path in filter(None, (p and Path(p) for p in paths)):
        files = (
            [path] if path.is_file() else sorted(path.rglob("*.safetensors")) + sorted(path.rglob("*.json"))
        )
        marks += [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return hashlib.sha256(repr(marks).encode()).hexdigest()
