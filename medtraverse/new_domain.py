"""Domain files made from prompts, or from the table of a data set."""

import colorsys
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .captions import STATES
from .domain import Attribute, domain_of, parse_attributes
from .labels import plain, position
from .table import read_csv
from .whole_file import write_text

# Attributes that are traversed unless others are asked for: more make a grid that nobody reads.
MOST_DEFAULTS = 4
LABEL = "{label}"
# What a label table calls its normal images.
NORMAL = ("no finding", "normal", "no findings")
_NAME_COLUMNS = ("name", "attribute", "label")
_COLOURS = (
    "#CC00CC", "#00CC00", "#FF8C00", "#0066CC", "#E00000", "#00B7EB", "#8A6D00",
    "#7A4FD0", "#FF69B4", "#4D7F00", "#006D5B", "#A33B00", "#5A5A5A",
)  # fmt: skip


def parse_neutral(text: str) -> tuple[str, str]:
    """Read ``name = prompt``, or a prompt alone, called ``normal``; ValueError where one is empty."""
    name, equals, prompt = (part.strip() for part in text.partition("="))
    if not equals:
        name, prompt = "normal", text.strip()
    if not name or not prompt:
        raise ValueError(f"neutral: {text!r} has no {'prompt' if name else 'name'}; write 'name = prompt'.")
    return name, prompt


def read_attributes(
    path: str | os.PathLike[str], template: str = "", columns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Read attributes off a table.

    Parameters
    ----------
    path : path
        CSV. Either a row for each attribute, with the columns ``name`` and ``prompt`` and, where wanted,
        ``colour``, ``labels`` (parted by semicolons) and ``default``; or a row for each image and a column
        for each label, as CheXpert's tables are: 1 (present), 0, -1 or blank. Of such a table nothing
        but the names of its columns is taken.
    template : str
        Prompt of a label, for a table of images, such as ``Chest X-ray showing {label}``.
    columns : sequence of str
        Which labels of a table of images; empty means all columns that hold nothing but 1, 0, -1 and blanks
        and have a 1, but for that of normal images.

    Returns
    -------
    list of dict
        As a domain file has them. Of a table of images, the most frequent labels are traversed by default.

    Raises
    ------
    ValueError
        The table cannot be read, has neither form, or lacks a column or the template.
    """
    rows = [cells for _, cells in read_csv(path)]
    if len(rows) < 2:
        raise ValueError(f"{path}: has no rows; give a header and one row or more.")
    header = rows[0]
    prompts = position("prompt", header)
    names = next((place for name in _NAME_COLUMNS if (place := position(name, header)) is not None), None)
    if prompts is not None and names is not None:
        return [_attribute(row, header, names, prompts) for row in rows[1:]]
    return _labels(path, rows, template, columns)


def data_set_prompts(
    folder: str | os.PathLike[str],
    columns: Sequence[str] = (),
    artefacts: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the prompts of a data set in the words of its captions, which a model trained on it knows.

    Parameters
    ----------
    folder : path
        As for `medtraverse.data_sets.read`.
    columns : sequence of str
        Which labels; empty means all that the captions name and that an image has.
    artefacts : path, optional
        As for `medtraverse.data_sets.read`.

    Returns
    -------
    neutrals : dict of str to str
    attributes : list of dict
        As a domain file has them; the most frequent are traversed by default.

    Raises
    ------
    ValueError
        The data set cannot be read, its captions are free text, or it has no such label.
    """
    from .data_sets import listing
    from .data_sets.listing import Options

    listed = listing(folder, options=Options(artefacts=None if artefacts is None else Path(artefacts)))
    if not listed.attributes:
        raise ValueError(
            f"data: the captions of {folder} are free text, which names no attributes; give them by "
            "--attribute."
        )
    used = listed.states[~listed.rows.reason.isin(("no label", "no labels", "neither MEL nor NV"))]
    counts = {name: int((used[name] == 1).sum()) for name in listed.attributes if name in used}
    names = []
    for name in columns or [name for name, count in counts.items() if count]:
        place = position(name, list(counts))
        if place is None:
            raise ValueError(
                f"labels: there is no {name!r}; the captions of {folder} name {', '.join(counts)}."
            )
        names.append(list(counts)[place])
    frequent = sorted(names, key=lambda name: -counts[name])[:MOST_DEFAULTS]
    return listed.neutrals, [
        {
            "name": plain(name),
            "prompt": listed.attributes[name],
            "labels": [plain(name)],
            **({} if name in frequent else {"default": False}),
        }
        for name in names
    ]


def new_domain(
    name: str,
    neutrals: Mapping[str, str],
    attributes: Sequence[Mapping[str, Any] | Attribute],
    size: int = 512,
    title: str = "",
    negative: str = "",
    hints: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the record of a domain file, checked as a file is when it is read.

    Raises ValueError that names the field.
    """
    listed = [_record(item) if isinstance(item, Attribute) else dict(item) for item in attributes]
    used = {item["colour"] for item in listed if "colour" in item}
    for number, item in enumerate(listed):
        if "colour" not in item:
            item["colour"] = next(
                colour for other in itertools.count(number) if (colour := _colour(other)) not in used
            )
            used.add(item["colour"])
    record = {
        "name": name,
        "title": title or name,
        "size": size,
        "negative": negative,
        "neutrals": dict(neutrals),
        "attributes": listed,
        "hints": list(hints),
    }
    domain_of(record)
    return record


def write_domain(record: Mapping[str, Any], out: str | os.PathLike[str]) -> None:
    """Write a domain file, whole or not at all. Raises ValueError where something is there already."""
    out = Path(out)
    if out.suffix.lower() != ".json":
        raise ValueError(f"out: {out.name} does not end in .json; name such a file.")
    if out.exists():
        raise ValueError(f"out: {out} is there already; name another, or remove it.")
    try:
        write_text(out, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); name another place.") from error


def prompted_attributes(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Read ``name = prompt`` or ``name #RRGGBB = prompt``, one an attribute; ValueError for another form."""
    return [_record(item) for line in lines for item in parse_attributes(line)]


def _record(attribute: Attribute) -> dict[str, Any]:
    coloured = attribute.colour != Attribute("", "").colour
    return {
        "name": attribute.name,
        "prompt": attribute.prompt,
        **({"colour": attribute.colour} if coloured else {}),
        "labels": list(attribute.labels),
        **({} if attribute.default else {"default": False}),
    }


def _attribute(row: list[str], header: list[str], names: int, prompts: int) -> dict[str, Any]:
    def cell(name: str) -> str:
        place = position(name, header)
        return "" if place is None else row[place]

    item: dict[str, Any] = {"name": row[names], "prompt": row[prompts]}
    if colour := cell("colour") or cell("color"):
        item["colour"] = colour
    if labels := [label.strip() for label in cell("labels").split(";") if label.strip()]:
        item["labels"] = labels
    if default := cell("default"):
        state = STATES.get(default.lower())
        if state not in (0, 1):
            raise ValueError(f"attribute {row[names]!r}, default: {default!r} is neither true nor false.")
        item["default"] = bool(state)
    return item


def _labels(
    path: str | os.PathLike[str], rows: list[list[str]], template: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    header = rows[0]
    if LABEL not in template:
        raise ValueError(
            f"template: {template!r} has no {LABEL}, and {path} has no columns name and prompt; write the "
            f"prompt of a label, such as 'Chest X-ray showing {LABEL}'."
        )
    counts = {}
    for number, name in enumerate(header):
        states = [STATES.get(row[number].lower(), row[number]) for row in rows[1:]]
        if name and all(state in (1, 0, -1, None) for state in states):
            counts[name] = states.count(1)
    if columns:
        places = [position(name, header) for name in columns]
        for name, place in zip(columns, places):
            if place is None or header[place] not in counts:
                fault = "there is no" if place is None else "more than 1, 0, -1 and blanks are in"
                raise ValueError(
                    f"labels: {fault} column {name!r}; {path} has {', '.join(counts) or 'no labels'}."
                )
        chosen = [header[place] for place in places if place is not None]
    else:
        chosen = [name for name, count in counts.items() if count and plain(name) not in NORMAL]
    if not chosen:
        raise ValueError(
            f"{path}: no column holds labels, 1 for present and 0, -1 or blank otherwise; its columns are "
            f"{', '.join(header)}."
        )
    frequent = sorted(chosen, key=lambda name: -counts[name])[:MOST_DEFAULTS]
    return [
        {
            "name": plain(name),
            "prompt": template.replace(LABEL, re.sub(r"[\s_]+", " ", name).strip()),
            "labels": [plain(name)],
            **({} if name in frequent else {"default": False}),
        }
        for name in chosen
    ]


def _colour(number: int) -> str:
    if number < len(_COLOURS):
        return _COLOURS[number]
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.9, 0.75)  # hues far apart, however many
    return f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"
