"""Images looked at one by one, in several processes: what is wrong, and what makes two the same."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..medical_image import UnreadableImageError, read_medical_image
from ..processors import processors
from .picture import picture_of_bytes

# Few enough that an interrupt is heard within seconds, whatever the size of the images.
_CHUNK = 4
_SIDE = 16
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",), "DICOM": (".dcm", ".dicom", ".dic", ""),
}  # fmt: skip


class Checked(NamedTuple):
    """What is known of an image.

    Attributes
    ----------
    kind, what : str
        What is wrong, "" for nothing: ``missing``, ``truncated``, ``not an image``.
    notes : tuple of (str, str)
        What somebody may want to know, as (kind, what): ``16 bits``, ``other format``, ``one grey value``,
        ``text in the image``.
    size : tuple of int
        Columns and rows.
    digest : str
        Of the pixels.
    ranks : bytes
        256 areas in the order of their brightness: the same where only the contrast differs.
    """

    kind: str = ""
    what: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    ranks: bytes = b""


def check_image(path: str | os.PathLike[str]) -> Checked:
    """Look at one image."""
    from PIL import Image

    path, notes = Path(path), []
    try:
        picture, kind = picture_of_bytes(path)
        if picture is not None:
            bits, burned_in, size = 8, False, picture.size
            digest = hashlib.sha256(picture.tobytes()).hexdigest()
            grey = picture.convert("L")
        else:
            image = read_medical_image(path)
            source, kind = image.source, image.source.format
            bits, burned_in, size = source.bits, source.burned_in, (source.columns, source.rows)
            digest = source.sha256
            plane = image.pixels if image.pixels.ndim == 2 else image.pixels.mean(axis=-1)
            grey = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    except UnreadableImageError as error:
        return Checked(_fault(str(error)), str(error))
    if bits > 8:
        notes.append(("more than 8 bits", f"has {bits} bits a value, which are read in full."))
    if path.suffix.lower() not in _SUFFIXES.get(kind, (path.suffix.lower(),)):
        notes.append(("other format", f"is {kind}, not what its name says; it is read as what it is."))
    values = np.asarray(grey)
    low, high = values.min(), values.max()
    if low == high:
        notes.append(("one grey value", "shows nothing, as all its pixels are the same; leave its row out."))
    if burned_in:
        notes.append(
            (
                "text in the image",
                "has text burned into its pixels, as it says itself; it may name the patient.",
            )
        )
    areas = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).reshape(-1)
    ranks = np.argsort(np.argsort(areas, kind="stable"), kind="stable").astype(np.uint8).tobytes()
    return Checked("", "", tuple(notes), size, f"{size[0]}x{size[1]}-{digest}", ranks if low < high else b"")


def _fault(what: str) -> str:
    if what.startswith(("is not there", "cannot be opened")):
        return "missing"
    return (
        "truncated"
        if "truncated" in what or "cut short" in what or what.startswith("is empty")
        else "not an image"
    )


def check_images(
    root: Path,
    files: Sequence[str],
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> list[Checked]:
    """Look at images in several processes.

    Parameters
    ----------
    root : Path
    files : sequence of str
        N names below it.
    workers : int, optional
        Number of processes; as many as there are processors unless given. 1 looks in this one.
    progress : callable
        Gets images done and N several times a second, and may raise to end the work.

    Returns
    -------
    list of Checked
        In the order of the files.

    Raises
    ------
    ValueError
        A process was killed, or crashed over an image.
    """
    import multiprocessing

    workers = workers or processors()
    if workers < 1:
        raise ValueError(f"workers: {workers} is out of range; give 1 or more.")
    progress(0, len(files))
    if workers == 1 or len(files) <= 2 * _CHUNK:
        checked = []
        for number, file in enumerate(files, 1):
            checked.append(check_image(root / file))
            progress(number, len(files))
        return checked
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    found: list[list[Checked]] = [[] for _ in chunks]
    # spawned: a fork would copy what other threads, of torch among them, hold locked
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_interrupts)
    running: dict[Future[list[Checked]], int] = {}
    sent = done = 0
    try:
        while done < len(files):
            while sent < len(chunks) and len(running) < 3 * workers:
                running[pool.submit(_check, str(root), chunks[sent])] = sent
                sent += 1
            for future in wait(running, timeout=0.3, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                found[number] = future.result()
                done += len(chunks[number])
            progress(done, len(files))
    except BrokenProcessPool as error:
        raise ValueError(
            f"workers: a process ended among images {done} to {done + 3 * workers * _CHUNK}, for want of "
            "memory or over a damaged image; run with --workers 1 to see at which."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [one for chunk in found for one in chunk]


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the first ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(root: str, files: Sequence[str]) -> list[Checked]:
    return [check_image(Path(root, file)) for file in files]
