"""Frames of a film along curves (the project page's videos; TehraniNasab,
Kumar, Arbel 2025, arXiv 2503.23623).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..notice import NOTICE
from ..pixels import to_bytes, to_numpy
from .sheet import NEUTRAL, check_colours

if TYPE_CHECKING:
    from torch import Tensor

CELL, BORDER, GAP, HEAD, FOOT = 256, 6, 14, 40, 56
PAPER, INK, MUTED = (255, 255, 255), (26, 26, 26), (102, 102, 102)


def film(
    images: "np.ndarray | Tensor", attributes: Sequence[str], colours: Sequence[str], seeds: Sequence[int]
) -> np.ndarray:
    """Draw one picture per frame: a row per patient; its neutral image, then every attribute at that frame.

    Parameters
    ----------
    images : array or tensor [P, A, F, H, W, 3]
        In 0..1, frame 0 the neutral one.
    attributes, colours : sequences, one per attribute
    seeds : sequence, one per patient

    Returns
    -------
    ndarray [F, height, width, 3], float32 in 0..1
        Height and width are even, as video encoders want them. A bar under the pictures shows the curve's
        parameter.

    Raises
    ------
    ValueError
        Images of another shape, or colours that are not as many as the attributes.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = to_numpy(images)
    if images.ndim != 6 or images.shape[-1] != 3:
        raise ValueError(
            f"images: they have shape {list(images.shape)}; give [patients, attributes, frames, H, W, 3]."
        )
    colours = [NEUTRAL, *check_colours(colours, attributes)]
    patients, columns, frames, height, width = images.shape[:5]
    scale = CELL / max(height, width)
    across, down = round(width * scale), round(height * scale)
    step_x, step_y = across + 2 * BORDER + GAP, down + 2 * BORDER + GAP
    wide, high = GAP + (columns + 1) * step_x, HEAD + patients * step_y + FOOT
    size = (wide + wide % 2, high + high % 2)
    label, small = ImageFont.load_default(18), ImageFont.load_default(17)

    empty = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(empty)
    for column, (name, colour) in enumerate(zip(["neutral", *attributes], colours)):
        left = GAP + column * step_x
        draw.text((left + step_x // 2 - GAP // 2, HEAD // 2), name, fill=INK, font=label, anchor="mm")
        for patient in range(patients):
            top = HEAD + patient * step_y
            draw.rectangle(
                (left, top, left + across + 2 * BORDER - 1, top + down + 2 * BORDER - 1), fill=colour
            )
    draw.text((GAP, size[1] - 16), NOTICE, fill=MUTED, font=small, anchor="ls")
    named = ", ".join(map(str, seeds))
    draw.text((size[0] - GAP, size[1] - 16), f"seed {named}", fill=MUTED, font=small, anchor="rs")

    pixels = to_bytes(images)
    result = np.empty((frames, size[1], size[0], 3), np.float32)
    for frame in range(frames):
        picture = empty.copy()
        for patient in range(patients):
            for column in range(columns + 1):
                shown = pixels[patient, max(column - 1, 0), frame if column else 0]
                cell = Image.fromarray(shown).resize((across, down), Image.Resampling.BICUBIC)
                picture.paste(cell, (GAP + column * step_x + BORDER, HEAD + patient * step_y + BORDER))
        end = GAP + (size[0] - 2 * GAP) * frame // max(frames - 1, 1)
        ImageDraw.Draw(picture).rectangle((GAP, size[1] - FOOT + 4, end, size[1] - FOOT + 9), fill=INK)
        result[frame] = np.asarray(picture, np.float32) / 255
    return result
