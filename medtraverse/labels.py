"""One rule by which names of labels, attributes and columns are the same, wherever somebody writes them."""

import re
from collections.abc import Sequence


def plain(name: str) -> str:
    """Return a name in small letters, without surrounding space; hyphens and underscores become spaces."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def position(name: str, names: Sequence[str]) -> int | None:
    """Find a name among others.

    Parameters
    ----------
    name : str
    names : sequence of str

    Returns
    -------
    int or None
        Index of the name as it is written, else of the only one that is the same by `plain`; None where
        there is none, or several.
    """
    if name in names:
        return list(names).index(name)
    alike = [index for index, other in enumerate(names) if plain(other) == plain(name)]
    return alike[0] if len(alike) == 1 else None
