"""Workflow files: found, read, and brought from the browser's format into API format, for a server."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .node_inputs import Record, Spec, default_value, input_specs, is_widget, option_inputs

BUNDLED = Path(__file__).resolve().parents[2] / "workflows"
MUTED, BYPASSED = 2, 4
_FROM_OUTSIDE = "-10"  # a subgraph's own input side, as the origin of links inside it
_NOTES = {"Note", "MarkdownNote"}
_CONTROLS = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
# Nodes in whose `filename_prefix` the browser replaces %Node.widget% and %date:…%, as of frontend 1.47.
_SAVING = {
    "CLIPSave",
    "LoraSave",
    "ModelSave",
    "Save3DAdvanced",
    "SaveAnimatedPNG",
    "SaveAnimatedWEBP",
    "SaveAudio",
    "SaveAudioAdvanced",
    "SaveAudioMP3",
    "SaveAudioOpus",
    "SaveGLB",
    "SaveGaussianSplat",
    "SaveImage",
    "SaveImageAdvanced",
    "SaveLatent",
    "SavePointCloud",
    "SaveSVGNode",
    "SaveVideo",
    "SaveWEBM",
    "VAESave",
}


def bundled() -> dict[str, Path]:
    """The bundled workflows: stem to path. A file for the browser goes before one in API format."""
    return {
        path.stem: path for folder in (BUNDLED / "api", BUNDLED) for path in sorted(folder.glob("*.json"))
    }


def read_workflow(name: str | Path) -> Record:
    """A workflow of either format, from a path or by the bare name of a bundled one.

    Raises
    ------
    ValueError
        There is no such file, or it is no workflow.
    """
    path, known = Path(name), bundled()
    if not path.is_file():
        if str(name) not in known:
            near = get_close_matches(path.stem, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"workflow: there is no file {name}; {hint}bundled are {', '.join(sorted(known)) or 'none'}."
            )
        path = known[str(name)]
    try:
        workflow = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            f"workflow: {path} is no JSON ({error}); save it in ComfyUI by Workflow > Save or Export (API)."
        ) from None
    if isinstance(workflow, dict) and is_api(workflow.get("prompt")):
        workflow = workflow["prompt"]
    if not is_api(workflow) and not (isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)):
        raise ValueError(
            f"workflow: {path} is JSON, but no ComfyUI workflow; save one by Workflow > Save or Export (API)."
        )
    assert isinstance(workflow, dict)
    return workflow


def is_api(workflow: Any) -> bool:
    """Whether this is a graph in API format: node id to {"class_type", "inputs"}."""
    return (
        isinstance(workflow, dict)
        and bool(workflow)
        and all(
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
            for node in workflow.values()
        )
    )


def to_api(workflow: Record, object_info: Record) -> Record:
    """Convert a workflow that the browser saved into API format, as it does on Queue.

    Parameters
    ----------
    workflow : dict
        Of either format: LiteGraph JSON, version 0.4 or 1. One in API format is returned as it is.
    object_info : dict
        The server's `/object_info`: node type to its schema.

    Returns
    -------
    dict
        Node id to {"class_type", "inputs", "_meta"}. Nodes of a subgraph get the id "outer:inner". Muted
        nodes and notes are gone; bypassed nodes, reroutes, primitives, Get and Set nodes are replaced by
        what feeds them.

    Raises
    ------
    ValueError
        Node types that the server lacks (all named, with their pack where the file says it), links in a
        circle, legacy group nodes.
    """
    if is_api(workflow):
        return workflow
    definitions = {one["id"]: one for one in (workflow.get("definitions") or {}).get("subgraphs") or ()}
    root = _Scope(workflow, definitions, object_info)
    nodes = list(root.real_nodes())
    missing = [_missing(scope, node) for scope, node in nodes if node["type"] not in object_info]
    if missing:
        raise ValueError(
            f"workflow: the server lacks nodes: {', '.join(dict.fromkeys(missing))}. "
            "Install their packs (ComfyUI-Manager: Install Missing Custom Nodes) or mute the nodes."
        )
    try:
        graph = {scope.path(node): _api_node(scope, node, object_info[node["type"]]) for scope, node in nodes}
    except RecursionError:
        raise ValueError(
            "workflow: links of reroutes, bypassed nodes or subgraphs run in a circle; take one of them out."
        ) from None
    for node in graph.values():  # as the browser does: links of nodes that are gone
        node["inputs"] = {
            name: value
            for name, value in node["inputs"].items()
            if not isinstance(value, list) or value[0] in graph
        }
    return graph


def _missing(scope: "_Scope", node: Record) -> str:
    if node["type"].startswith(("workflow>", "workflow/")):
        raise ValueError(
            f"workflow: node {scope.path(node)} is a group node ({node['type']}), which ComfyUI gave up; "
            "convert it to a subgraph in the browser, or export in API format."
        )
    pack = (node.get("properties") or {}).get("cnr_id") or (node.get("properties") or {}).get("aux_id")
    return f"{node['type']} (node {scope.path(node)}{f', pack {pack}' if pack else ''})"


def _api_node(scope: "_Scope", node: Record, schema: Record) -> Record:
    values = {
        name: _prompt_text(scope, node, name, value) if _options(spec).get("dynamicPrompts") else value
        for name, (value, spec) in _widget_values(node, schema).items()
    }
    if node["type"] in _SAVING and isinstance(values.get("filename_prefix"), str):
        values["filename_prefix"] = _file_name(scope.root(), values["filename_prefix"])
    inputs = {
        name: {"__value__": value} if isinstance(value, list) else value for name, value in values.items()
    }
    for entry in node.get("inputs") or ():
        source = scope.source_of(entry)
        if source is not None:
            kind, value = source
            inputs[entry["name"]] = (
                value if kind == "link" or not isinstance(value, list) else {"__value__": value}
            )
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": _title(node, schema)}}


def _title(node: Record, schema: Record) -> Any:
    return node.get("title") or schema.get("display_name") or node["type"]


def _widget_values(node: Record, schema: Record) -> dict[str, tuple[Any, Spec]]:
    """A node's own values by input name, from its file, else defaults; each with its spec of the schema."""
    values = node.get("widgets_values") or []
    as_widgets = {entry["widget"].get("name") for entry in node.get("inputs") or () if entry.get("widget")}
    if isinstance(values, dict):
        specs = input_specs(schema)
        defaults = {
            name: default_value(spec) for name, spec in specs.items() if is_widget(name, spec, as_widgets)
        }
        # Packs that save by name have widgets that no schema lists; a dict among them is a preview's state.
        own = {
            name: value
            for name, value in values.items()
            if not isinstance(value, dict) and (name not in specs or name in defaults)
        }
        named = {name: value for name, value in {**defaults, **own}.items() if value is not None}
        return {name: (value, []) for name, value in named.items()}
    taken: dict[str, tuple[Any, Spec]] = {}
    rest = _without_forced(schema, list(values))

    def take(specs: dict[str, Spec]) -> None:
        widgets = [(name, spec) for name, spec in specs.items() if is_widget(name, spec, as_widgets)]
        for number, (name, spec) in enumerate(widgets, 1):
            given = rest.pop(0) if rest else None
            value = default_value(spec) if given is None else given
            if value is not None:
                taken[name] = (_of_today(node, name, value), spec)
            take(option_inputs(name, spec, value))
            if _has_control(name, spec) and rest and _is_control(rest, widgets[number:]):
                rest.pop(0)
                if (spec[0] == "COMBO" or isinstance(spec[0], list)) and rest:
                    rest.pop(0)  # the text that filters the choices

    take(input_specs(schema))
    return taken


def _is_control(rest: list[Any], following: list[tuple[str, Spec]]) -> bool:
    """Whether the first of the values left says what becomes of a seed after a run.

    It is a word; in files of 2023 it is true or false.
    """
    if not isinstance(rest[0], bool):
        return isinstance(rest[0], str) and rest[0] in _CONTROLS
    # the value of a switch that comes next looks the same; then the number of values decides
    return not following or following[0][1][0] != "BOOLEAN" or len(rest) > len(following)


def _of_today(node: Record, name: str, value: Any) -> Any:
    """The samplers' names lost a `sample_` in 2023; the browser drops it from older files."""
    if node["type"] in ("KSampler", "KSamplerAdvanced") and name == "sampler_name" and isinstance(value, str):
        return value.removeprefix("sample_")
    return value


def _file_name(root: "_Scope", text: str) -> str:
    """A file name with %Node.widget% and %date:yyyy-MM-dd% replaced as the browser does.

    What it does not know stays.
    """

    def replaced(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            return _date(parts[0][5:], datetime.now()) if parts[0].startswith("date:") else match[0]
        nodes = list(root.all_nodes())
        named = [node for node in nodes if _name_for_replacing(node) == parts[0]] or [
            node for node in nodes if _title(node, root.object_info.get(node["type"]) or {}) == parts[0]
        ]
        schema = root.object_info.get(named[0]["type"]) if named else None
        values = _widget_values(named[0], schema) if schema else {}
        if parts[1] not in values:
            return match[0]
        return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", _as_browser_text(values[parts[1]][0]))

    return re.sub("%([^%]+)%", replaced, text)


def _name_for_replacing(node: Record) -> Any:
    own = None if node["type"] in _SAVING else node["type"]
    return (node.get("properties") or {}).get("Node name for S&R", own)


def _date(form: str, now: datetime) -> str:
    """The browser's own letters for a date: d, M, h, m, s, doubled for two digits, yy and yyyy."""
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}
    years = {"yy": f"{now.year}"[2:], "yyyy": f"{now.year}"}

    def part(match: re.Match[str]) -> str:
        letter = match[0][0]
        return f"{numbers[letter]:0{len(match[0])}}" if letter in numbers else years.get(match[0], match[0])

    return re.sub("dd?|MM?|hh?|mm?|ss?|yyy?y?", part, form)


def _as_browser_text(value: Any) -> str:
    """A value as JavaScript writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and (value == 0 or 1e-6 <= abs(value) < 1e21):
        number = f"{Decimal(repr(value)):f}"
        return number.removesuffix(".0")
    return str(value)


def _without_forced(schema: Record, values: list[Any]) -> list[Any]:
    """Drop the dummy values that files from before frontend 1.16 hold for forceInputs of a widget's type.

    The count of the values says whether a file has them.
    """
    named = {
        name: spec
        for name, spec in input_specs(schema).items()
        if is_widget(name, spec, ()) or _options(spec).get("forceInput")
    }
    slots = [(spec, part) for name, spec in named.items() for part in range(1 + _has_control(name, spec))]
    if len(slots) != len(values):
        return values
    return [value for (spec, _), value in zip(slots, values) if not _options(spec).get("forceInput")]


def _options(spec: Spec) -> Record:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def _has_control(name: str, spec: Spec) -> bool:
    return bool(
        _options(spec).get("control_after_generate", spec[0] == "INT" and name in ("seed", "noise_seed"))
    )


def _prompt_text(scope: "_Scope", node: Record, name: str, text: Any) -> Any:
    """What the browser makes of a prompt: comments go.

    A choice at random, {a|b}, is refused, so that a run can be repeated.
    """
    if not isinstance(text, str):
        return text
    text = re.sub(r"/\*[\s\S]*?\*/|//.*", "", text)
    if re.search(r"(?<!\\)\{", text):
        raise ValueError(
            f"workflow: {name} of node {scope.path(node)} has a choice in braces, "
            "which the browser settles at random; "
            f"write the words to use, or \\{{ for a brace: {text[:80]!r}."
        )
    return re.sub(r"\\([{}|])", r"\1", text)


def _fits(one: Any, other: Any) -> bool:
    """Whether an output of one type may feed an input of the other; "A,B" is either, "*" any."""
    first, second = ({part.strip().lower() for part in str(kind).split(",")} for kind in (one, other))
    return bool(first & second) or not {"*", "", "0"}.isdisjoint(first | second)


class _Scope:
    """The workflow, or the inside of one subgraph node: its nodes and links, and the way out."""

    def __init__(
        self,
        graph: Record,
        definitions: dict[str, Record],
        object_info: Record,
        outer: "_Scope | None" = None,
        instance: Record | None = None,
    ) -> None:
        self.definition, self.definitions, self.object_info = graph, definitions, object_info
        self.outer, self.instance = outer, instance or {}
        self.prefix = f"{outer.path(self.instance)}:" if outer else ""
        if self.prefix.count(":") > 50:
            raise ValueError("workflow: a subgraph contains itself; open it and take that one out.")
        self.nodes: dict[str, Record] = {str(node["id"]): node for node in graph["nodes"]}
        self.links: dict[Any, tuple[str, int]] = {}
        self.inside: dict[str, _Scope] = {}
        for link in graph.get("links") or ():
            if isinstance(link, dict):
                self.links[link["id"]] = str(link["origin_id"]), link["origin_slot"]
            elif link:
                self.links[link[0]] = str(link[1]), link[2]

    def path(self, node: Record) -> str:
        return f"{self.prefix}{node['id']}"

    def within(self, node: Record) -> "_Scope":
        """The scope inside a subgraph node."""
        key = str(node["id"])
        if key not in self.inside:
            self.inside[key] = _Scope(
                self.definitions[node["type"]], self.definitions, self.object_info, self, node
            )
        return self.inside[key]

    def root(self) -> "_Scope":
        """The workflow itself, from whatever depth."""
        return self.outer.root() if self.outer else self

    def all_nodes(self) -> Iterator[Record]:
        """Every node, muted ones too, subgraphs entered."""
        for node in self.nodes.values():
            yield node
            if node["type"] in self.definitions:
                yield from self.within(node).all_nodes()

    def real_nodes(self) -> Iterator[tuple["_Scope", Record]]:
        """(scope, node) of every node that runs, subgraphs entered."""
        for node in self.nodes.values():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if node["type"] in self.definitions:
                yield from self.within(node).real_nodes()
            elif not self._browser_only(node):
                yield self, node

    def _browser_only(self, node: Record) -> bool:
        if node["type"] in self.object_info:
            return False
        if node["type"] in _NOTES | {"PrimitiveNode", "GetNode", "SetNode"} or node["type"].startswith(
            "Reroute"
        ):
            return True
        # Labels, bookmarks, group switches of packs: unknown to the server, and joined to nothing.
        return not any(entry.get("link") is not None for entry in node.get("inputs") or ()) and not any(
            entry.get("links") for entry in node.get("outputs") or ()
        )

    def source_of(self, entry: Record, kind: Any = None) -> tuple[str, Any] | None:
        """What feeds an input: ("link", [node id, output]), ("value", v), or None."""
        if entry.get("link") is None or entry["link"] not in self.links:
            return None
        return self._from(*self.links[entry["link"]], kind or entry.get("type"))

    def _from(self, origin: str, slot: int, kind: Any) -> tuple[str, Any] | None:
        if origin == _FROM_OUTSIDE and self.outer:
            return self._from_outside(slot)
        node = self.nodes.get(origin)
        if node is None:
            return None
        inputs = node.get("inputs") or []
        if node.get("mode") == BYPASSED:
            index = _bypass(node, slot, kind)
            return None if index is None else self.source_of(inputs[index])
        if node["type"] in self.definitions:
            inner = self.within(node)
            for link in inner.definition["outputs"][slot].get("linkIds") or ():
                return inner._from(*inner.links[link], kind) if link in inner.links else None
            return None
        if node["type"] in self.object_info:
            return "link", [self.path(node), slot]
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values")
            return ("value", values[0]) if values else None
        if node["type"] == "GetNode":
            return self._from_set(node.get("widgets_values"))
        return self.source_of(inputs[0], kind) if inputs else None

    def _from_set(self, name: Any) -> tuple[str, Any] | None:
        for node in self.nodes.values():
            if (
                node["type"] == "SetNode"
                and name
                and node.get("widgets_values", [])[:1] == name[:1]
                and node.get("inputs")
            ):
                return self.source_of(node["inputs"][0])
        return self.outer._from_set(name) if self.outer else None

    def _from_outside(self, slot: int) -> tuple[str, Any] | None:
        assert self.outer
        name = self.definition["inputs"][slot]["name"]
        entry = next((one for one in self.instance.get("inputs") or () if one["name"] == name), None)
        if entry and entry.get("link") is not None:
            return self.outer.source_of(entry)
        value = self._values_on_node().get(name)
        return None if value is None else ("value", value)

    def _values_on_node(self) -> Record:
        """Values set on the subgraph node itself, by the name of its input; others stay as inside."""
        proxies = (self.instance.get("properties") or {}).get("proxyWidgets") or ()
        proxies = json.loads(proxies) if isinstance(proxies, str) else proxies
        names = [name if str(node) == "-1" else None for node, name, *_ in proxies]
        names = names or [one["name"] for one in self.definition.get("inputs") or () if self._is_value(one)]
        values = self.instance.get("widgets_values")
        return {
            name: value
            for name, value in zip(names, values if isinstance(values, list) else ())
            if name is not None
        }

    def _is_value(self, definition_input: Record) -> bool:
        """Whether one of a subgraph's inputs feeds a value inside (a widget), rather than a socket alone."""
        wanted = set(definition_input.get("linkIds") or ())
        for node in self.nodes.values():
            for entry in node.get("inputs") or ():
                if entry.get("link") in wanted and entry.get("widget"):
                    return True
        return False


def _bypass(node: Record, slot: int, kind: Any) -> int | None:
    """The input that a bypassed node hands on for an output, by the browser's rules; None if no type fits."""
    inputs, output = node.get("inputs") or [], node["outputs"][slot].get("type")
    if kind in ("*", "", 0):
        return (slot if slot < len(inputs) else 0) if inputs else None
    types = [one.get("type") for one in inputs]
    if slot < len(types) and _fits(types[slot], output) and _fits(types[slot], kind):
        return slot
    fitting = [index for index, one in enumerate(types) if one == kind] or [
        index for index, one in enumerate(types) if _fits(one, output) and _fits(one, kind)
    ]
    return fitting[0] if fitting else None
