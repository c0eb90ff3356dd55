"""One rule by which names of labels, attributes and columns are the same, wherever somebody writes them."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

Aliases = Mapping[str, Sequence[str]]
NO_ALIASES: Aliases = MappingProxyType({})


def plain(name: str) -> str:
    """Return a name in small letters, without surrounding space; hyphens and underscores become spaces."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def position(name: str, names: Sequence[str], aliases: Aliases = NO_ALIASES) -> int | None:
    """Find a name among others.

    Parameters
    ----------
    name : str
    names : sequence of str
    aliases : mapping of str to sequence of str
        Other words for a name, the nearest first. They are looked for where the name itself is not there.

    Returns
    -------
    int or None
        Index of the name as it is written, else of the only one that is the same by `plain`, else that of the
        first alias that is there; None where there is none, or where several are the same.
    """
    if name in names:
        return list(names).index(name)
    words = [name, *(alias for key in aliases if plain(key) == plain(name) for alias in aliases[key])]
    for word in words:
        alike = [index for index, other in enumerate(names) if plain(other) == plain(word)]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def repeated(names: Sequence[str]) -> str | None:
    """Return a name that stands twice, by `plain`; None where there is none."""
    keys = [plain(name) for name in names]
    return next((name for name, key in zip(names, keys) if keys.count(key) > 1), None)
