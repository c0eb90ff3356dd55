"""Files for the widgets on the canvas: trajectory viewer, latent map, CFRT panel.

They lie in ComfyUI's temp folder, below ``medtraverse``, and a node's ``ui`` names one JSON file; the page
loads the rest on demand. What the JSON file holds is said in ``view_contract.py``.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import ui
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..medtraverse.evaluation import Evaluation
from ..medtraverse.notice import NOTICE
from ..medtraverse.pixels import to_bytes
from ..medtraverse.trajectory import Trajectory
from ..medtraverse.whole_file import whole_file, write_text
from .live import say
from .rough_colours import colour_map, coloured
from .view_contract import FORMAT

# Page, workflow, node and turn in a list of what is running.
Maker = tuple[str, str, str, int | None] | None

FOLDER = "medtraverse"
# Address of a row's decoded image: this, the view's name and the row.
DECODER = "/medtraverse/decoded/"
# Images of one viewer, and thumbnails of one map; further patients are left out, and the widget says so.
MOST_IMAGES, MOST_THUMBNAILS = 3200, 40_000
# Bytes of one viewer's images, as MOST_IMAGES, and of all views together, of which the oldest then go.
MOST_BYTES, MOST_BYTES_KEPT = 2**30, 4 * 2**30
COLUMNS, SIDE = 10, 96
# Mean distance of a grey image's channels from their mean: decoded films have .002, a pale skin .013.
GREY = 0.006
# A browser's numbers are exact up to here.
_EXACT = 2**53
# Views in the folder, the oldest first: name to the node that made it (None where unknown) and its bytes.
_kept: dict[str, tuple[Maker, int]] = {}
# What decodes a view's latents, by the view's name, for as long as ComfyUI itself keeps it.
_vaes: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def trajectory_key(trajectory: Trajectory) -> str:
    """Return a digest by which the page knows views of one traversal, whole or in part.

    It is made from settings, kind and the first neutral latent.
    """
    neutral = trajectory.latents[trajectory.index[0, 0, 0]]
    first = neutral.float().cpu().contiguous().numpy().tobytes()
    said = [trajectory.kind, trajectory.neutral, trajectory.settings]
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode() + first).hexdigest()[:24]


def preview(image: torch.Tensor, cls: type) -> dict[str, Any]:
    """Return core's preview of a figure for ``ui``.

    One that cannot be written is a line on the node and in the log.
    """
    try:
        files: dict[str, Any] = ui.PreviewImage(image, cls=cls).as_dict()
        return files
    except OSError as error:
        say(_warning("picture", error))
        return {}


def shown(
    node: type,
    figure: torch.Tensor | None = None,
    text: str = "",
    report: str = "",
    view: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return ``ui`` of a node: what it shows on the canvas beside its outputs.

    Parameters
    ----------
    node : class
        The node; its name is in the preview's file name.
    figure : Tensor [1, H, W, 3], optional
        For core's preview.
    text : str
        Text on the node; empty for none.
    report : str
        JSON for who reads the history by the API; empty for none.
    view : dict, optional
        ``ui`` of a view of this module.
    """
    return {
        **(preview(figure, node) if figure is not None else {}),
        **({"text": (text,)} if text else {}),
        **({"medtraverse": (report,)} if report else {}),
        **(view or {}),
    }


def trajectory_view(trajectory: Trajectory, images: torch.Tensor) -> dict[str, Any]:
    """Write the viewer's files for the images [rows, H, W, 3] of a trajectory; return ``ui``."""
    trajectory.check_rows(images)
    height, width = images.shape[1:3]
    return _written(_viewer, trajectory, images.__getitem__, [width, height], approximate=False)


def latent_view(trajectory: Trajectory, vae: Any = None) -> dict[str, Any]:
    """Write the viewer's files for a trajectory that nothing has decoded; return ``ui``.

    Its images are latents in rough colours. With a ``vae`` the page may ask for each of them decoded.
    """
    height, width = trajectory.latents.shape[2:]
    colours = trajectory.rough
    if colours is None:
        colours = colour_map(comfy.latent_formats.SD15())
    if colours is None or trajectory.latents.shape[1] != len(colours) - 1:
        return {}

    def image(row: int, colours: torch.Tensor = colours) -> Any:
        return coloured(trajectory.latents[row : row + 1].cpu(), colours)[0]

    return _written(_viewer, trajectory, image, [width, height], approximate=True, vae=vae)


def can_decode(name: str) -> bool:
    """Return whether the latents of a view can be decoded: a VAE was wired, and ComfyUI keeps it still."""
    return name in _vaes


def decoded_file(name: str, row: int) -> Path:
    """Return where the decoded image of a view's row lies, once it was asked for."""
    return _folder() / f"{name}-{row}-decoded.png"


def decode(name: str, row: int) -> bool:
    """Decode a row of a view to its file; return whether it is there. For the thread that runs prompts."""
    file, vae = decoded_file(name, row), _vaes.get(name)
    if file.is_file():
        return True
    if vae is None or name not in _kept:
        return False
    try:
        latents = np.load(_latents_file(name), mmap_mode="r")
        if row >= len(latents):
            return False
        with torch.inference_mode():
            image = vae.decode(torch.from_numpy(latents[row : row + 1].copy()))[0]
        with whole_file(file) as part:
            _save(Image.fromarray(to_bytes(image)), part, "PNG", compress_level=1)
    except Exception as error:  # whatever somebody's VAE raises
        del _vaes[name]
        logging.warning("MedTraverse: the viewer's images cannot be decoded (%s)", error)
        return False
    maker, size = _kept.pop(name)
    _kept[name] = maker, size + file.stat().st_size
    _keep_bounded()
    return True


def compare_view(
    before: torch.Tensor,
    after: torch.Tensor,
    titles: Sequence[str],
    facts: Sequence[Sequence[str]] = (),
    truth: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Write the compare viewer's files; return ``ui``.

    Parameters
    ----------
    before, after : Tensor [N, H, W, 3]
        Images and their counterfactuals, in 0..1; grey where the channels of `before` are nearly equal.
    titles : sequence of str, one for each pair
    facts : sequence of sequences of str
        None, or for each pair the lines that are said of it.
    truth : Tensor [N, H, W, 3], optional
        True counterfactuals.
    """
    return _written(_compare, before, after, titles, facts or [()] * len(titles), truth)


def map_view(
    trajectory: Trajectory,
    coordinates: np.ndarray,
    perplexity: float,
    seed: int,
    images: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Write the latent map's files; return ``ui``.

    ``coordinates`` [rows, 2] go into the JSON file, thumbnails of ``images`` on sheets of a hundred.
    """
    return _written(_map, trajectory, coordinates, perplexity, seed, images)


def cfrt_view(evaluation: Evaluation, published: Mapping[str, float]) -> dict[str, Any]:
    """Write the CFRT panel's file for an ``Evaluation``; ``published`` maps attribute to the paper's CFRT."""
    trajectory = evaluation.trajectory
    probabilities = np.zeros((len(trajectory.latents), len(evaluation.labels)))
    probabilities[trajectory.index.numpy()] = evaluation.probabilities
    results = [
        {
            "attribute": attribute,
            "target": result.target,
            "cfrt": result.cfrt,
            "low": result.interval[0],
            "high": result.interval[1],
            "successes": result.successes,
            "patients": result.patients,
            "published": published.get(attribute),
            "success": result.success.tolist(),
            "leaked": result.leaked.tolist(),
            "deltas": result.deltas.round(5).tolist(),
            "flip_rate": evaluation.flips[attribute].report(),
        }
        for attribute, result in evaluation.results.items()
    ]
    # Labels as the classifier writes them: the page compares them letter by letter.
    attributes = [
        {**attribute, "labels": labels}
        for attribute, labels in zip(_attributes(trajectory), evaluation.own_labels)
    ]
    own = {
        "attributes": attributes,
        "labels": list(evaluation.labels),
        "probabilities": probabilities.round(5).tolist(),
        "far": list(evaluation.far),
        "results": results,
    }
    return _written(_publish, trajectory, "cfrt", own)


def forget(shown: Mapping[str, Any]) -> None:
    """Delete the files of a view that another has taken the place of; ``shown`` is its ``ui``."""
    for view in shown.get("medtraverse_view", ()):
        if "view" in view:
            _delete(str(view["view"]).removesuffix(".json"))


def _written(write: Callable[..., None], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return ``ui`` for a view whose files ``write(name, ...)`` writes.

    A run's results are worth more than a look at them: a view that cannot be written is a line on the node
    and in the log.
    """
    name, node = uuid.uuid4().hex[:16], _running_node()
    try:
        try:
            write(name, *arguments, **options)
        except OSError:
            if not _delete(*_views_of(node)):
                raise
            write(name, *arguments, **options)
    except (OSError, RuntimeError, MemoryError) as error:
        _delete(name)
        _warning("view", error)
        return {"medtraverse_view": [{"unwritten": _reason(error)}]}
    except BaseException:
        _delete(name)
        raise
    if _core_forgets():
        _delete(*_views_of(node))
    _kept[name] = node, sum(path.stat().st_size for path in _files(name))
    _keep_bounded()
    return {"medtraverse_view": [{"view": f"{name}.json", "subfolder": FOLDER, "type": "temp"}]}


def _keep_bounded() -> None:
    """Delete the oldest views until the rest is within the limit; the newest stays."""
    while len(_kept) > 1 and sum(size for _, size in _kept.values()) > MOST_BYTES_KEPT:
        _delete(next(iter(_kept)))


def _viewer(
    name: str,
    trajectory: Trajectory,
    image: Callable[[int], Any],
    size: Sequence[int],
    approximate: bool,
    vae: Any = None,
) -> None:
    _folder().mkdir(parents=True, exist_ok=True)
    patients = _write_images(name, image, trajectory.index.flatten(1).tolist())
    if vae is not None:
        rows = 1 + int(trajectory.index[:patients].max())
        np.save(_latents_file(name), trajectory.latents[:rows].float().cpu().numpy())
        with contextlib.suppress(TypeError):  # a stranger's VAE may allow no weak reference
            _vaes[name] = vae
    own = {
        "size": size,
        "images": {"subfolder": FOLDER, "type": "temp", "prefix": f"{name}-", "suffix": ".png"},
        "approximate": approximate,
        "left_out": trajectory.patients - patients,
        **({"decoder": f"{DECODER}{name}/"} if vae is not None else {}),
    }
    _publish(name, trajectory, "trajectory", own, patients)


def _compare(
    name: str,
    before: torch.Tensor,
    after: torch.Tensor,
    titles: Sequence[str],
    facts: Sequence[Sequence[str]],
    truth: torch.Tensor | None,
) -> None:
    _folder().mkdir(parents=True, exist_ok=True)
    images = torch.cat([before, after, *([truth] if truth is not None else [])])
    # What a decoder makes of a grey film has slightly different channels.
    tint = (before - before.mean(dim=-1, keepdim=True)).abs().mean()
    count, deep = len(before), bool(tint < GREY)

    def image(row: int) -> Any:
        if not deep:
            return images[row]
        # A browser's canvas has 8 bits a channel; a window over them needs more.
        levels = (images[row].mean(dim=-1).clamp(0, 1) * 65535).round().int()
        return torch.stack([levels >> 8, levels & 255, levels * 0], dim=-1).float() / 255

    rows = [list(range(pair, len(images), count)) for pair in range(count)]
    shown = _write_images(name, image, rows)
    record = {
        "format": FORMAT,
        "view": "compare",
        "notice": NOTICE,
        "size": [images.shape[2], images.shape[1]],
        "images": {"subfolder": FOLDER, "type": "temp", "prefix": f"{name}-", "suffix": ".png"},
        "deep": deep,
        "pairs": [
            {
                "title": titles[pair],
                "before": pair,
                "after": count + pair,
                **({"truth": 2 * count + pair} if truth is not None else {}),
                "facts": list(facts[pair]),
            }
            for pair in range(shown)
        ],
        "left_out": count - shown,
    }
    write_text(_folder() / f"{name}.json", json.dumps(record, separators=(",", ":")))


def _map(
    name: str,
    trajectory: Trajectory,
    coordinates: np.ndarray,
    perplexity: float,
    seed: int,
    images: torch.Tensor | None,
) -> None:
    sheets = None
    if images is not None and len(images) <= MOST_THUMBNAILS:
        _folder().mkdir(parents=True, exist_ok=True)
        _write_sheets(name, images)
        sheets = {
            "subfolder": FOLDER,
            "type": "temp",
            "prefix": f"{name}-",
            "suffix": ".jpg",
            "columns": COLUMNS,
            "rows": COLUMNS,
            "side": SIDE,
        }
    x, y = np.asarray(coordinates, dtype=np.float64).T.round(4).tolist()
    own = {"x": x, "y": y, "perplexity": float(perplexity), "seed": seed, "sheets": sheets}
    _publish(name, trajectory, "map", own)


def _running_node() -> Maker:
    """Return page, workflow, node and turn in a list of what is running; None where they are not known."""
    context = get_executing_context()
    if context is None:
        return None
    from server import PromptServer

    running = PromptServer.instance.prompt_queue.currently_running.values()
    extra: dict[str, Any] = next((item[3] for item in running if item[1] == context.prompt_id), {})
    workflow = ((extra.get("extra_pnginfo") or {}).get("workflow") or {}).get("id")
    client = extra.get("client_id")
    return (client, workflow, context.node_id, context.list_index) if client and workflow else None


def _core_forgets() -> bool:
    """Return whether core keeps the outputs of the last prompt only, so that no older view comes back."""
    kept = args.cache_lru or getattr(args, "cache_ram", 0) != 0
    return args.cache_classic or args.cache_none or not kept


def _folder() -> Path:
    return Path(folder_paths.get_temp_directory()) / FOLDER


def _files(name: str) -> list[Path]:
    return list(_folder().glob(f"{name}*"))


def _latents_file(name: str) -> Path:
    return _folder() / f"{name}-latents.npy"


def _views_of(node: Maker) -> list[str]:
    return [name for name, (maker, _) in _kept.items() if node is not None and maker == node]


def _delete(*names: str) -> bool:
    """Delete views and whatever was written of them; return whether there were any."""
    for name in names:
        _kept.pop(name, None)
        _vaes.pop(name, None)
        for path in _files(name):
            with contextlib.suppress(OSError):
                path.unlink()
    return bool(names)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _warning(what: str, error: Exception) -> str:
    """Log that a view or picture could not be written; return the line."""
    line = f"The files of this node's {what} could not be written ({_reason(error)}); its outputs are whole. "
    if isinstance(error, OSError):
        line += "Make room in ComfyUI's temp folder and run again to see it."
    logging.warning("MedTraverse: %s %s", line, folder_paths.get_temp_directory())
    return line


def _save(picture: Image.Image, path: Path, kind: str, **options: Any) -> int:
    """Write a picture and return its bytes; Pillow's own writing hides why a disk refuses it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return path.write_bytes(buffer.getbuffer())


def _write_images(name: str, image: Callable[[int], Any], patients: Sequence[Sequence[int]]) -> int:
    """Write the images of patients, lists of rows, up to a limit; return the number of patients."""

    def write(row: int) -> int:
        return _save(
            Image.fromarray(to_bytes(image(row))), _folder() / f"{name}-{row}.png", "PNG", compress_level=1
        )

    written: set[int] = set()
    size = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for patient, rows in enumerate(patients):
            comfy.model_management.throw_exception_if_processing_interrupted()
            new = sorted(set(rows) - written)
            if patient and (len(written) + len(new) > MOST_IMAGES or size >= MOST_BYTES):
                return patient
            size += sum(pool.map(write, new))
            written.update(new)
    return len(patients)


def _write_sheets(name: str, images: torch.Tensor) -> None:
    for number in range(-(-len(images) // COLUMNS**2)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        sheet = Image.new("RGB", (COLUMNS * SIDE, COLUMNS * SIDE))
        for cell, image in enumerate(images[number * COLUMNS**2 : (number + 1) * COLUMNS**2]):
            picture = Image.fromarray(to_bytes(image)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (cell % COLUMNS * SIDE, cell // COLUMNS * SIDE))
        _save(sheet, _folder() / f"{name}-{number}.jpg", "JPEG", quality=90, comment=NOTICE)


def _attributes(trajectory: Trajectory) -> list[dict[str, Any]]:
    return [
        {"name": name, "colour": colour, "labels": list(labels)}
        for name, colour, labels in zip(trajectory.attributes, trajectory.colours, trajectory.labels)
    ]


def _publish(
    name: str, trajectory: Trajectory, view: str, own: Mapping[str, Any], patients: int | None = None
) -> None:
    """Write the JSON file, last and at once."""
    record = {
        "format": FORMAT,
        "view": view,
        "notice": NOTICE,
        "key": trajectory_key(trajectory),
        "kind": trajectory.kind,
        "neutral": trajectory.neutral,
        "seeds": [seed if seed <= _EXACT else str(seed) for seed in trajectory.seeds[:patients]],
        "attributes": _attributes(trajectory),
        "points": list(trajectory.points),
        "index": trajectory.index[:patients].tolist(),
        **own,
    }
    write_text(_folder() / f"{name}.json", json.dumps(record, separators=(",", ":")))
