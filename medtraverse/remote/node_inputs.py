"""What a server's `/object_info` says of a node's inputs, and values for them: NODE.INPUT=VALUE."""

import copy
import json
import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

Record = dict[str, Any]  # an object of JSON: a graph, a node, a schema, options
Spec = list[Any]  # of an input: its type or its choices, then options

_WIDGETS = {
    "INT",
    "FLOAT",
    "STRING",
    "BOOLEAN",
    "COMBO",
    "MARKDOWN",
    "TEXTAREA",
    "COLOR",
    "LOAD_3D",
    "AUDIO_RECORD",
    "WEBCAM",
    "BOUNDING_BOX",
}
_EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def input_specs(schema: Record) -> dict[str, Spec]:
    """Name to spec of a node's inputs, required before optional, in the browser's order."""
    specs: dict[str, Spec] = {}
    for section in ("required", "optional"):
        declared = (schema.get("input") or {}).get(section) or {}
        order = (schema.get("input_order") or {}).get(section) or declared
        specs |= {name: declared[name] for name in [*order, *declared] if name in declared}
    return specs


def is_widget(name: str, spec: Spec, as_widgets: Collection[str] = ()) -> bool:
    """Whether the browser gives an input a value of its own.

    `as_widgets`: names that a saved node marks as such.
    """
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if options.get("forceInput"):
        return False
    kind = options.get("widgetType") or spec[0]
    return (
        isinstance(kind, list)
        or kind in _WIDGETS
        or name in as_widgets
        or str(kind).startswith("COMFY_DYNAMICCOMBO")
    )


def choices(spec: Spec) -> list[Any] | None:
    """The list of a COMBO input, or None where there is none or it is not known (uploads, remote lists)."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if any(key.endswith("_upload") or key == "remote" for key in options):
        return None
    listed = spec[0] if isinstance(spec[0], list) else options.get("options")
    if spec[0] != "COMBO" and not isinstance(spec[0], list):
        listed = (
            [one.get("key") for one in listed or ()]
            if str(spec[0]).startswith("COMFY_DYNAMICCOMBO")
            else None
        )
    return listed or None


def default_value(spec: Spec) -> Any:
    """What the browser puts into a new node's input; None for nothing."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if "default" in options:
        return options["default"]
    listed = spec[0] if isinstance(spec[0], list) else choices(spec)
    return listed[0] if listed else _EMPTY.get(str(options.get("widgetType") or spec[0]))


def option_inputs(name: str, spec: Spec, value: Any) -> dict[str, Spec]:
    """Inputs that a dynamic combo's chosen option adds, named "combo.input"; {} for any other input."""
    if not str(spec[0]).startswith("COMFY_DYNAMICCOMBO"):
        return {}
    chosen: Record = next((one for one in spec[1].get("options") or () if one.get("key") == value), {})
    return {
        f"{name}.{inner}": one for inner, one in input_specs({"input": chosen.get("inputs") or {}}).items()
    }


def set_value(graph: Record, assignment: str, object_info: Record) -> Record:
    """A copy of a graph with one input set.

    Parameters
    ----------
    graph : dict
        API format.
    assignment : str
        "NODE.INPUT=VALUE". NODE: an id, a title or a class type that only one node has. VALUE is read by
        the input's type; a link is replaced by it.
    object_info : dict
        The server's `/object_info`.

    Raises
    ------
    ValueError
        No or several such nodes, no such input, or a value that does not fit, with what would.
    """
    target, equals, text = assignment.partition("=")
    if not equals or "." not in target:
        raise ValueError(f"--set: {assignment!r} is not NODE.INPUT=VALUE, for example Traverse.steps=30.")
    key, name = _target(graph, target)
    node = graph[key]
    specs = input_specs(object_info.get(node["class_type"]) or {})
    for outer, spec in list(specs.items()):
        specs |= option_inputs(outer, spec, node["inputs"].get(outer))
    if name not in specs:
        raise ValueError(
            f"--set: {label(graph, key)} has no input {name!r}; "
            f"{_near(name, specs)}it has {', '.join(specs) or 'none'}."
        )
    graph = copy.deepcopy(graph)
    graph[key]["inputs"][name] = _parse(f"--set: {name} of {label(graph, key)}", text, specs[name])
    return graph


def label(graph: Record, key: Any) -> str:
    """A node in words: its title, class type and id."""
    node = graph.get(str(key)) or {}
    title, kind = title_of(graph, key), node.get("class_type", "unknown")
    return f"{title} (node {key})" if title == kind else f"{title} ({kind}, node {key})"


def title_of(graph: Record, key: Any) -> str:
    """A node's title, or its class type if it has none."""
    node = graph.get(str(key)) or {}
    return str((node.get("_meta") or {}).get("title") or node.get("class_type") or key)


def _target(graph: Record, target: str) -> tuple[str, str]:
    """Node id and input of "NODE.INPUT".

    The last dot divides, unless only an earlier one leaves a node's name before it.
    """
    parts = target.split(".")
    splits = [
        (".".join(parts[:at]).strip(), ".".join(parts[at:]).strip()) for at in range(len(parts) - 1, 0, -1)
    ]
    for node, name in splits:
        keys = _find(graph, node)
        if len(keys) == 1:
            return keys[0], name
        if keys:
            raise ValueError(
                f"--set: {node!r} is {len(keys)} nodes; "
                f"name one by its id: {'; '.join(label(graph, key) for key in keys)}."
            )
    names = dict.fromkeys(name for key in graph for name in (title_of(graph, key), graph[key]["class_type"]))
    raise ValueError(
        f"--set: there is no node {splits[0][0]!r}; {_near(splits[0][0], names)}"
        f"the graph has {'; '.join(label(graph, key) for key in graph)}."
    )


def _find(graph: Record, node: str) -> list[str]:
    if node in graph:
        return [node]
    for fold in (str, str.casefold):
        keys = [
            key for key in graph if fold(node) in (fold(title_of(graph, key)), fold(graph[key]["class_type"]))
        ]
        if keys:
            return keys
    return []


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 3, 0.6)
    return f"did you mean {' or '.join(near)}? " if near else ""


def _parse(what: str, text: str, spec: Spec) -> Any:
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    listed = choices(spec)
    if listed is not None:
        return _choice(what, text, listed, options)
    kind = "COMBO" if isinstance(spec[0], list) else str(options.get("widgetType") or spec[0])
    kinds = {part.strip() for part in kind.split(",")}
    if kinds & {"STRING", "COMBO", "*", "MARKDOWN", "TEXTAREA", "COLOR"}:
        return text
    if kinds & {"INT", "FLOAT"}:
        return _number(what, text, options, "INT" in kinds, "FLOAT" in kinds)
    if "BOOLEAN" in kinds:
        if text.strip().lower() not in _WORDS:
            raise ValueError(f"{what} is {text!r}; give true or false.")
        return _WORDS[text.strip().lower()]
    raise ValueError(f"{what} takes the output of another node ({kind}); it cannot be set to a value.")


def _choice(what: str, text: str, listed: list[Any], options: Record) -> Any:
    if options.get("multiselect") or options.get("multi_select"):
        chosen = (
            json.loads(text) if text.lstrip().startswith("[") else [part.strip() for part in text.split(",")]
        )
        return {"__value__": [_choice(what, str(one), listed, {}) for one in chosen]}
    for one in listed:
        if str(one) == text:
            return one
    shown = [str(one) for one in listed]
    more = f" and {len(shown) - 30} more" if len(shown) > 30 else ""
    raise ValueError(f"{what} is {text!r}; {_near(text, shown)}it can be {', '.join(shown[:30])}{more}.")


def _number(what: str, text: str, options: Record, whole: bool, broken: bool) -> int | float:
    number: int | float | None = None
    for read in (int,) * whole + (float,) * broken:
        try:
            number = read(text)
            break
        except ValueError:
            continue
    if number is None or not math.isfinite(number):
        raise ValueError(f"{what} is {text!r}; give a {'number' if broken else 'whole number'}.")
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    if not low <= number <= high:
        raise ValueError(f"{what} is {text}; it must be from {low} to {high}.")
    return number
