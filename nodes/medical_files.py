"""The medical images that a graph may name: the shipped phantoms, and what lies in ComfyUI's input folder."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..medtraverse.medical_image import SUFFIXES
from .sources import PACK

DEMO = PACK / "demo" / "dicom"
DEMO_CHEST, DEMO_SKIN = "MedTraverse demo chest film (phantom)", "MedTraverse demo skin image (phantom)"
DEMO_CHESTS = "MedTraverse demo chest films (4 phantoms)"
DEMO_TRUTHS = "MedTraverse demo chest films, true counterfactuals (8 phantoms)"
DEMOS = {
    DEMO_CHEST: DEMO / "chest" / "chest-1.dcm",
    DEMO_SKIN: DEMO / "dermoscopy" / "dermoscopy-1.dcm",
    DEMO_CHESTS: DEMO / "chest",
    DEMO_TRUTHS: DEMO / "chest-truth",
}
# A folder with more files stands in the list as a whole; the page would choke on a data set's names.
MOST_LISTED, DEEPEST = 200, 4
# The list is made for every prompt: a data set in the folder must not hold it up.
MOST_SEEN = 20_000
SKIPPED = ("clipspace",)


def choices() -> list[str]:
    """Return what the list of the node shows: phantoms, folders (with a slash at the end), files."""
    folders, files = [], []
    for name, images in _folders():
        if name and images:
            folders.append(f"{name}/")
        if len(images) <= MOST_LISTED:
            files += [f"{name}/{image}" if name else image for image in images]
    return [*DEMOS, *sorted(folders), *sorted(files)]


def _folders() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each folder below ComfyUI's input folder, and its images."""
    root, seen = Path(folder_paths.get_input_directory()), 0
    for place, names, files in os.walk(root, followlinks=True):
        seen += len(files)
        if seen > MOST_SEEN:
            return
        folder = Path(place).relative_to(root).as_posix()
        folder = "" if folder == "." else folder
        deep = len(Path(folder).parts)
        looped = Path(place).is_symlink() and root.resolve().is_relative_to(Path(place).resolve())
        names[:] = (
            []
            if deep >= DEEPEST or looped
            else sorted(name for name in names if not name.startswith(".") and name not in SKIPPED)
        )
        yield folder, images_among(files)


def images_among(names: list[str]) -> list[str]:
    """Return the names, sorted, that may be images: by suffix, or without one, as DICOM files often are."""
    return sorted(
        name
        for name in names
        if not name.startswith(".")
        and name != "DICOMDIR"
        and (name.lower().endswith(SUFFIXES) or re.fullmatch(r"\w*\d+|\d+(\.\d+)+", name))
    )


def paths_of(choice: str) -> list[Path]:
    """Return the file of a choice, or the images of a folder in the order of their names.

    Raises
    ------
    ValueError
        A name that leads out of ComfyUI's input folder, or to nothing.
    """
    if choice in DEMOS:
        place = DEMOS[choice]
    else:
        root = os.path.abspath(folder_paths.get_input_directory())
        place = Path(os.path.abspath(os.path.join(root, choice)))
        if "\0" in choice or not place.is_relative_to(root):
            raise ValueError(
                f"file: {choice!r} leads out of ComfyUI's input folder; copy the file into it, or upload it."
            )
    if place.is_dir():
        names = images_among([entry.name for entry in os.scandir(place) if entry.is_file()])
        if not names:
            raise ValueError(f"file: {choice!r} is a folder without images; choose another.")
        return [place / name for name in names]
    if not choice.strip() or not place.is_file():
        raise ValueError(
            f"file: there is no {choice!r} in ComfyUI's input folder; upload it, or choose another."
        )
    return [place]


def is_folder(choice: str) -> bool:
    """Return whether a choice is a folder of images."""
    return choice in (DEMO_CHESTS, DEMO_TRUTHS) or (
        choice not in DEMOS and os.path.isdir(os.path.join(folder_paths.get_input_directory(), choice))
    )
