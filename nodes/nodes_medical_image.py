"""LoadMedicalImage: a patient's file as an image. SaveMedicalImage: a synthetic image as a file."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..medtraverse.digest import sha256_of
from ..medtraverse.figures.drawing import Drawing, write
from ..medtraverse.figures.pair import pair_figure
from ..medtraverse.medical_image import (
    FITS,
    SQUASH,
    WINDOWS,
    MedicalImage,
    MedicalSource,
    UnreadableImageError,
    Window,
    fitted,
    read_medical_image,
)
from ..medtraverse.medical_image_dicom import series_of
from ..medtraverse.medical_image_write import (
    COLOURS,
    FORMATS,
    SIZES,
    Written,
    drawn,
    write_medical_images,
)
from ..medtraverse.pixels import to_numpy
from ..medtraverse.trajectory import Trajectory
from . import medical_files
from .live import say
from .output_place import output_place
from .schema import schema
from .sockets import CATEGORY, Domain, Source, checked_sockets
from .sockets import Trajectory as TrajectorySocket
from .views import compare_view

REFUSE, LEAVE_OUT = "stop", "leave out"
UNREADABLE = (REFUSE, LEAVE_OUT)


class LoadMedicalImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="LoadMedicalImage",
            display_name="Load Medical Image",
            category=CATEGORY,
            search_aliases=[
                "DICOM",
                "dcm",
                "load image",
                "chest X-ray",
                "dermoscopy",
                "16 bit",
                "window level",
            ],
            essentials_category="Medical",
            description="Reads DICOM, PNG, TIFF, JPEG or WebP as it is looked at: window, MONOCHROME1, 8 "
            "to 16 "
            "bits. What the file says about the patient stays in it.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=medical_files.choices(),
                    default=medical_files.DEMO_CHEST,
                    tooltip="A file of ComfyUI's input folder, or a folder of it (with a slash at the "
                    "end): all "
                    "its images in the order of their names. Drop a file on the node to upload it. The first "
                    "ones ship with MedTraverse.",
                ),
                io.Combo.Input(
                    "window",
                    options=list(WINDOWS),
                    default=WINDOWS[0],
                    tooltip="Which values are shown. automatic takes the file's VOI LUT, else its first "
                    "window, "
                    "else all values. own takes the two numbers below. The CT windows are in Hounsfield "
                    "units.",
                ),
                io.Float.Input(
                    "window_center",
                    default=0.0,
                    min=-1e6,
                    max=1e6,
                    step=1.0,
                    tooltip="Centre of the window 'own', in the file's values after its rescale.",
                ),
                io.Float.Input(
                    "window_width",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=1.0,
                    tooltip="Width of the window 'own'.",
                ),
                io.Int.Input(
                    "frame",
                    default=1,
                    min=1,
                    max=1_000_000,
                    tooltip="Which frame of a file with several, counted from 1.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=SQUASH,
                    tooltip="How an image becomes square: squash changes both sides on their own, as the "
                    "paper "
                    "does; pad adds black; crop cuts the longer side about its centre.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Side of the image in pixels. 0 takes the wired domain's; without one the file's "
                    "own size stays.",
                ),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=10_000_000,
                    tooltip="Of a folder: how many images are passed over.",
                ),
                io.Int.Input(
                    "count",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip="Of a folder: how many images are read at most.",
                ),
                io.Combo.Input(
                    "unreadable",
                    options=list(UNREADABLE),
                    default=REFUSE,
                    tooltip="Of a folder: whether a file that cannot be read stops the run, or is left "
                    "out and "
                    "named by its number.",
                ),
                Domain.Input(
                    "domain",
                    optional=True,
                    tooltip="The domain from Load Medical Checkpoint, for the model's size.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The images, in three channels."),
                io.Mask.Output("padding", display_name="padding", tooltip="1 where pad has added black."),
                Source.Output(
                    "source",
                    display_name="source",
                    tooltip="What Save Medical Image needs to write images back, and nothing about the "
                    "patient.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="How each image was read, one line each."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        # core's own check would know listed names only, and a large folder's files are not listed
        if file is None:
            return True
        try:
            medical_files.paths_of(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, file: str | None = None, first: int = 0, count: int = 64, **settings: Any
    ) -> str | None:
        """Return a digest of what the files hold: neither their names nor their places go into it."""
        if file is None:
            return None
        paths = medical_files.paths_of(file)
        if medical_files.is_folder(file):
            paths = paths[first : first + count]
        contents = [sha256_of(path) for path in paths]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    @classmethod
    @checked_sockets
    def execute(
        cls,
        file: str,
        window: str,
        window_center: float,
        window_width: float,
        frame: int,
        fit: str,
        size: int,
        first: int,
        count: int,
        unreadable: str,
        domain: Any = None,
    ) -> Any:
        chosen = Window(window, float(window_center), float(window_width))
        chosen.check()
        for name, value, known in (("fit", fit, FITS), ("unreadable", unreadable, UNREADABLE)):
            if value not in known:
                raise ValueError(f"{name}: there is no {value!r}; the choices are {', '.join(known)}.")
        side = size or (domain.size if domain is not None else 0)
        if side % 8:
            raise ValueError(
                f"size: {side} is no multiple of 8; take {side // 8 * 8 or 8} or {side // 8 * 8 + 8}."
            )
        paths, folder = medical_files.paths_of(file), medical_files.is_folder(file)
        total = len(paths)
        if folder:
            paths = paths[first : first + count]
            if not paths:
                raise ValueError(
                    f"first: {first} images are passed over, but {file!r} has {total}; give less."
                )
            _check_series(file, paths)
        loaded, padding, numbers, lines = [], [], [], []
        bar = comfy.utils.ProgressBar(len(paths))
        for place, path in enumerate(paths):
            comfy.model_management.throw_exception_if_processing_interrupted()
            number = first + place + 1 if folder else 1
            # A file of a folder was not named by the user, and its name may be a patient's.
            called = f"number {number} of {total} in {file!r}" if folder else repr(file)
            try:
                image = read_medical_image(path, chosen, frame)
            except UnreadableImageError as error:
                if not folder or unreadable == REFUSE:
                    raise ValueError(f"file: {called} {error}") from None
                lines.append(f"{number}: left out, as it {error}")
                continue
            except ValueError as error:
                name, _, fault = str(error).partition(": ")
                raise ValueError(f"{name}: {called}: {fault}" if folder else str(error)) from None
            if side:
                image, black = fitted(image, (side, side), fit)
            else:
                black = np.zeros(image.pixels.shape[:2], np.float32)
            loaded.append(image)
            padding.append(black)
            numbers.append(number)
            lines.append(f"{number}: {image.source.line()}")
            bar.update(1)
        if not loaded:
            raise ValueError(f"file: {file!r} has no image that can be read; see its files one by one.")
        _check_sizes(loaded)
        say(lines[0] if len(lines) == 1 else f"{len(loaded)} of {total} images; {lines[0]}")
        images = np.stack([_three_channels(image.pixels) for image in loaded])
        return io.NodeOutput(
            torch.from_numpy(images),
            torch.from_numpy(np.stack(padding)),
            tuple(image.source for image in loaded),
            "\n".join(lines),
        )


def _check_series(choice: str, paths: Sequence[Path]) -> None:
    """Raise ValueError where files of a folder are slices of one volume."""
    places: dict[str, set[tuple[float, ...]]] = {}
    for path in paths:
        series = series_of(path)
        if series:
            places.setdefault(series[0], set()).add(series[1])
            if len(places[series[0]]) > 1:
                raise ValueError(
                    f"file: {choice!r} holds slices of one 3-D series (CT, MR or PET); choose the one slice "
                    "that you want."
                )


def _check_sizes(loaded: Sequence[MedicalImage]) -> None:
    """Raise ValueError where images of their own sizes are to be one batch."""
    sizes = sorted({image.pixels.shape[:2] for image in loaded})
    if len(sizes) > 1:
        (rows, columns), (more_rows, more_columns) = sizes[0], sizes[-1]
        raise ValueError(
            f"size: the images have sizes from {columns} × {rows} to {more_columns} × {more_rows}; give a "
            f"size, "
            "or wire a domain."
        )


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """Return an image as [H, W, 3]."""
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


class SaveMedicalImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="SaveMedicalImage",
            display_name="Save Medical Image",
            category=CATEGORY,
            search_aliases=["DICOM", "dcm", "save image", "secondary capture", "16 bit PNG", "export"],
            description="Writes synthetic images as DICOM Secondary Capture or as PNG of 16 bits. Each "
            "says that "
            "it is synthetic: in its header, in its series description and in a corner of the image.",
            inputs=[
                io.Image.Input("images", tooltip="Synthetic images, such as VAE Decode's."),
                io.String.Input(
                    "filename_prefix",
                    default="medtraverse/synthetic",
                    tooltip="Name within ComfyUI's output folder, folders included; a number is added that "
                    "counts up.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=FORMATS[0],
                    tooltip="DICOM has new identifiers: the file is no part of the patient's study.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default=SIZES[0],
                    tooltip="Size of the images: as they come from the model, or brought back to the size of "
                    "the file that the source is of.",
                ),
                io.Combo.Input(
                    "colour",
                    options=list(COLOURS),
                    default=COLOURS[0],
                    tooltip="Grey (16 bits) or colour (8 bits in DICOM). Without a source, images whose "
                    "channels "
                    "are equal are grey.",
                ),
                io.Boolean.Input(
                    "burn_in",
                    default=True,
                    tooltip="Writes SYNTHETIC into the lower left corner.",
                ),
                io.String.Input(
                    "series",
                    default="",
                    tooltip="Series description; it follows the word SYNTHETIC.",
                ),
                io.String.Input(
                    "patient_name",
                    default="",
                    tooltip="Patient's name for the DICOM file, as Family^Given; empty as a rule. What "
                    "you type "
                    "stands in the workflow too.",
                ),
                io.String.Input(
                    "patient_id",
                    default="",
                    tooltip="Patient's number for the DICOM file; empty as a rule. What you type stands "
                    "in the "
                    "workflow too.",
                ),
                io.String.Input(
                    "derivation",
                    default="",
                    tooltip="How the images were made, in your words; goes into the files beside what the "
                    "trajectory says.",
                ),
                Source.Input(
                    "source",
                    optional=True,
                    tooltip="From Load Medical Image: colour, size, spacing and modality of the file. "
                    "Images of "
                    "one patient follow each other.",
                ),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The images before, one for each patient or each image: a figure of the pair and "
                    "their difference is written too.",
                ),
                TrajectorySocket.Input(
                    "trajectory",
                    optional=True,
                    tooltip="The trajectory that the images are of: method, model's digests and settings "
                    "go into "
                    "the files.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(
        cls,
        images: torch.Tensor,
        filename_prefix: str,
        format: str,
        size: str,
        colour: str,
        burn_in: bool,
        series: str,
        patient_name: str,
        patient_id: str,
        derivation: str,
        source: tuple[MedicalSource, ...] | None = None,
        original: torch.Tensor | None = None,
        trajectory: Trajectory | None = None,
    ) -> Any:
        written = Written(format, size, colour, burn_in, series, patient_name, patient_id)
        written.check()
        sources = source or ()
        pixels = to_numpy(images)[..., :3]
        befores = _befores(original, len(pixels), pixels.shape[1:3])
        settings = described(trajectory, derivation)
        folder, name, number = _place(filename_prefix, pixels.shape[2], pixels.shape[1])
        stem = Path(folder, f"{name}_{number:05}")
        files = write_medical_images(stem, pixels, sources, written, settings)
        figures: list[Path] = []
        view: dict[str, Any] = {}
        if befores is not None:
            drawing = Drawing(pair_figure(befores, pixels), "", settings)
            figures = write(drawing, stem.with_name(f"{stem.name}_pair"), "none", table=False)
            titles = [f"image {place + 1}" for place in range(len(pixels))]
            view = compare_view(torch.from_numpy(befores), torch.from_numpy(pixels), titles)
        each = len(pixels) // len(sources) if sources else 1
        shown = [
            _three_channels(drawn(image, sources[place // each] if sources else None, written))
            for place, image in enumerate(pixels[:16])
        ]
        return io.NodeOutput(ui={**_shown(cls, shown, [*files, *figures]), **view})


def described(trajectory: Trajectory | None, words: str) -> dict[str, Any]:
    """Return method, words of the user, and settings of a trajectory, the most telling first."""
    settings: dict[str, Any] = {"method": "image made by a diffusion model"}
    if trajectory is not None:
        told = trajectory.describe()
        chosen = dict(told["settings"])
        origin = ", from a projected image" if "start" in chosen else ", from noise"
        settings["method"] = f"prompt swap in a diffusion model's latent space (arXiv:2503.23623){origin}"
        settings["attributes"] = ", ".join(trajectory.attributes)
        settings["points"] = ", ".join(trajectory.points)
        settings |= {key: chosen.pop(key) for key in ("model", "cfg", "sampler", "steps") if key in chosen}
        settings |= {"trajectory": {**told, "settings": chosen}}
    if words.strip():
        settings = {"method": settings.pop("method"), "derivation": words.strip(), **settings}
    return settings


def _befores(original: Any, count: int, size: tuple[int, int]) -> np.ndarray | None:
    """Return the image before for each image. Raises ValueError where they do not fit."""
    if original is None:
        return None
    before = to_numpy(original)[..., :3]
    if count % len(before) or before.shape[1:3] != tuple(size):
        raise ValueError(
            f"original: {len(before)} images of {before.shape[2]} × {before.shape[1]} do not go with "
            f"{count} of "
            f"{size[1]} × {size[0]}; wire one for each patient, of the same size."
        )
    return np.repeat(before, count // len(before), axis=0)


def _place(prefix: str, width: int, height: int) -> tuple[str, str, int]:
    """Return folder, name and number of the next file. Raises ValueError outside the output folder."""
    folder, name, _, _ = output_place(prefix, width, height, "medtraverse/synthetic")
    # core counts names that end in an underscore; these have more behind their number
    taken = [
        int(part[:5])
        for file in Path(folder).glob("*")
        if file.name.startswith(f"{name}_")
        and (part := file.name[len(name) + 1 :])[:5].isdigit()
        and part[5:6] in ("_", ".")
    ]
    return folder, name, max(taken, default=0) + 1


def _shown(cls: type, images: Sequence[np.ndarray], files: Sequence[Path]) -> Mapping[str, Any]:
    """Return what ``ui`` holds: a preview of the images as they were written, and the files."""
    root = Path(folder_paths.get_output_directory())
    saved = [
        {
            "filename": file.name,
            "subfolder": file.parent.relative_to(root).as_posix() if file.parent != root else "",
            "type": "output",
        }
        for file in files
    ]
    try:
        preview = ui.PreviewImage(torch.from_numpy(np.stack(images)), cls=cls).as_dict()
    except OSError as error:
        logging.warning("MedTraverse: the preview could not be written (%s); the files are whole.", error)
        preview = {}
    return {**preview, "files": saved}
