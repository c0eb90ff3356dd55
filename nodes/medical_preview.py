"""Shows on the page what Load Medical Image will read, before a run: browsers cannot show DICOM."""

import asyncio
import io
import json
from typing import Any

from PIL import Image

from ..medtraverse.medical_image import MedicalImage, UnreadableImageError, Window, fitted, read_medical_image
from ..medtraverse.pixels import to_bytes
from . import medical_files
from .live import running_server

ADDRESS = "/medtraverse/medical_image"
SIDE = 384
_served: set[int] = set()


def serve_previews() -> None:
    """Let ComfyUI's server answer at `ADDRESS`; nothing where no server runs."""
    server = running_server()
    if server is None or id(server) in _served:
        return
    _served.add(id(server))
    from aiohttp import web

    @server.routes.get(ADDRESS)
    async def answer(request: Any) -> Any:
        asked = dict(request.query)
        try:
            picture, told = await asyncio.get_running_loop().run_in_executor(None, preview, asked)
        except ValueError as error:
            # not a status of 4xx: the page would log it as a failure of its own
            return web.Response(text=str(error), headers={"Cache-Control": "no-store"})
        # a header holds ASCII alone
        headers = {"Cache-Control": "no-store", "X-MedTraverse": json.dumps(told)}
        return web.Response(body=picture, content_type="image/png", headers=headers)


def preview(asked: dict[str, str]) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG of what the widgets ask for, and what is told below it.

    Parameters
    ----------
    asked : dict of str
        `file`, `window`, `center`, `width`, `frame`, `first`.

    Returns
    -------
    png : bytes
        At most 384 pixels high or wide.
    told : dict
        `line` says how it was read; `images` how many the choice has.

    Raises
    ------
    ValueError
        As the node would say it.
    """
    choice = asked.get("file", "")
    paths = medical_files.paths_of(choice)
    try:
        window = Window(
            asked.get("window", "automatic"), float(asked.get("center", 0)), float(asked.get("width", 0))
        )
        frame, first = int(asked.get("frame", 1)), int(asked.get("first", 0))
    except ValueError:
        raise ValueError("preview: a number cannot be read; reload the page.") from None
    path = paths[min(max(first, 0), len(paths) - 1) if medical_files.is_folder(choice) else 0]
    try:
        image = _small(read_medical_image(path, window, frame))
    except UnreadableImageError as error:
        raise ValueError(f"file: {choice!r} {error}") from None
    file = io.BytesIO()
    Image.fromarray(to_bytes(image.pixels)).save(file, "PNG")
    return file.getvalue(), {"line": image.source.line(), "images": len(paths)}


def _small(image: MedicalImage) -> MedicalImage:
    """Return an image at the preview's size, its source as it was."""
    rows, columns = image.pixels.shape[:2]
    scale = min(1.0, SIDE / max(rows, columns))
    size = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    return MedicalImage(fitted(image, size)[0].pixels, image.source)
