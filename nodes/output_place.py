"""Where the files of a saving node go: never out of ComfyUI's output folder."""

from typing import Any

import folder_paths


def output_place(prefix: str, width: int, height: int, example: str) -> tuple[str, str, int, str]:
    """Return folder, name, number and subfolder of the next file, as core counts.

    Parameters
    ----------
    prefix : str
        The node's ``filename_prefix``.
    width, height : int
        In pixels; core writes them where the prefix asks for them.
    example : str
        A prefix to name in a message.

    Raises
    ------
    ValueError
        A prefix that is empty, or leads out of the output folder.
    """
    if not prefix.strip():
        raise ValueError(f"filename_prefix: it is empty; give a name such as {example}.")
    place: tuple[Any, ...]
    try:
        place = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    except OSError:
        raise
    except Exception as error:  # core has none of its own for this
        raise ValueError(
            f"filename_prefix: {prefix!r} leads out of ComfyUI's output folder; give a name such as "
            f"{example}."
        ) from error
    folder, name, number, subfolder, _ = place
    return folder, name, number, subfolder
