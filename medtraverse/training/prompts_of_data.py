"""The prompts that a run is judged by, and the domain file that it leaves: both come from the data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..domain import SHIPPED, Domain, load_domains, read_domain
from ..labels import plain
from ..new_domain import MOST_DEFAULTS, new_domain

if TYPE_CHECKING:
    from ..data_sets import DataSet


def domain_to_judge_by(choice: str, data: DataSet, trained: Domain | None) -> Domain | None:
    """Return the domain whose prompts validation draws.

    Parameters
    ----------
    choice : str
        Name of a domain of the pack, or a domain file; empty for the data set's.
    data : DataSet
    trained : Domain or None
        Of `trained_domain`.

    Raises
    ------
    ValueError
        There is no such domain.
    """
    known = load_domains()
    if choice:
        if Path(choice).suffix.lower() == ".json":
            return read_domain(choice)
        named = {plain(name): domain for name, domain in known.items()}
        if plain(choice) not in named:
            raise ValueError(
                f"domain: there is no {choice!r}; give a domain file or one of {', '.join(known)}."
            )
        return named[plain(choice)]
    return packed(data) or trained


def packed(data: DataSet) -> Domain | None:
    """Return the pack's domain of a data set; None where it has none."""
    if not data.domain:
        return None
    known = load_domains()
    file = SHIPPED / f"{data.domain.lower()}.json"
    if data.domain in known:
        return known[data.domain]
    return read_domain(file) if file.is_file() else None


def trained_domain(name: str, data: DataSet, size: int) -> tuple[Domain, dict[str, Any]] | None:
    """Return the domain of a run's own prompts, with the record of its file.

    Prompts are in the words of the captions. Attributes that the pack's domain of the data set has too keep
    its names, colours and labels, and are the ones traversed unless others are asked for. A data set of free
    text has no prompts of its own; the pack's domain serves it, if there is one.

    Parameters
    ----------
    name : str
        Of the domain, and the hint by which the loader finds it.
    data : DataSet
    size : int
        Side of the images, in pixels.
    """
    shipped = packed(data)
    neutrals, attributes = dict(data.neutrals), dict(data.attributes)
    if not neutrals or not attributes:
        if shipped is None:
            return None
        record = new_domain(
            name, shipped.neutrals, shipped.attributes, size, f"{shipped.title}, {name}", hints=[name]
        )
        return replace(shipped.with_size(size), name=name, hints=(name,)), record
    own = {plain(attribute.name): attribute for attribute in shipped.attributes} if shipped else {}
    listed: list[dict[str, Any]] = []
    for label, prompt in attributes.items():
        known = own.get(plain(label))
        # A comma parts names.
        item: dict[str, Any] = {"name": known.name if known else label.replace(",", ""), "prompt": prompt}
        item["labels"] = list(known.labels) if known else [plain(label)]
        if known:
            item["colour"] = known.colour
        if not (known.default if known else not own and len(listed) < MOST_DEFAULTS):
            item["default"] = False
        listed.append(item)
    if not any(item.get("default", True) for item in listed):
        for item in listed[:MOST_DEFAULTS]:
            item.pop("default", None)
    record = new_domain(name, neutrals, listed, size, f"{name}, trained on {data.layout}", hints=[name])
    if shipped and shipped.aliases:
        judged = {plain(label) for item in listed for label in item["labels"]}
        record["aliases"] = {
            label: list(words) for label, words in shipped.aliases.items() if plain(label) in judged
        }
    from ..domain import domain_of

    return domain_of(record), record
