"""Files for the widgets on the canvas: trajectory viewer, latent map, CFRT panel.

They lie in ComfyUI's temp folder, below ``medtraverse``, and a node's ``ui`` names one JSON file; the page loads the rest on demand.
"""

import hashlib
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image

from ..medtraverse.notice import NOTICE
from ..medtraverse.pixels import to_bytes, write_jpeg
from ..medtraverse.whole_file import write_text

FOLDER = "medtraverse"
# Images of one viewer, and thumbnails of one map; further patients are left out, and the widget says so.
MOST_IMAGES, MOST_THUMBNAILS = 3200, 40_000
COLUMNS, SIDE = 10, 96
_AT_ONCE = 64


def trajectory_key(trajectory):
    """Return a digest by which the page knows views of one traversal, whole or in part: settings, kind and the first neutral latent."""
    first = trajectory.latents[trajectory.index[0, 0, 0]].float().contiguous().numpy().tobytes()
    said = json.dumps([trajectory.kind, trajectory.neutral, trajectory.settings], sort_keys=True, default=str)
    return hashlib.sha256(said.encode() + first).hexdigest()[:24]


def trajectory_view(trajectory, images):
    """Write the viewer's files for the images [rows, H, W, 3] of a trajectory; return what goes into ``ui``."""
    trajectory.gather(images)
    return _viewer(trajectory, images, approximate=False)


def latent_view(trajectory):
    """Write the viewer's files for a trajectory that nothing has decoded: latents as ComfyUI's rough preview colours."""
    factors = comfy.latent_formats.SD15()
    if trajectory.latents.shape[1] != len(factors.latent_rgb_factors):
        return {}
    colours = torch.tensor(factors.latent_rgb_factors).float()
    images = (torch.einsum("nchw,cd->nhwd", trajectory.latents.float(), colours) + 1) / 2
    return _viewer(trajectory, images, approximate=True)


def map_view(trajectory, coordinates, perplexity, seed, images=None):
    """Write the latent map's files: ``coordinates`` [rows, 2] as JSON, thumbnails of ``images`` on sheets of a hundred."""
    name, sheets = _name(), None
    if images is not None and len(images) <= MOST_THUMBNAILS:
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
    return _publish(
        name, trajectory, "map", {"x": x, "y": y, "perplexity": perplexity, "seed": seed, "sheets": sheets}
    )


def cfrt_view(evaluation, published):
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
    own = {
        "labels": list(evaluation.labels),
        "probabilities": probabilities.round(5).tolist(),
        "far": list(evaluation.far),
        "results": results,
    }
    return _publish(_name(), trajectory, "cfrt", own)


def _viewer(trajectory, images, approximate):
    shown = trajectory.index
    while len(shown) > 1 and len(shown.unique()) > MOST_IMAGES:
        shown = shown[: max(1, len(shown) * MOST_IMAGES // len(shown.unique()))]
    name = _name()
    _write_images(name, images, shown.unique().tolist())
    height, width = images.shape[1:3]
    place = {"subfolder": FOLDER, "type": "temp", "prefix": f"{name}-", "suffix": ".png"}
    own = {
        "size": [width, height],
        "images": place,
        "approximate": approximate,
        "left_out": trajectory.patients - len(shown),
    }
    return _publish(name, trajectory, "trajectory", own, len(shown))


def _name():
    _folder().mkdir(parents=True, exist_ok=True)
    return uuid.uuid4().hex[:16]


def _folder():
    return Path(folder_paths.get_temp_directory()) / FOLDER


def _write_images(name, images, rows):
    def write(row):
        Image.fromarray(to_bytes(images[row])).save(_folder() / f"{name}-{row}.png", compress_level=1)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            list(pool.map(write, rows[start : start + _AT_ONCE]))


def _write_sheets(name, images):
    for number in range(-(-len(images) // COLUMNS**2)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        sheet = Image.new("RGB", (COLUMNS * SIDE, COLUMNS * SIDE))
        for cell, image in enumerate(images[number * COLUMNS**2 : (number + 1) * COLUMNS**2]):
            picture = Image.fromarray(to_bytes(image)).resize((SIDE, SIDE), Image.LANCZOS)
            sheet.paste(picture, (cell % COLUMNS * SIDE, cell // COLUMNS * SIDE))
        write_jpeg(sheet, _folder() / f"{name}-{number}.jpg", 90)


def _publish(name, trajectory, view, own, patients=None):
    """Write the JSON file, last and at once; return ``{"medtraverse_view": …}`` for ``ui``."""
    attributes = [
        {"name": attribute, "colour": colour, "labels": list(labels)}
        for attribute, colour, labels in zip(trajectory.attributes, trajectory.colours, trajectory.labels)
    ]
    record = {
        "format": 1,
        "view": view,
        "notice": NOTICE,
        "key": trajectory_key(trajectory),
        "kind": trajectory.kind,
        "neutral": trajectory.neutral,
        "seeds": list(trajectory.seeds[:patients]),
        "attributes": attributes,
        "points": list(trajectory.points),
        "index": trajectory.index[:patients].tolist(),
        **own,
    }
    path = _folder() / f"{name}.json"
    write_text(path, json.dumps(record, separators=(",", ":")))
    return {"medtraverse_view": [{"filename": path.name, "subfolder": FOLDER, "type": "temp"}]}
