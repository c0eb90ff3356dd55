"""Domains: the prompts, attributes and colours of a data set (PAPER settings for CheXpert and ISIC).

A domain is a JSON file. Those of the paper lie in ``medtraverse/domains``; a user's own are read from further
folders.
"""

import json
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .labels import Aliases, plain, position, repeated

SHIPPED = Path(__file__).parent / "domains"


@dataclass(frozen=True)
class Attribute:
    """One attribute of a domain.

    ``prompt`` may contain ``{neutral}``; ``labels`` name the classifier outputs that the attribute should
    raise; ``colour`` is ``#RRGGBB``; ``default`` says whether it is traversed unless others are asked for.
    """

    name: str
    prompt: str
    colour: str = "#444444"
    labels: tuple[str, ...] = ()
    default: bool = True


@dataclass(frozen=True)
class Domain:
    """Prompts and attributes of one data set.

    ``size`` is the image side in pixels; ``aliases`` are other words for labels, the nearest first, by which
    classifiers may call them.
    """

    name: str
    title: str
    size: int
    negative: str
    neutrals: dict[str, str]
    attributes: tuple[Attribute, ...]
    hints: tuple[str, ...] = ()
    aliases: Aliases = field(default_factory=dict)

    def neutral(self, choice: str = "auto") -> tuple[str, str]:
        """Return ``(name, prompt)`` of a neutral.

        ``auto`` is the first. Raises ValueError for an unknown name.
        """
        if choice in ("auto", ""):
            choice = next(iter(self.neutrals))
        if choice not in self.neutrals:
            raise ValueError(
                f"neutral: domain {self.name} has no neutral prompt {choice!r}; "
                f"it has {', '.join(self.neutrals)}."
            )
        return choice, self.neutrals[choice]

    def select(self, names: str = "") -> tuple[Attribute, ...]:
        """Choose attributes.

        Parameters
        ----------
        names : str
            Names separated by commas, in any case. Empty means the domain's defaults.

        Returns
        -------
        tuple of Attribute
            In the order of `names`.

        Raises
        ------
        ValueError
            An unknown or repeated name.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            return tuple(attribute for attribute in self.attributes if attribute.default)
        known = [attribute.name for attribute in self.attributes]
        places = [position(name, known) for name in wanted]
        for name, place in zip(wanted, places):
            if place is None:
                raise ValueError(
                    f"attributes: domain {self.name} has no attribute {name!r}; it has {', '.join(known)}."
                )
        if len(set(places)) < len(places):
            raise ValueError(f"attributes: {names!r} names an attribute twice; name each once.")
        return tuple(self.attributes[place] for place in places if place is not None)

    def prompt(self, attribute: Attribute, neutral: str = "auto") -> str:
        """Return the attribute's prompt over the chosen neutral."""
        return attribute.prompt.replace("{neutral}", self.neutral(neutral)[1])

    def with_size(self, size: int) -> "Domain":
        """Return the same domain at another image side, in pixels."""
        return replace(self, size=int(size))


def parse_attributes(text: str) -> tuple[Attribute, ...]:
    """Read further attributes, one ``name = prompt`` a line, optionally ``name #RRGGBB = prompt``.

    Raises ValueError for a line of another form, or without a name or a prompt.
    """
    attributes = []
    for line in filter(str.strip, text.splitlines()):
        match = re.fullmatch(r"(?P<name>[^=#]*)(?P<colour>#[0-9A-Fa-f]{6}\s*)?=(?P<prompt>.*)", line)
        name, prompt = (match["name"].strip(), match["prompt"].strip()) if match else ("", "")
        if not match or not name or not prompt:
            fault = "has no prompt" if name else "has no name" if prompt else "cannot be read"
            raise ValueError(
                f"extra_attributes: {line.strip()!r} {fault}; "
                "write one 'name = prompt' or 'name #RRGGBB = prompt' a line."
            )
        attributes.append(Attribute(name, prompt, (match["colour"] or "#444444").strip(), (name,)))
    return tuple(attributes)


def check_colour(colour: str, name: str = "colour") -> None:
    """Raises ValueError, naming the input ``name``, unless a colour is ``#RRGGBB``."""
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", colour):
        raise ValueError(f"{name}: {colour!r} is not a colour; write #RRGGBB, such as #CC00CC.")


def read_domain(path: str | os.PathLike[str]) -> Domain:
    """Read one domain file.

    Parameters
    ----------
    path : path
        JSON, UTF-8 with or without a byte order mark; ``medtraverse/domains/chexpert.json`` shows the form.

    Returns
    -------
    Domain

    Raises
    ------
    ValueError
        The file cannot be read, or a field is missing, of another type or empty. The message names file and
        field.
    """
    path = Path(path)
    try:
        return domain_of(json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error}); replace it, or take it out of the folder."
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        fault = f"is no UTF-8 JSON ({error}); mend it, or take it out of the folder."
    except ValueError as error:
        fault = f"{error} medtraverse/domains/chexpert.json shows the form."
    raise ValueError(f"domain file {path.name}: {fault}")


def domain_of(record: Any) -> Domain:
    """Return the domain of a file's record. Raises ValueError that names a field which is wrong."""
    fields = _object(record, "the file")
    name = _name(fields, "name", "name")
    neutrals = {
        _neutral_name(key): _text(value, f"neutrals, {key!r}")
        for key, value in _object(_given(fields, "neutrals"), "neutrals").items()
    }
    attributes = tuple(
        _attribute(item, number)
        for number, item in enumerate(_list(_given(fields, "attributes"), "attributes"), 1)
    )
    if not neutrals or not attributes:
        raise ValueError(f"{'attributes' if neutrals else 'neutrals'}: is empty; give one or more.")
    if twice := repeated([attribute.name for attribute in attributes]):
        raise ValueError(f"attributes: {twice!r} is given twice; give each a name of its own.")
    size = _given(fields, "size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 8 or size % 8:
        raise ValueError(f"size: {size!r} is no image side in pixels; give a multiple of 8, such as 512.")
    return Domain(
        name,
        _text(fields.get("title", name), "title"),
        size,
        _text(fields.get("negative", ""), "negative", empty=True),
        neutrals,
        attributes,
        tuple(_text(hint, "hints") for hint in _list(fields.get("hints", []), "hints")),
        _aliases(
            fields.get("aliases", {}), {label for attribute in attributes for label in attribute.labels}
        ),
    )


def _aliases(value: Any, labels: Collection[str]) -> dict[str, tuple[str, ...]]:
    known = {plain(label) for label in labels}
    aliases = {}
    for label, words in _object(value, "aliases").items():
        if plain(label) not in known:
            raise ValueError(
                f"aliases: {label!r} is no label of an attribute; take one of {', '.join(sorted(labels))}."
            )
        place = f"aliases, {label!r}"
        aliases[label] = tuple(_text(word, place) for word in _list(words, place))
    if twice := repeated(list(aliases)):
        raise ValueError(f"aliases: {twice!r} is given twice; write all its words in one list.")
    return aliases


def _attribute(item: Any, number: int) -> Attribute:
    fields = _object(item, f"attribute {number}")
    name = _name(fields, "name", f"attribute {number}, name")
    if "," in name:
        raise ValueError(f"attribute {number}, name: {name!r} has a comma, which parts names; leave it out.")
    place = f"attribute {name!r}"
    unknown = sorted(set(fields) - {"name", "prompt", "colour", "labels", "default"})
    if unknown:
        raise ValueError(f"{place}: {unknown[0]!r} is no field of an attribute; leave it out.")
    colour = _text(fields.get("colour", "#444444"), f"{place}, colour")
    check_colour(colour, f"{place}, colour")
    default = fields.get("default", True)
    if not isinstance(default, bool):
        raise ValueError(f"{place}, default: {default!r} is neither true nor false; write one of them.")
    labels = _list(fields.get("labels", [name]), f"{place}, labels")
    return Attribute(
        name,
        _text(_given(fields, "prompt", f"{place}, "), f"{place}, prompt"),
        colour,
        tuple(_text(label, f"{place}, labels") for label in labels),
        default,
    )


def _given(fields: dict[str, Any], key: str, place: str = "") -> Any:
    if key not in fields:
        raise ValueError(f"{place}{key}: is missing; add it.")
    return fields[key]


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: {_shown(value)} is no object; write {{…}}.")
    return value


def _list(value: Any, place: str) -> list[Any]:
    # a text would pass for a list of its letters
    if not isinstance(value, list):
        raise ValueError(f"{place}: {_shown(value)} is no list; write it in brackets, […].")
    return value


def _text(value: Any, place: str, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {_shown(value)} is no text; write it in quotes.")
    if not value.strip() and not empty:
        raise ValueError(f"{place}: is empty; write a text.")
    return value


def _name(fields: dict[str, Any], key: str, place: str) -> str:
    name = _text(_given(fields, key, place.removesuffix(key)), place)
    if plain(name) == "auto":
        raise ValueError(f"{place}: {name!r} is what stands for no choice; take another name.")
    return name.strip()


def _neutral_name(name: str) -> str:
    return _name({"": name}, "", f"neutrals, name {name!r}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def load_domains(
    *folders: str | os.PathLike[str], report: Callable[[ValueError], object] | None = None
) -> dict[str, Domain]:
    """Read the shipped domains, then those in `folders`.

    Parameters
    ----------
    folders : paths
        Folders of domain files. A domain in them replaces a shipped one of the same name. One that is not
        there holds none.
    report : callable, optional
        Takes the error of a file that cannot be used, and the file is left out.

    Returns
    -------
    dict of str to Domain
        By name.

    Raises
    ------
    ValueError
        A file cannot be used and there is no `report`.
    """
    domains = {}
    for folder in (SHIPPED, *map(Path, folders)):
        for path in sorted(folder.glob("*.json")):
            try:
                domain = read_domain(path)
            except ValueError as error:
                if report is None:
                    raise
                report(error)
            else:
                domains[domain.name] = domain
    return domains


def guess_domain(domains: dict[str, Domain], name: str) -> Domain:
    """Return the domain whose hints occur in a checkpoint's name.

    Raises ValueError when none, or several, do.

    A hint inside a longer one does not count: ``mimic-cxr`` is MIMIC-CXR, although CheXpert has ``cxr``.
    """
    hints = {
        domain.name: {hint.lower() for hint in domain.hints if hint.lower() in name.lower()}
        for domain in domains.values()
    }
    occurring: set[str] = set().union(*hints.values())
    whole = {hint for hint in occurring if not any(hint != other and hint in other for other in occurring)}
    matches = [domain for domain in domains.values() if hints[domain.name] & whole]
    if len(matches) != 1:
        raise ValueError(
            f"domain: cannot tell the domain from the name {name!r}; choose one of {', '.join(domains)}."
        )
    return matches[0]
