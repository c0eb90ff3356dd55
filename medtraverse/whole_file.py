"""Files that are written whole or not at all.

A reader sees the old one or the new one, and an error leaves the old one.

What is written lies in a hidden folder beside its place until it is complete. So it keeps its own name
there, and with it the suffix by which many writers choose a format.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# How the hidden folder's name begins; one that stays was a killed process's.
UNFINISHED = ".medtraverse-"


@contextmanager
def whole_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Write several files into a folder together: all of them, or none when the block fails.

    Parameters
    ----------
    folder : path
        Made if need be. Files of the same names in it are replaced.

    Yields
    ------
    Path
        An empty folder to write into. Its files move to `folder` when the block ends.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a folder, as mkstemp's files could be read by their owner alone
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as apart:
        yield Path(apart)
        for path in sorted(Path(apart).iterdir()):
            os.replace(path, folder / path.name)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write one file by any function that takes a path: ``with whole_file(path) as part: save(part)``.

    Parameters
    ----------
    path : path
        Where the file shall be. Its folder is made if need be, a file in the way is replaced.

    Yields
    ------
    Path
        Where to write it, under the same name. It moves to `path` when the block ends without an error.
    """
    path = Path(path)
    with whole_files(path.parent) as apart:
        yield apart / path.name


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes to a file, whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text to a file as UTF-8, whole or not at all; line ends stay as they are, on Windows too."""
    write_bytes(path, text.encode("utf-8"))
