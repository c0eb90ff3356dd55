"""Domains: the prompts, attributes and colours of a data set (PAPER settings for CheXpert and ISIC).

A domain is a JSON file. Those of the paper lie in ``medtraverse/domains``; a user's own are read from further folders.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

SHIPPED = Path(__file__).parent / "domains"


@dataclass(frozen=True)
class Attribute:
    """One attribute of a domain.

    ``prompt`` may contain ``{neutral}``; ``labels`` name the classifier outputs that the attribute should raise;
    ``colour`` is ``#RRGGBB``; ``default`` says whether it is traversed unless others are asked for.
    """

    name: str
    prompt: str
    colour: str = "#444444"
    labels: tuple[str, ...] = ()
    default: bool = True


@dataclass(frozen=True)
class Domain:
    """Prompts and attributes of one data set; ``size`` is the image side in pixels."""

    name: str
    title: str
    size: int
    negative: str
    neutrals: dict[str, str]
    attributes: tuple[Attribute, ...]
    hints: tuple[str, ...] = ()

    def neutral(self, choice="auto"):
        """Return ``(name, prompt)`` of a neutral; ``auto`` is the first. Raises ValueError for an unknown name."""
        if choice in ("auto", ""):
            choice = next(iter(self.neutrals))
        if choice not in self.neutrals:
            raise ValueError(
                f"neutral: domain {self.name} has no neutral prompt {choice!r}; it has {', '.join(self.neutrals)}."
            )
        return choice, self.neutrals[choice]

    def select(self, names=""):
        """Return the attributes named in a comma-separated text, in that order; empty means the domain's defaults.

        Raises ValueError for an unknown or repeated name.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            return tuple(attribute for attribute in self.attributes if attribute.default)
        known = {attribute.name.lower(): attribute for attribute in self.attributes}
        for name in wanted:
            if name.lower() not in known:
                listed = ", ".join(attribute.name for attribute in self.attributes)
                raise ValueError(
                    f"attributes: domain {self.name} has no attribute {name!r}; it has {listed}."
                )
        if len({name.lower() for name in wanted}) < len(wanted):
            raise ValueError(f"attributes: {names!r} names an attribute twice; name each once.")
        return tuple(known[name.lower()] for name in wanted)

    def prompt(self, attribute, neutral="auto"):
        """Return the attribute's prompt over the chosen neutral."""
        return attribute.prompt.replace("{neutral}", self.neutral(neutral)[1])

    def with_size(self, size):
        """Return the same domain at another image side, in pixels."""
        return replace(self, size=int(size))


def parse_attributes(text):
    """Read further attributes, one ``name = prompt`` a line, optionally ``name #RRGGBB = prompt``.

    Raises ValueError for a line of another form.
    """
    attributes = []
    for line in filter(str.strip, text.splitlines()):
        match = re.fullmatch(
            r"\s*(?P<name>[^=#]+?)\s*(?P<colour>#[0-9A-Fa-f]{6})?\s*=\s*(?P<prompt>.+?)\s*", line
        )
        if not match:
            raise ValueError(
                f"extra_attributes: cannot read {line.strip()!r}; write one 'name = prompt' or 'name #RRGGBB = prompt' a line."
            )
        name = match["name"]
        attributes.append(Attribute(name, match["prompt"], match["colour"] or "#444444", (name,)))
    return tuple(attributes)


def check_colour(colour, name="colour"):
    """Raises ValueError, naming the input ``name``, unless a colour is ``#RRGGBB``."""
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", colour):
        raise ValueError(f"{name}: {colour!r} is not a colour; write #RRGGBB, such as #CC00CC.")


def read_domain(path):
    """Read one domain file. Raises ValueError that names the file and the field at fault."""
    path = Path(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        attributes = tuple(
            Attribute(**{**item, "labels": tuple(item.get("labels", [item["name"]]))})
            for item in fields["attributes"]
        )
        domain = Domain(
            fields["name"],
            fields.get("title", fields["name"]),
            int(fields["size"]),
            fields.get("negative", ""),
            dict(fields["neutrals"]),
            attributes,
            tuple(fields.get("hints", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"domain file {path.name}: {error!r}; medtraverse/domains/chexpert.json shows the form."
        ) from error
    if not domain.neutrals or not domain.attributes or domain.size % 8:
        raise ValueError(
            f"domain file {path.name}: needs a neutral, an attribute and a size that is a multiple of 8."
        )
    for attribute in attributes:
        check_colour(attribute.colour, f"domain file {path.name}, attribute {attribute.name!r}")
    return domain


def load_domains(*folders, report=None):
    """Return ``{name: Domain}`` of the shipped domains, then those in ``folders`` (which may replace a shipped one).

    Raises ValueError for a file of another form; with ``report`` it is left out and the error handed to ``report``.
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


def guess_domain(domains, name):
    """Return the domain whose hints occur in a checkpoint's name. Raises ValueError when none, or several, do."""
    matches = [
        domain for domain in domains.values() if any(hint.lower() in name.lower() for hint in domain.hints)
    ]
    if len(matches) != 1:
        raise ValueError(
            f"domain: cannot tell the domain from the name {name!r}; choose one of {', '.join(domains)}."
        )
    return matches[0]
