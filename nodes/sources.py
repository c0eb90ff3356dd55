"""The files that a graph may name: what stands in the lists of the loaders, and the path of each choice."""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import folder_paths

from ..medtraverse.checkpoint import is_unet_folder, is_vae_folder
from ..medtraverse.classifiers.formats import SUFFIXES, is_classifier_folder
from ..medtraverse.domain import Domain, load_domains
from ..medtraverse.weights import PYTORCH, SAFETENSORS

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
CLASSIFIER_SUFFIXES = SUFFIXES
METRICS_FOLDER = "metrics"
Choice = TypeVar("Choice")
READ_IN_FOLDERS = (*SAFETENSORS, *PYTORCH, ".json")


def domains() -> dict[str, Domain]:
    """Return all domains by name: the paper's and those in ComfyUI's ``user/medtraverse/domains``.

    Lists of nodes are made from them, so a file that cannot be read is logged: as an error it would take the
    whole pack away.
    """
    return _domains_and_mistakes()[0]


def domain_choices() -> list[str]:
    """Return the names of the domains, then what is wrong with each of the user's files that is none.

    So the mistake stands where the user looks for the domain. The page shows it beside, as it was loaded.
    """
    known, mistakes = _domains_and_mistakes()
    return [*known, *mistakes]


def pick_domain(choice: str, name: str = "domain") -> Domain:
    """Return the domain of a choice.

    Raises ValueError with what is wrong with its file, or with the good choices and the files left out.
    """
    known, mistakes = _domains_and_mistakes()
    if choice in mistakes:
        raise ValueError(choice)
    try:
        return pick(known, choice, name)
    except ValueError as error:
        raise ValueError(" ".join([str(error), *(f"Left out: {mistake}" for mistake in mistakes)])) from None


def _domains_and_mistakes() -> tuple[dict[str, Domain], list[str]]:
    folder = Path(folder_paths.get_user_directory()) / "medtraverse" / "domains"
    mistakes: list[str] = []
    known = load_domains(folder, report=lambda error: mistakes.append(str(error)))
    for mistake in mistakes:
        logging.error("MedTraverse: %s", mistake)
    return known, mistakes


def checkpoint_paths() -> dict[str, Path]:
    """Return ``{choice: path}``: the demo model, diffusers folders, single-file checkpoints, in order."""
    choices = {DEMO_MODEL: DEMO_WEIGHTS / "phantom-sd"}
    for name, folder in _diffusers_folders():
        if (folder / "model_index.json").is_file():
            choices.setdefault(name, folder)
    return choices | _listed("checkpoints")


def unet_paths() -> dict[str, Path | None]:
    """Return ``{choice: path}`` of U-Nets alone, the bundled ones first.

    The first choice is the checkpoint's own U-Net; its path is None. A folder is what diffusers' training
    scripts leave in ``checkpoint-500``: ``unet`` and ``unet_ema``. The ``unet`` of a whole model is not
    offered again.
    """
    folders = {
        name: folder
        for name, folder in _diffusers_folders()
        if is_unet_folder(folder)
        and not (folder.name == "unet" and (folder.parent / "model_index.json").is_file())
    }
    return {FROM_CHECKPOINT: None} | DEMO_UNETS | folders | _listed("diffusion_models")


def vae_paths() -> dict[str, Path | None]:
    """Return ``{choice: path}`` of VAEs alone; the first choice is the checkpoint's own, its path None.

    A folder is one that diffusers saved, such as sd-vae-ft-mse. The ``vae`` of a whole model is not offered.
    """
    folders = {
        name: folder
        for name, folder in _diffusers_folders()
        if is_vae_folder(folder)
        and not (folder.name == "vae" and (folder.parent / "model_index.json").is_file())
    }
    return {FROM_CHECKPOINT: None} | folders | _listed("vae")


def known_images_path(checkpoint: str, unet: str | None) -> Path | None:
    """Return the file that says which images a model knows, beside the weights that it was fine-tuned to.

    ``known.json`` in a folder, else ``NAME.known.json`` beside ``NAME.safetensors``; None where it is
    missing.
    """
    path = unet_paths().get(unet) if unet else checkpoint_paths().get(checkpoint)
    if path is None:
        return None
    known = path / "known.json" if path.is_dir() else path.with_suffix(".known.json")
    return known if known.is_file() else None


def classifier_paths() -> dict[str, Path]:
    """Return ``{choice: path}`` of the bundled classifiers, and of folders and
    files in ``models/classifiers``.

    A folder that transformers, timm or open_clip saved is one classifier; its files are not listed beside it.
    """
    files = _listed(CLASSIFIER_FOLDER, CLASSIFIER_SUFFIXES)
    folders = {
        name: folder for name, folder in _folders_below(CLASSIFIER_FOLDER) if is_classifier_folder(folder)
    }
    inside = tuple(f"{name}/" for name in folders)
    alone = {name: path for name, path in files.items() if not name.replace(os.sep, "/").startswith(inside)}
    return DEMO_CLASSIFIERS | folders | alone


def metric_folders() -> list[Path]:
    """Return the folders, ``models/metrics`` among them, that may hold the weights of LPIPS and Inception."""
    _register(METRICS_FOLDER, (".pth",))
    return [Path(folder) for folder in folder_paths.get_folder_paths(METRICS_FOLDER)]


def _register(kind: str, suffixes: Sequence[str]) -> None:
    """Make ComfyUI list files of ``models/kind`` with those suffixes, beside what it or a user has set up.

    ComfyUI registers ``classifiers`` itself, for files without a suffix; a folder in ``extra_model_paths``
    makes an entry for all files, without ``models/kind``.
    """
    known = folder_paths.folder_names_and_paths
    own = str(Path(folder_paths.models_dir) / kind)
    folders, listed = known.get(kind, ([own], set(suffixes)))
    # An empty set lists everything, so it stays empty.
    wanted = (
        (folders if own in folders else [*folders, own]),
        (set(listed) | set(suffixes) if listed else listed),
    )
    if known.get(kind) != wanted:
        known[kind] = wanted
        folder_paths.filename_list_cache.pop(kind, None)


def _listed(kind: str, suffixes: Sequence[str] = ()) -> dict[str, Path]:
    """Return ``{name: path}`` of ComfyUI's list of a kind of model; links that lead nowhere are left out."""
    if suffixes:
        _register(kind, suffixes)
    paths = {name: folder_paths.get_full_path(kind, name) for name in folder_paths.get_filename_list(kind)}
    return {
        name: Path(path)
        for name, path in paths.items()
        if path and (not suffixes or Path(path).suffix.lower() in suffixes)
    }


def _diffusers_folders() -> Iterator[tuple[str, Path]]:
    """Yield ``(choice, folder)`` for all folders below ``models/diffusers``."""
    return ((f"diffusers/{name}", folder) for name, folder in _folders_below("diffusers"))


def _folders_below(kind: str) -> Iterator[tuple[str, Path]]:
    """Yield ``(name, folder)`` for all folders below those of a kind of model, links followed as by core."""
    for root in folder_paths.get_folder_paths(kind):
        for place, names, _ in os.walk(root, followlinks=True):
            folder, names[:] = Path(place), sorted(names)
            # A link to a folder above would be walked in circles.
            if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
                names.clear()
            elif folder != Path(root):
                yield folder.relative_to(root).as_posix(), folder


def pick(choices: Mapping[str, Choice], choice: str, name: str) -> Choice:
    """Return the path behind a choice. Raises ValueError with the good ones: the server does not check it."""
    if choice not in choices:
        raise ValueError(f"{name}: there is no {choice!r}; the choices are {', '.join(map(repr, choices))}.")
    return choices[choice]


def fingerprint(*paths: str | os.PathLike[str] | None) -> str:
    """Return a digest for ComfyUI's cache that changes when one of the files changes, or what is read beside
    it.

    Saved images hold it, so it shows no path.
    """
    marks = []
    for path in (Path(path) for path in paths if path):
        if path.is_dir():
            below = (
                Path(place) / name for place, _, names in os.walk(path, followlinks=True) for name in names
            )
            files = sorted(file for file in below if file.suffix.lower() in READ_IN_FOLDERS)
        else:
            files = [path, path.with_suffix(".json"), path.parent / "config.json"]
        marks += [
            (str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()
        ]
    return hashlib.sha256(repr(marks).encode()).hexdigest()
